"""What a submit is compared with: an aiohttp handler that reads a JSON body and makes one EVAL."""

from __future__ import annotations

import json
import os
import sys
import uuid

import redis.asyncio as aioredis
from aiohttp import web

from avtomatika.loops import new_event_loop

STORE = """
redis.call('HSET', KEYS[1], 'v', 0, 's', 'pending', 'd', ARGV[1])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
return 1
"""


def make_app() -> web.Application:
    client = aioredis.Redis.from_url(os.environ["REDIS_URL"])

    async def create(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        job_id = str(uuid.uuid4())
        await client.eval(STORE, 2, f"bare:job:{job_id}", "bare:jobs", json.dumps(body), job_id)
        return web.json_response({"status": "accepted", "job_id": job_id}, status=202)

    app = web.Application()
    app.router.add_post("/api/v1/jobs", create)
    return app


if __name__ == "__main__":
    # As aiohttp runs by itself, or (`uvloop`) on the loop that the facade runs on.
    loop = new_event_loop() if "uvloop" in sys.argv else None
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=loop)
