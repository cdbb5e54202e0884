"""Jobs that the facade accepts in a second, beside a bare aiohttp handler with one EVAL on the same Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Iterator

from benchmarks.load import per_second, request_of
from benchmarks.support import HERE, free_port, private_redis, server_process

ROUNDS = 6
REQUESTS = 3000
CONNECTIONS = 16
TOKEN = "benchmark-token-of-the-client"
BODY = json.dumps({"blueprint": "one", "initial_data": {"name": "a photograph", "sizes": [128, 256, 512], "nested": {"a": 1}}})


@contextlib.contextmanager
def _servers(redis_url: str) -> Iterator[tuple[int, int, int]]:
    """Ports: the bare handler as aiohttp runs by itself, the same on uvloop, the facade."""
    bare, quick, facade = (free_port() for _ in range(3))
    bare_server = [sys.executable, str(HERE / "apps" / "bare_server.py")]
    env = {
        "REDIS_URL": redis_url,
        "BROKER_URL": redis_url,
        "CLIENT_TOKEN": TOKEN,
        "API_PORT": str(facade),
        "RATE_LIMIT": "1000000",
        "BLUEPRINTS_DIR": str(HERE / "apps" / "engine" / "blueprints"),
        "WORKERS_DIR": str(HERE / "apps" / "engine" / "workers"),
    }
    with (
        server_process([*bare_server, str(bare)], bare, env),
        server_process([*bare_server, str(quick), "uvloop"], quick, env),
        server_process([sys.executable, "-m", "avtomatika", "server"], facade, env),
    ):
        yield bare, quick, facade


async def _measure(redis_url: str) -> None:
    body = BODY.replace('"one"', json.dumps(os.environ.get("BENCH_BLUEPRINT", "three_steps"))).encode()
    request = request_of("/api/v1/jobs", body, X_Avtomatika_Token=TOKEN)
    with _servers(redis_url) as (bare, quick, facade):
        for port in (bare, quick, facade):
            await per_second(port, request, 500, CONNECTIONS, b"HTTP/1.1 202")
        ratios: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            ours, theirs, quickest = [
                await per_second(port, request, REQUESTS, CONNECTIONS, b"HTTP/1.1 202") for port in (facade, bare, quick)
            ]
            ratios.append((ours / theirs, ours / quickest))
            print(f"  facade {ours:6.0f} jobs/s   bare {theirs:6.0f} requests/s   bare on uvloop {quickest:6.0f} requests/s")
        plain, uvloop = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(
            f"submit: {plain:.2f} of a bare aiohttp handler with one EVAL (at least 0.4 is wanted), {uvloop:.2f} of one on uvloop"
        )


def main() -> None:
    with private_redis() as url:
        asyncio.run(_measure(url))


if __name__ == "__main__":
    main()
