"""Two facades on one Redis count requests and attempts together; each reads its files again on SIGHUP."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import aiohttp
import pytest
import redis

from tests.support.polling import eventually
from tests.support.processes import Facade, Processes
from tests.support.servers import Broker, RedisServer

from .test_facade_security import BLUEPRINT

ACME = {"X-Client-Token": "a-token-of-acme-inc"}


class Two:
    """Two facades, asked in turn."""

    def __init__(self, processes: Processes, env: dict[str, str], directory: Path) -> None:
        (directory / "blueprints").mkdir()
        (directory / "blueprints" / "hello.py").write_text(BLUEPRINT)
        self.clients = directory / "clients.toml"
        self.env = {**env, "BLUEPRINTS_DIR": str(directory / "blueprints"), "CLIENTS_CONFIG_PATH": str(self.clients)}
        self.processes = processes
        self.facades: list[Facade] = []

    def start(self, text: str, **env: str) -> None:
        self.clients.write_text(text)
        for _ in range(2):
            self.facades.append(self.processes.make(Facade, env={**self.env, **env}, wait=False))
        self.processes.wait_ready()

    async def ask(self, count: int, method: str, path: str, **options: object) -> list[tuple[int, str]]:
        """(status, Retry-After) of so many calls at the same time, every other one to the other facade."""
        async with aiohttp.ClientSession(headers=ACME) as session:

            async def one(number: int) -> tuple[int, str]:
                url = self.facades[number % 2].url + path
                async with session.request(method, url, **options) as response:  # type: ignore[arg-type]
                    await response.read()
                    return response.status, response.headers.get("Retry-After", "")

            return await asyncio.gather(*(one(number) for number in range(count)))


@pytest.fixture
def two(processes: Processes, redis_broker: Broker, tmp_path: Path) -> Two:
    return Two(processes, redis_broker.env, tmp_path)


TABLE = '[acme]\ntoken = "a-token-of-acme-inc"\n'


async def test_the_rate_limit_holds_over_both(two: Two) -> None:
    two.start(TABLE, RATE_LIMIT="5")
    began = time.time()

    answers = await two.ask(80, "GET", "/api/v1/blueprints")

    took = time.time() - began
    passed = [status for status, _ in answers if status == 200]
    assert {status for status, _ in answers} == {200, 429}
    assert 10 <= len(passed) <= 10 + 5 * took + 1
    assert all(int(after) >= 1 for status, after in answers if status == 429)


async def test_the_quota_is_exact_over_both(two: Two, redis_broker: Broker) -> None:
    two.start(TABLE + "monthly_attempts = 25\n", RATE_LIMITING_ENABLED="false")

    assert [status for status, _ in await two.ask(6, "POST", "/api/v1/hello", data=b"no json")] == [400] * 6
    assert [status for status, _ in await two.ask(6, "POST", "/api/v1/jobs", json={"blueprint": "nope"})] == [404] * 6
    repeats = await two.ask(10, "POST", "/api/v1/hello", json={}, headers={"Idempotency-Key": "once"})
    assert [status for status, _ in repeats] == [202] * 10
    answers = await two.ask(60, "POST", "/api/v1/hello", json={})

    assert sorted(status for status, _ in answers) == [202] * 24 + [429] * 36
    assert all(int(after) >= 1 for status, after in answers if status == 429)
    again = await two.ask(10, "POST", "/api/v1/hello", json={}, headers={"Idempotency-Key": "once"})
    assert [status for status, _ in again] == [202] * 10
    other = await two.ask(2, "POST", "/api/v1/hello", json={"n": 1}, headers={"Idempotency-Key": "once"})
    assert [status for status, _ in other] == [409] * 2
    racing = await two.ask(10, "POST", "/api/v1/hello", json={}, headers={"Idempotency-Key": "new"})
    assert [status for status, _ in racing] == [429] * 10
    with redis_broker.redis.client() as client:
        assert client.zcard(f"{redis_broker.namespace}:jobs") == 25


async def test_a_changed_file_is_read_by_both(two: Two) -> None:
    two.start(TABLE)
    assert [status for status, _ in await two.ask(2, "GET", "/api/v1/jobs")] == [200, 200]

    two.clients.write_text("[acme]\ntoken = 1\n")
    for facade in two.facades:
        facade.signal(signal.SIGHUP)
        facade.wait_for_log("clients.toml:2: ")
    assert [status for status, _ in await two.ask(2, "GET", "/api/v1/jobs")] == [200, 200]

    two.clients.write_text('[acme]\ntoken = "another-token-of-acme"\n')
    await asyncio.to_thread(eventually, lambda: asyncio.run(_all_refused(two)), what="both facades to refuse the old token")


async def _all_refused(two: Two) -> bool:
    return [status for status, _ in await two.ask(2, "GET", "/api/v1/jobs")] == [401, 401]


async def test_no_store_no_answer(two: Two, own_redis: RedisServer) -> None:
    two.env |= {"REDIS_URL": own_redis.url, "BROKER_URL": own_redis.url}
    two.start(TABLE + "monthly_attempts = 25\n")
    assert [status for status, _ in await two.ask(2, "POST", "/api/v1/hello", json={})] == [202, 202]

    own_redis.kill()
    with pytest.raises(redis.exceptions.ConnectionError), own_redis.client() as client:
        client.ping()

    for method, path in (("POST", "/api/v1/hello"), ("GET", "/api/v1/blueprints")):
        answers = await two.ask(2, method, path, json={})
        assert [(status, int(after) >= 1) for status, after in answers] == [(503, True)] * 2
