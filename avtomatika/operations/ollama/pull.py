"""A model is pulled to a server."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import httpx

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ollama.base import ModelParams, family, guard, of_status, opened, status_of
from avtomatika.operations.ollama.models import find
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Where models come from that name no registry of their own; a policy's option ``ollama_registry`` says otherwise.
REGISTRY = "https://registry.ollama.ai"


class Pull(ModelParams):
    """Pulls a model to the server."""


@family.operation("ollama_pull", timeout_seconds=3600, pausable=True, guard=guard)
async def ollama_pull(params: Pull, op: OperationContext) -> JSON:
    """Pulls a model; the server keeps what it has got, so that a pull that was stopped goes on there."""
    began = time.monotonic()
    most = op.permit.option("max_model_bytes")
    layers: dict[str, tuple[int, int]] = {}
    op.progress(0, f"pulling {params.model_name}", TaskStatus.PULLING)
    step = ""
    async with opened(params, op) as client:
        try:
            async with aclosing(await client.pull(params.model_name, stream=True)) as stream:  # type: ignore[type-var]
                async for part in stream:
                    op.checkpoint()
                    if part.status and part.status != step:
                        step = part.status
                        op.log(step)
                    if part.digest and part.total:
                        layers[part.digest] = (part.completed or 0, part.total)
                        _pulled(op, step, layers, most)
        except Exception as exc:
            if (status := status_of(exc)) is None:
                raise
            raise await _pull_failure(exc, status, params, op, begun=bool(layers)) from exc
        found = await find(client, params.model_name)
    if step != "success":
        raise OperationError(TaskErrorCode.OLLAMA_MODEL_DOWNLOAD_FAILED, "the server broke off the pull without a word")
    op.progress(1, "pulled")
    return {
        "model_name": params.model_name,
        "model_size": sum(total for _, total in layers.values()) if found is None else found["size"],
        "digest": None if found is None else found["digest"],
        "status": step,
        "seconds": round(time.monotonic() - began, 3),
    }


def _pulled(op: OperationContext, step: str, layers: dict[str, tuple[int, int]], most: Any) -> None:
    done, total = (sum(numbers) for numbers in zip(*layers.values(), strict=True))
    if most is not None and total > int(most):
        raise OperationError(
            TaskErrorCode.SYSTEM_RESOURCE_LIMIT,
            f"the model is larger than {most} bytes: pull a smaller one, or raise max_model_bytes",
        )
    op.progress(0.95 * done / total, f"{step}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")


async def _pull_failure(exc: Exception, status: int, params: Pull, op: OperationContext, *, begun: bool) -> OperationError:
    """Why a pull failed. The server says it in words alone, so the registry is asked whether it has the model."""
    known = of_status(exc, status, TaskErrorCode.OLLAMA_MODEL_DOWNLOAD_FAILED, params.model_name)
    if known.code is TaskErrorCode.OLLAMA_SERVICE_UNAVAILABLE:
        return known
    if known.code is not TaskErrorCode.OLLAMA_MODEL_NOT_FOUND and (begun or not await _is_unknown(params.model_name, op)):
        return known
    return OperationError(
        TaskErrorCode.OLLAMA_MODEL_NOT_FOUND, f"the registry has no model {params.model_name!r}", details=known.details
    )


async def _is_unknown(model: str, op: OperationContext) -> bool:
    """Whether the registry says that it has no such model. False where it cannot be asked, or is another one."""
    name, _, tag = model.partition(":")
    parts = name.split("/")
    if len(parts) > 2:
        return False
    registry = str(op.permit.option("ollama_registry", REGISTRY)).rstrip("/")
    path = "/".join(quote(part) for part in (parts if len(parts) == 2 else ["library", *parts]))
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            response = await client.get(f"{registry}/v2/{path}/manifests/{quote(tag or 'latest')}")
    except httpx.HTTPError:
        return False
    return response.status_code == 404
