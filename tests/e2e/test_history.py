"""Jobs whose retention in Redis has passed: nothing of them is left there, and everything is in the history."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aioredis

from tests.support.engine import Api, app_environment
from tests.support.polling import eventually_async
from tests.support.processes import Facade, Orchestrator, Processes, clean_environment
from tests.support.servers import Broker

pytestmark = pytest.mark.timeout(600)

CLIENTS = """
[acme]
token = "token-of-acme-0000000"
"""


def _cli(env: Mapping[str, str], *words: str) -> tuple[int, Any]:
    argv = [sys.executable, "-m", "avtomatika", *words, "--json"]
    done = subprocess.run(argv, env={**clean_environment(), **env}, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout)


async def _all_of(client: aioredis.Redis, namespace: str) -> str:
    """Everything that Redis holds in a namespace, as one text."""
    found: list[Any] = []
    async for key in client.scan_iter(match=f"{namespace}*", count=1000):
        found.append(key)
        match await client.type(key):
            case "hash":
                found.append(await client.hgetall(key))
            case "set":
                found.append(await client.smembers(key))
            case "zset":
                found.append(await client.zrange(key, 0, -1))
            case "list":
                found.append(await client.lrange(key, 0, -1))
            case "stream":
                found.append(await client.xrange(key))
            case "string":
                found.append(await client.get(key))
    return str(found)


async def test_an_expired_job_is_in_the_history_alone(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "clients.toml").write_text(CLIENTS)
    env = {
        **redis_broker.env,
        **app_environment("api"),
        "HISTORY_DATABASE_URI": f"sqlite:///{tmp_path / 'history.sqlite3'}",
        "JOB_RETENTION_SECONDS": "3",
        "CLIENTS_CONFIG_PATH": str(tmp_path / "clients.toml"),
    }
    processes.make(Orchestrator, env=env, node=f"orchestrator@{env['NAMESPACE']}", wait=False)
    facade = processes.make(Facade, env=env, wait=False)
    processes.wait_ready()
    async with Api(facade.url, facade.token) as api, Api(facade.url, "token-of-acme-0000000") as acme:
        ids = [await api.create("echo", {"n": number}) for number in range(8)]
        ids.append(await acme.create("echo", {"n": 8}))
        asked = await api.create("ask", {})
        await eventually_async(lambda: _waits(api, asked))
        await api.post(f"/api/v1/jobs/{asked}/decide", {"decision": "approved", "comment": "fine"})
        ids.append(asked)
        redis = aioredis.Redis.from_url(redis_broker.redis.url, decode_responses=True)

        async def nothing_left() -> bool:
            held = await _all_of(redis, env["NAMESPACE"])
            return not any(job_id in held for job_id in ids)

        await eventually_async(nothing_left)
        await redis.aclose()

        # The views, the events, the lists and the counts come from SQL, to whom they belong.
        job = await api.job(ids[3])
        assert (job["status"], job["result"], job["initial_data"], job["progress"]) == ("finished", {"n": 3}, {"n": 3}, 1.0)
        events = await api.get(f"/api/v1/jobs/{asked}/history")
        assert [event["event_type"] for event in events] == [
            "job_created",
            "approval_requested",
            "approval_decided",
            "job_finished",
        ]
        assert [event["id"] for event in await _live(facade, asked)] == [event["id"] for event in events]
        assert [item["id"] for item in (await api.get("/api/v1/jobs"))["jobs"]] == ids[::-1]
        first = await api.get("/api/v1/jobs", limit="3", blueprint="echo")
        second = await api.get("/api/v1/jobs", limit="3", blueprint="echo", cursor=first["next_cursor"])
        assert [item["id"] for page in (first, second) for item in page["jobs"]] == ids[8:2:-1]
        assert [item["id"] for item in (await acme.get("/api/v1/jobs"))["jobs"]] == [ids[8]]
        assert (await acme.job(ids[8]))["result"] == {"n": 8}
        assert await _status(acme, "get", f"/api/v1/jobs/{ids[0]}") == 404
        assert await _status(acme, "get", f"/api/v1/jobs/{ids[0]}/history") == 404
        assert await _status(api, "post", f"/api/v1/jobs/{ids[0]}/cancel") == 409
        assert await _status(api, "post", f"/api/v1/jobs/{ids[0]}/retry") == 409

    reached = {"AVTOMATIKA_URL": facade.url, "CLIENT_TOKEN": facade.token}
    code, stats = _cli(reached, "history", "stats")
    assert (code, {group["key"]: group["count"] for group in stats["groups"]}) == (0, {"echo": 9, "ask": 1})
    assert _cli(env, "history", "verify") == (0, {"jobs": 10, "events": 22, "problems": []})


async def _waits(api: Api, job_id: str) -> bool:
    return bool((await api.job(job_id))["status"] == "waiting_for_human")


async def _status(api: Api, method: str, path: str) -> int:
    try:
        await (api.get(path) if method == "get" else api.post(path, {}))
    except aiohttp.ClientResponseError as exc:
        return exc.status
    return 200


async def _live(facade: Facade, job_id: str) -> list[dict[str, Any]]:
    headers = {"X-Avtomatika-Token": facade.token}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{facade.url}/api/v1/jobs/{job_id}/events") as found,
    ):
        return [json.loads(line[6:]) for line in (await found.text()).splitlines() if line.startswith("data: ")]
