"""`avtomatika.client` against a facade, and against servers that misbehave. Every test runs with both clients."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from avtomatika.client import AsyncClient, Client, EventView, JobView, ProgressView, Retries, calls
from avtomatika.client.retries import MAX_ASKED, may_repeat
from avtomatika.errors import (
    ApiError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    FacadeUnavailableError,
    JobFailedError,
    NotAllowedError,
    NotFoundError,
    TooManyRequestsError,
    WaitTimeoutError,
)
from avtomatika.jobs import Job, JobStatus
from avtomatika.state.base import Reputation
from tests.support.polling import eventually_async
from tests.support.records import a_job, a_worker, an_event, change, creation

from .conftest import TOKEN, StoringService

QUICK = Retries(attempts=4, base=0.01, cap=0.02)
Facade = TestClient[Any, Any]


class Both:
    """One client of either kind, called alike."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client: Any = client

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method; the items of an iterator come as a list."""
        method = getattr(self.client, name)
        if isinstance(self.client, Client):
            return await asyncio.to_thread(lambda: _all(method(*args, **kwargs)))
        answer = method(*args, **kwargs)
        return [item async for item in answer] if inspect.isasyncgen(answer) else await answer

    async def close(self) -> None:
        if isinstance(self.client, Client):
            self.client.close()
        else:
            await self.client.aclose()


def _all(answer: Any) -> Any:
    return list(answer) if hasattr(answer, "__next__") else answer


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Both]]:
    opened: list[Both] = []

    def make(url: object, token: str = TOKEN, **options: Any) -> Both:
        opened.append(Both(request.param(str(url), token, **{"retries": QUICK, **options})))
        return opened[-1]

    yield make
    for both in opened:
        await both.close()


@pytest.fixture
def client(facade: Facade, connect: Callable[..., Both]) -> Both:
    return connect(facade.make_url("/"))


async def _ended(service: StoringService, status: JobStatus = JobStatus.FINISHED, **fields: Any) -> Job:
    job = a_job(status=status, **fields)
    await service.store.commit(creation(job, events=(an_event(job, event_type="job_created"),)))
    return job


# --- Calls ---------------------------------------------------------------------------------------------------------------------


async def test_submit_and_get(client: Both, service: StoringService) -> None:
    job_id = await client("submit", "hello", {"name": "Ada"}, priority=3, tags=["x"])

    job: JobView = await client("get", job_id)

    assert (job.id, job.blueprint_name, job.status, job.initial_data) == (job_id, "hello", JobStatus.PENDING, {"name": "Ada"})
    assert (job.priority, job.tags, job.is_terminal, job.is_finished) == (3.0, ("x",), False, False)
    assert job.created_at is not None
    assert job.client == "default"  # a field of no declared name is kept
    with pytest.raises(ValueError, match="frozen"):
        job.status = JobStatus.FAILED  # type: ignore[misc]


async def test_the_same_key_gives_the_same_job_and_none_a_new_one(client: Both) -> None:
    first = await client("submit", "hello", {"n": 1}, idempotency_key="k")

    assert await client("submit", "hello", {"n": 1}, idempotency_key="k") == first
    assert await client("submit", "hello", {"n": 1}) != first
    with pytest.raises(ConflictError) as caught:
        await client("submit", "hello", {"n": 2}, idempotency_key="k")
    assert caught.value.status == 409


async def test_list_reads_all_pages(client: Both, service: StoringService) -> None:
    jobs = [await _ended(service, created_at=1000.0 + n // 2, tags=("odd",) if n % 2 else ()) for n in range(7)]

    listed = [job.id for job in await client("list", page_size=2)]
    assert sorted(listed) == sorted(job.id for job in jobs)
    assert listed[0] == jobs[6].id
    assert {job.id for job in await client("list", tag="odd", page_size=2)} == {job.id for job in jobs[1::2]}
    assert await client("list", status="failed") == []
    assert len(await client("list", since=1002.0)) == 3


async def test_what_else_can_be_asked(client: Both, service: StoringService) -> None:
    await service.store.register(a_worker(capabilities={"gpu": 1}, supported_tasks=("draw",)), time.time(), 60)
    await service.store.set_reputation("w1", Reputation(0.5, 20))
    job = await _ended(service)

    [event] = await client("history", job.id)
    assert (event.event_type, event.id, event.details) == ("job_created", f"{job.id}:0:0", {})
    assert [item.name for item in await client("blueprints")] == ["hello", "inner"]
    assert "digraph" in await client("graph", "hello")
    assert await client("graph", "hello", format="json")
    [worker] = await client("workers")
    assert (worker.worker_id, worker.limits, worker.reputation) == ("w1", {"gpu": 1}, 0.5)


async def test_decide(client: Both, service: StoringService) -> None:
    job = await _ended(service, JobStatus.WAITING_FOR_HUMAN)

    assert await client("decide", job.id, "approved", "looks good") == "approval_received"
    assert service.decisions == [(job.id, "approved", "looks good", "default")]


@pytest.mark.parametrize(
    ("name", "args", "error", "words"),
    [
        ("get", ["nope"], NotFoundError, "unknown job 'nope'"),
        ("get", ["a/../b?c"], NotFoundError, "unknown job"),
        ("history", ["nope"], NotFoundError, "unknown job"),
        ("watch", ["nope"], NotFoundError, "unknown job"),
        ("wait", ["nope"], NotFoundError, "unknown job"),
        ("submit", ["nope"], NotFoundError, "unknown blueprint 'nope'; known: hello, inner"),
        ("graph", ["hello", "png"], BadRequestError, "format: Input should be 'dot'"),
        ("submit", ["hello", {"x": "y" * 20_000}], BadRequestError, "BODY_LIMIT_MB"),
    ],
)
async def test_refusals(client: Both, name: str, args: list[Any], error: type[ApiError], words: str) -> None:
    with pytest.raises(error, match=words):
        await client(name, *args)


async def test_a_wrong_token(facade: Facade, connect: Callable[..., Both]) -> None:
    for name, args in (("dashboard", []), ("watch", ["x"])):
        with pytest.raises(NotAllowedError, match="not known"):
            await connect(facade.make_url("/"), "wrong")(name, *args)


# --- Waiting and watching ------------------------------------------------------------------------------------------------------


async def _go_on(service: StoringService, job_id: str, *events: str, **fields: Any) -> None:
    job = await service.store.load(job_id)
    assert job is not None
    happened = tuple(an_event(job, n, event_type=name, id=f"{job_id}:{job.version + 1}:{n}") for n, name in enumerate(events))
    assert (await service.store.commit(change(job, {"events": happened}, **fields))).applied


async def test_waiting_for_the_end(client: Both, service: StoringService) -> None:
    job_id = await client("submit", "hello")
    waiting = asyncio.ensure_future(client("wait", job_id, 30))
    await _go_on(service, job_id, "transition")
    await _go_on(service, job_id, "job_finished", status=JobStatus.FINISHED, result={"n": 1})

    assert (await waiting).result == {"n": 1}
    assert await client("result", job_id) == {"n": 1}


async def test_waiting_in_vain(client: Both) -> None:
    job_id = await client("submit", "hello")
    with pytest.raises(WaitTimeoutError, match=f"{job_id} .*0.1 s; it goes on"):
        await client("wait", job_id, 0.1)
    with pytest.raises(TimeoutError):
        await client("result", job_id, 0.05)


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUARANTINED])
async def test_the_result_of_a_job_that_did_not_finish(client: Both, service: StoringService, status: JobStatus) -> None:
    job = await _ended(service, status, error_message="it broke")
    assert (await client("wait", job.id)).status is status
    with pytest.raises(JobFailedError, match=f"{job.id} is {status}: it broke") as caught:
        await client("result", job.id)
    assert caught.value.job.error_message == "it broke"


async def test_watching_to_the_end(client: Both, service: StoringService) -> None:
    job_id = await client("submit", "hello")
    watching = asyncio.ensure_future(client("watch", job_id))
    await _go_on(service, job_id, "transition", current_state="next")
    await _go_on(service, job_id, "job_failed", status=JobStatus.FAILED)

    seen = await watching

    assert [event.event_type for event in seen] == ["job_created", "transition", "job_failed"]
    again = await client("watch", job_id, seen[0].id)
    assert again == seen[1:]


# --- Servers that misbehave ----------------------------------------------------------------------------------------------------


class Moody:
    """A server that answers a path's requests one after the other as it is told; the last answer stays."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.moods: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.requests.append(request)
        mood = self.moods.pop(0) if len(self.moods) > 1 else self.moods[0]
        return await mood(request)

    def will(self, *moods: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self.moods = list(moods)


def says(status: int, body: Any = None, **headers: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "not now"} if body is None else body, status=status, headers=headers)

    return answer


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.fixture
async def moody() -> AsyncIterator[tuple[Moody, str]]:
    server = Moody()
    async with TestServer(server.app) as served:
        yield server, str(served.make_url("/"))


ACCEPTED = says(202, {"status": "accepted", "job_id": "j1"})


async def test_a_submit_is_repeated_under_one_key(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    server.will(says(503), hangs_up, says(429), ACCEPTED)

    assert await connect(url)("submit", "hello", {"n": 1}) == "j1"

    keys = {request.headers["Idempotency-Key"] for request in server.requests}
    assert (len(server.requests), len(keys)) == (4, 1)
    assert [await request.json() for request in server.requests] == [{"blueprint": "hello", "initial_data": {"n": 1}}] * 4


async def test_repetitions_end(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    for mood, error, status in (
        (says(503), FacadeUnavailableError, 503),
        (says(429), TooManyRequestsError, 429),
        (hangs_up, FacadeUnavailableError, 0),
    ):
        server.requests.clear()
        server.will(mood)
        with pytest.raises(error) as caught:
            await connect(url)("workers")
        assert (caught.value.status, len(server.requests)) == (status, QUICK.attempts)


@pytest.mark.parametrize("mood", [says(503), says(502), hangs_up])
async def test_an_order_is_not_repeated(moody: tuple[Moody, str], connect: Callable[..., Both], mood: Any) -> None:
    server, url = moody
    server.will(mood)
    with pytest.raises(FacadeUnavailableError):
        await connect(url)("cancel", "j1")
    assert len(server.requests) == 1


async def test_an_order_that_was_not_taken_is_repeated(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    server.will(says(429), says(200, {"status": "retry_accepted", "job_id": "j1"}))
    assert await connect(url)("retry", "j1") == "retry_accepted"


async def test_retry_after_is_obeyed(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    server.will(says(429, **{"Retry-After": "1"}), ACCEPTED)
    began = time.monotonic()
    await connect(url)("submit", "hello")
    assert time.monotonic() - began >= 1


async def test_a_refusal_is_not_repeated(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    server.will(says(418))
    with pytest.raises(ApiError, match="not now") as caught:
        await connect(url)("get", "j1")
    assert (type(caught.value), caught.value.status, len(server.requests)) == (ApiError, 418, 1)


async def test_something_else_than_a_facade(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody

    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<h1>Welcome</h1>", content_type="text/html")

    for mood in (page, says(200, {"surprise": True}), says(404, {"detail": "?"})):
        server.will(mood)
        with pytest.raises(ApiError, match=r"does not look like a facade|is not what this client knows"):
            await connect(url)("get", "j1")
        with pytest.raises(ApiError):
            await connect(url)("watch", "j1")


def _streams(*lines: str, cut: bool = False) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write("".join(lines).encode())
        if cut:
            await asyncio.sleep(0.05)  # what was written arrives before the cut
            assert request.transport is not None
            request.transport.abort()
        return response

    return stream


def _event(number: int, name: str) -> str:
    body = f'{{"id":"j1:{number}:0","job_id":"j1","event_type":"{name}","timestamp":"2026-01-01T00:00:00Z","extra":[1]}}'
    return f"id: j1:{number}:0\nevent: {name}\ndata: {body}\n\n"


async def test_a_watch_goes_on_where_it_broke(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    progress = 'event: progress\ndata: {"progress": 0.5, "message": "half", "task_id": "t", "status": "running"}\n\n'
    live = {"id": "j1", "blueprint_name": "b", "status": "running", "current_state": "s"}
    server.will(
        says(503),
        _streams(": keep-alive\n\n", _event(0, "one"), progress, ": keep-alive\n\n", cut=True),
        hangs_up,
        _streams(_event(1, "two")),  # an orderly end of a job that goes on: a facade of another version
        says(200, live),
        _streams(_event(2, "three")),
        says(200, {**live, "status": "finished"}),
    )

    seen = await connect(url)("watch", "j1")

    assert [(type(item), getattr(item, "event_type", None)) for item in seen] == [
        (EventView, "one"),
        (ProgressView, None),
        (EventView, "two"),
        (EventView, "three"),
    ]
    assert (seen[1].progress, seen[1].message, seen[0].extra) == (0.5, "half", [1])
    asked = [request.headers.get("Last-Event-ID") for request in server.requests if request.path.endswith("/events")]
    assert asked == [None, None, "j1:0:0", "j1:0:0", "j1:1:0"]


async def test_a_watch_that_only_breaks_ends(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    server.will(hangs_up)
    with pytest.raises(FacadeUnavailableError, match="does not answer"):
        await connect(url)("watch", "j1")
    assert len(server.requests) == QUICK.patient().attempts


async def test_whoever_stops_watching_leaves(facade: Facade, service: StoringService) -> None:
    from avtomatika.api.keys import LISTENERS

    assert facade.app is not None
    listeners = facade.app[LISTENERS]
    async with AsyncClient(str(facade.make_url("/")), TOKEN) as client:
        job_id = await client.submit("hello")
        watching = client.watch(job_id)
        await anext(watching)
        assert len(listeners) == 1
        await watching.aclose()
    await _go_on(service, job_id, "transition")  # to write is how the facade finds out

    async def nobody() -> bool:
        return len(listeners) == 0

    await eventually_async(nobody)


# --- Set-up --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_where_url_and_token_come_from(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AVTOMATIKA_URL", "CLIENT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="CLIENT_TOKEN"):
        kind()
    monkeypatch.setenv("CLIENT_TOKEN", "secret-one")
    assert repr(kind()) == f"{kind.__name__}('http://127.0.0.1:8080')"
    monkeypatch.setenv("AVTOMATIKA_URL", "https://jobs.example/base/")
    assert kind().url == "https://jobs.example/base"
    assert kind("http://other:1").url == "http://other:1"
    for url in ("nonsense", "ftp://host", "http://", "http://[", "http://host:99999"):
        with pytest.raises(ConfigurationError, match="is not the URL of a facade"):
            kind(url)
    for token in ("with\nline", "schlüssel"):
        with pytest.raises(ConfigurationError, match="no header can carry") as caught:
            kind("http://host", token)
        assert token not in str(caught.value)


async def test_a_base_path_is_kept(moody: tuple[Moody, str], connect: Callable[..., Both]) -> None:
    server, url = moody
    server.will(says(200, []))
    assert await connect(f"{url}base/")("workers") == []
    assert server.requests[0].path == "/base/api/v1/workers"


@pytest.mark.parametrize(
    ("attempt", "chance", "status", "retry_after", "expected"),
    [
        (1, 1.0, 503, None, 0.2),
        (1, 0.0, 503, None, 0.1),
        (3, 1.0, 503, None, 0.8),
        (4, 1.0, 503, None, 1.0),
        (5, 1.0, 503, None, None),
        (1, 1.0, 429, "7", 7.2),
        (1, 0.0, 429, "7", 7.0),
        (1, 1.0, 429, "0", 0.2),
        (1, 0.0, 429, "86400", MAX_ASKED),
        (1, 1.0, 429, "Wed, 21 Oct 2026 07:28:00 GMT", 0.2),
        (1, 1.0, 0, None, 0.2),
    ],
)
def test_pauses(attempt: int, chance: float, status: int, retry_after: str | None, expected: float | None) -> None:
    headers = {"Retry-After": retry_after} if retry_after is not None else {}
    outcome = httpx.Response(status, headers=headers) if status else httpx.ReadError("gone")
    assert Retries(attempts=5, base=0.2, cap=1.0).pause(attempt, outcome, lambda: chance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("outcome", "safe", "order"),
    [
        (httpx.Response(200), False, False),
        (httpx.Response(404), False, False),
        (httpx.Response(500), False, False),
        (httpx.Response(502), True, False),
        (httpx.Response(503), True, False),
        (httpx.Response(429), True, True),
        (httpx.ConnectError("refused"), True, True),
        (httpx.ReadTimeout("slow"), True, False),
        (httpx.RemoteProtocolError("cut"), True, False),
    ],
)
def test_what_may_be_repeated(outcome: Any, safe: bool, order: bool) -> None:
    assert [may_repeat(call, outcome) for call in (calls.get("j"), calls.submit("b"), calls.pause("j"))] == [safe, safe, order]


def test_errors_survive_pickle() -> None:
    job = JobView(id="j", blueprint_name="b", status="failed", current_state="s", error_message="it broke")
    for error in (NotFoundError(404, "no"), JobFailedError(job)):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_a_status_of_a_later_version() -> None:
    job = JobView(id="j", blueprint_name="b", status="dreaming", current_state="s")
    assert (job.status, job.is_terminal) == ("dreaming", False)


def test_methods_show_their_signatures() -> None:
    assert list(inspect.signature(Client.get).parameters) == ["self", "job_id"]
    assert list(inspect.signature(AsyncClient("", "t").get).parameters) == ["job_id"]


def test_the_client_loads_no_server() -> None:
    code = "import sys; import avtomatika.client; print(sorted({'celery', 'kombu', 'aiohttp', 'redis'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
