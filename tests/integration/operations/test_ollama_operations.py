"""Ollama's API on a local port: what reaches the server, what comes back, and a stop in the middle of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.jobs import JobStatus
from avtomatika.operations.codes import TaskErrorCode as Code
from avtomatika.operations.config import OperationsConfig
from avtomatika.operations.errors import OperationError, OperationStopped, PolicyError, StopReason
from avtomatika.operations.types import TaskStatus
from tests.support.fake_ollama import LAYERS, FakeOllama
from tests.support.fakes import call, context, make_config
from tests.support.operations import make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes, free_port
from tests.support.servers import Broker

MODEL = "llama3.2:3b"


@dataclass
class Here:
    fake: FakeOllama
    config: OperationsConfig

    async def __call__(self, type_: str, **params: Any) -> Any:
        return await call(self.config, type_, params)

    async def fails(self, type_: str, **params: Any) -> OperationError:
        with pytest.raises(OperationError) as raised:
            await call(self.config, type_, params)
        return raised.value


def config_text(fake: FakeOllama) -> str:
    return f"""
[credentials.proxy]
token_env = "FAKE_OLLAMA_TOKEN"
[hosts.gpu-box]
address = "127.0.0.1"
[hosts.other]
address = "127.0.0.1"
[policy.default]
operations = ["ollama_*"]
hosts = ["gpu-box"]
credentials = ["proxy"]
options = {{ models = ["llama3.2*", "huge", "none*"], ollama_registry = "{fake.url}", max_model_bytes = 5_000_000 }}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.setenv("FAKE_OLLAMA_TOKEN", "token-of-the-proxy")
    monkeypatch.setenv("OLLAMA_API_KEY", "key-of-somewhere-else")
    with FakeOllama() as fake:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{fake.port}")
        yield Here(fake, make_config(tmp_path, config_text(fake)))


@pytest.mark.parametrize(
    ("type_", "params", "code"),
    [
        ("ollama_pull", {}, Code.VALIDATION_MISSING_REQUIRED),
        ("ollama_pull", {"model_name": "../x"}, Code.VALIDATION_INVALID_FORMAT),
        ("ollama_run", {"model_name": MODEL}, Code.VALIDATION_MISSING_REQUIRED),
        ("ollama_run", {"model_name": MODEL, "prompt": "x", "max_tokens": 0}, Code.VALIDATION_OUT_OF_RANGE),
        ("ollama_run", {"model_name": MODEL, "prompt": "x", "temperature": 2.5}, Code.VALIDATION_OUT_OF_RANGE),
        ("ollama_run", {"model_name": MODEL, "prompt": "x", "options": {"num_predict": 5}}, Code.VALIDATION_INVALID_PARAMS),
        ("ollama_run", {"model_name": MODEL, "prompt": "x", "options": {"stop": {"a": 1}}}, Code.VALIDATION_INVALID_PARAMS),
        ("ollama_list", {"url": "http://x"}, Code.VALIDATION_INVALID_PARAMS),
        ("ollama_status", {"port": 70000}, Code.VALIDATION_OUT_OF_RANGE),
        ("ollama_pull", {"model_name": "mistral"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("ollama_run", {"model_name": "mistral", "prompt": "x"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("ollama_list", {"host": "other"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("ollama_list", {"host": "169.254.169.254"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
        ("ollama_list", {"credential": "deploy"}, Code.VALIDATION_CONSTRAINT_VIOLATION),
    ],
)
async def test_parameters_and_policy(here: Here, type_: str, params: dict[str, Any], code: Code) -> None:
    assert (await here.fails(type_, **params)).code is code
    assert here.fake.seen == []


async def test_a_model_is_pulled(here: Here) -> None:
    here.fake.registry[MODEL] = 1
    op = context(here.config, "ollama_pull", {})
    result = await call(here.config, "ollama_pull", {"model_name": MODEL}, op)
    assert {key: result[key] for key in ("model_name", "model_size", "status", "digest")} == {
        "model_name": MODEL, "model_size": sum(LAYERS.values()), "status": "success", "digest": "c" * 64,
    }  # fmt: skip
    report = op.take_report()
    assert report is not None
    assert (report.progress, report.status) == (1, TaskStatus.PULLING)
    said = [text for _, text in report.lines]
    assert said[0] == "pulling manifest"
    assert said[-1] == "success"
    (sent,) = here.fake.calls("POST", "/api/pull")
    assert sent.json == {"model": MODEL, "stream": True, "insecure": False}
    assert "Authorization" not in sent.headers


async def test_a_model_that_nobody_has(here: Here) -> None:
    assert (await here.fails("ollama_pull", model_name="none")).code is Code.OLLAMA_MODEL_NOT_FOUND
    assert len(here.fake.calls("GET", "/v2/library/none/manifests/latest")) == 1
    assert (await here.fails("ollama_run", model_name="none", prompt="x")).code is Code.OLLAMA_MODEL_NOT_FOUND


async def test_a_pull_that_fails_otherwise(here: Here) -> None:
    here.fake.fail("GET", "/v2/.*", 500)
    assert (await here.fails("ollama_pull", model_name="none")).code is Code.OLLAMA_MODEL_DOWNLOAD_FAILED
    here.fake.registry[MODEL] = 1
    here.fake.pull_error = "max retries exceeded: file does not exist"
    failure = await here.fails("ollama_pull", model_name=MODEL)
    assert (failure.code, failure.kind) == (Code.OLLAMA_MODEL_DOWNLOAD_FAILED, ErrorCode.TRANSIENT)


async def test_a_model_that_is_too_large(here: Here) -> None:
    here.fake.registry["huge:latest"] = 1
    config = make_config_with(here, "max_model_bytes = 5_000_000", "max_model_bytes = 1_000_000")
    with pytest.raises(OperationError) as raised:
        await call(config, "ollama_pull", {"model_name": "huge"})
    assert raised.value.code is Code.SYSTEM_RESOURCE_LIMIT


def make_config_with(here: Here, old: str, new: str) -> OperationsConfig:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return make_config(Path(folder), config_text(here.fake).replace(old, new))


async def test_text_is_generated(here: Here) -> None:
    here.fake.models[MODEL] = 2_000
    params = {
        "model_name": MODEL,
        "prompt": "Why?",
        "system": "Be brief",
        "temperature": 0.1,
        "options": {"seed": 7, "stop": ["!"]},
    }
    assert await here("ollama_run", **params) == {
        "model_name": MODEL, "generated_text": "The sky is blue.", "prompt_tokens": 26, "generated_tokens": 5,
        "total_duration": 3.0, "tokens_per_second": 2.5, "done_reason": "stop", "truncated": False,
    }  # fmt: skip
    load, run = here.fake.calls("POST", "/api/generate")
    assert (load.json["model"], load.json["prompt"]) == (MODEL, "")
    assert {key: run.json[key] for key in ("model", "prompt", "system", "stream")} == {
        "model": MODEL, "prompt": "Why?", "system": "Be brief", "stream": True,
    }  # fmt: skip
    assert run.json["options"] == {"num_predict": 1000, "temperature": 0.1, "seed": 7, "stop": ["!"]}
    assert (await here("ollama_run", model_name=MODEL, prompt="Why?", max_tokens=2))["done_reason"] == "length"


async def test_a_flood_of_text_is_cut(here: Here) -> None:
    here.fake.models[MODEL] = 2_000
    here.fake.words = ["x" * 1000] * 50
    config = make_config_with(here, "max_model_bytes", "max_output_bytes = 5_000, max_model_bytes")
    result = await call(config, "ollama_run", {"model_name": MODEL, "prompt": "x"})
    assert (len(result["generated_text"]), result["truncated"], result["done_reason"]) == (5000, True, "output_limit")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, Code.OLLAMA_SERVICE_UNAVAILABLE, ErrorCode.PERMANENT),
        (404, Code.OLLAMA_MODEL_NOT_FOUND, ErrorCode.PERMANENT),
        (400, Code.OLLAMA_INFERENCE_FAILED, ErrorCode.PERMANENT),
        (500, Code.OLLAMA_INFERENCE_FAILED, ErrorCode.PERMANENT),
        (503, Code.OLLAMA_SERVICE_UNAVAILABLE, ErrorCode.TRANSIENT),
    ],
)
async def test_what_an_answer_means(here: Here, status: int, code: Code, kind: ErrorCode) -> None:
    here.fake.models[MODEL] = 2_000
    here.fake.fail("POST", "/api/generate", status, body={"error": "model not found, out of memory, no GPU"})
    failure = await here.fails("ollama_run", model_name=MODEL, prompt="x")
    assert (failure.code, failure.kind, failure.details["status"]) == (code, kind, status)


async def test_a_model_that_is_larger_than_the_memory(here: Here) -> None:
    here.fake.models["huge:latest"] = 1 << 60
    here.fake.fail("POST", "/api/generate", 500, body={"error": "?"})
    failure = await here.fails("ollama_run", model_name="huge", prompt="x")
    assert (failure.code, failure.details["model_size"]) == (Code.OLLAMA_MEMORY_INSUFFICIENT, 1 << 60)


async def test_a_gpu_is_needed(here: Here) -> None:
    here.fake.models["llama3.2:latest"] = 2_000
    failure = await here.fails("ollama_run", model_name="llama3.2", prompt="x", require_gpu=True)
    assert failure.code is Code.OLLAMA_GPU_UNAVAILABLE
    here.fake.vram = 2_000
    assert (await here("ollama_run", model_name="llama3.2", prompt="x", require_gpu=True))["generated_tokens"] == 5


async def test_an_answer_that_breaks_off(here: Here) -> None:
    here.fake.models[MODEL] = 2_000
    here.fake.lose("POST", "/api/generate")
    failure = await here.fails("ollama_run", model_name=MODEL, prompt="x")
    assert (failure.code, failure.kind) == (Code.OLLAMA_SERVICE_UNAVAILABLE, ErrorCode.TRANSIENT)
    here.fake.fail("GET", "/api/ps", 200, body="<html>")
    assert (await here.fails("ollama_status")).code is Code.EXTERNAL_SERVICE_ERROR


async def test_lists_and_status_of_a_host_of_the_inventory(here: Here) -> None:
    here.fake.models[MODEL] = 2_000
    here.fake.vram = 1_500
    listed = await here("ollama_list", host="gpu-box", port=here.fake.port, credential="proxy")
    assert listed["count"] == 1
    assert {key: listed["models"][0][key] for key in ("name", "size", "parameter_size")} == {
        "name": MODEL, "size": 2_000, "parameter_size": "3.2B",
    }  # fmt: skip
    assert here.fake.seen[-1].headers["Authorization"] == "Bearer token-of-the-proxy"
    await here("ollama_run", model_name=MODEL, prompt="x")
    status = await here("ollama_status")
    assert (status["version"], status["size_vram"], status["uses_gpu"]) == ("0.13.1", 1_500, True)
    assert [model["name"] for model in status["running_models"]] == [MODEL]
    assert "Authorization" not in here.fake.seen[-1].headers


async def test_nobody_is_there(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"http://127.0.0.1:{free_port()}")
    for type_, params in (("ollama_status", {}), ("ollama_list", {}), ("ollama_pull", {"model_name": MODEL})):
        failure = await here.fails(type_, **params)
        assert (failure.code, failure.kind) == (Code.OLLAMA_SERVICE_UNAVAILABLE, ErrorCode.TRANSIENT)


async def test_a_pause_in_the_middle_of_a_pull(here: Here) -> None:
    here.fake.registry[MODEL] = 1
    here.fake.hold = True
    params = {"model_name": MODEL}
    op = context(here.config, "ollama_pull", params)
    pulling = asyncio.create_task(call(here.config, "ollama_pull", params, op))
    await eventually_async(_has_progress(op))
    op.stop(StopReason.PAUSE)
    here.fake.hold = False
    with pytest.raises(OperationStopped):
        await pulling


def _has_progress(op: Any) -> Any:
    async def look() -> bool:
        return bool(op._progress > 0.2)

    return look


async def test_a_cancelled_stream_ends_on_the_server(
    redis_broker: Broker, processes: Processes, tmp_path: Path, here: Here
) -> None:
    here.fake.models[MODEL] = 2_000
    site = make_site(redis_broker, processes, tmp_path, config_text(here.fake))
    site.orchestrator()
    site.worker("ollama", env={"OLLAMA_HOST": here.fake.url, "FAKE_OLLAMA_TOKEN": "x"})
    async with site.engine() as engine:
        job = await engine.ended((await push(engine, "ollama_run", {"model_name": MODEL, "prompt": "Why?"})).id)
        assert job.status is JobStatus.FINISHED, job.error_message
        assert job.result["generated_text"] == "The sky is blue."

        here.fake.hold = True
        job = await push(engine, "ollama_run", {"model_name": MODEL, "prompt": "Why?"})
        await eventually_async(_is_generating(here, 2))
        assert here.fake.left == 0
        await engine.service.orders.cancel(job.id)
        job = await engine.ended(job.id)
        assert job.status is JobStatus.CANCELLED
        await eventually_async(_was_left(here))

        with pytest.raises(PolicyError):
            await push(engine, "ollama_run", {"model_name": "mistral", "prompt": "x"})


def _is_generating(here: Here, times: int) -> Any:
    async def look() -> bool:
        prompts = [seen for seen in here.fake.calls("POST", "/api/generate") if seen.json["prompt"]]
        return len(prompts) >= times

    return look


def _was_left(here: Here) -> Any:
    async def look() -> bool:
        return here.fake.left == 1

    return look
