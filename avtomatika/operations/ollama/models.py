"""The models that a server has, and those that it has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from avtomatika.operations.context import OperationContext
from avtomatika.operations.ollama.base import OllamaParams, address, family, guard, http_options, opened
from avtomatika.results import JSON

if TYPE_CHECKING:
    from ollama import AsyncClient


async def find(client: AsyncClient, model: str) -> JSON | None:
    """A model that the server has."""
    full = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
    return next((found for found in await models_of(client) if found["name"] in (model, full)), None)


async def models_of(client: AsyncClient) -> list[JSON]:
    return [
        {
            "name": model.model,
            "size": None if model.size is None else int(model.size),
            "digest": model.digest,
            "modified_at": None if model.modified_at is None else model.modified_at.isoformat(),
            "family": None if model.details is None else model.details.family,
            "parameter_size": None if model.details is None else model.details.parameter_size,
            "quantization_level": None if model.details is None else model.details.quantization_level,
        }
        for model in (await client.list()).models
    ]


class Listing(OllamaParams):
    """Lists the server's models."""


@family.operation("ollama_list", timeout_seconds=60, guard=guard)
async def ollama_list(params: Listing, op: OperationContext) -> JSON:
    """Lists the models that the server has."""
    async with opened(params, op) as client:
        models = await models_of(client)
    return {"models": models, "count": len(models)}


class Status(OllamaParams):
    """Asks the server for its version, and for what it has loaded."""


@family.operation("ollama_status", timeout_seconds=60, guard=guard)
async def ollama_status(params: Status, op: OperationContext) -> JSON:
    """Says which version the server has, which models are loaded, and how much memory of GPUs they take."""
    async with opened(params, op) as client:
        loaded = (await client.ps()).models
        version = await _version(params, op)
    running = [
        {
            "name": model.model,
            "size": int(model.size or 0),
            "size_vram": int(model.size_vram or 0),
            "expires_at": None if model.expires_at is None else model.expires_at.isoformat(),
            "context_length": model.context_length,
        }
        for model in loaded
    ]
    return {
        "version": version,
        "running_models": running,
        "size": sum(model["size"] for model in running),
        "size_vram": sum(model["size_vram"] for model in running),
        "uses_gpu": any(model["size_vram"] for model in running),
    }


async def _version(params: OllamaParams, op: OperationContext) -> str | None:
    """The library has no call for it."""
    async with httpx.AsyncClient(base_url=address(params, op), **await http_options(params, op)) as client:
        response = await client.get("/api/version")
    return response.json().get("version") if response.is_success else None
