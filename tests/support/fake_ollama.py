"""An Ollama server on a local port: its API, streamed line by line, and the registry that it pulls from."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.fakes import FakeService

LAYERS = {"sha256:" + "a" * 64: 4_000_000, "sha256:" + "b" * 64: 1_000}


@dataclass
class FakeOllama(FakeService):
    """
    Attributes:
        models: those that it has: name -> bytes.
        registry: those that can be pulled.
        loaded: what /api/ps tells.
        words: what every model says.
        hold: while it is set, a stream stops after its first lines.
        left: how many streams were left before their end.
        pull_error: what a pull breaks off with after its first layer.
    """

    models: dict[str, int] = field(default_factory=dict)
    registry: dict[str, int] = field(default_factory=dict)
    loaded: list[dict[str, Any]] = field(default_factory=list)
    words: list[str] = field(default_factory=lambda: ["The", " sky", " is", " blue", "."])
    vram: int = 0
    hold: bool = False
    left: int = 0
    pull_error: str | None = None

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/version", self._version),
            web.get("/api/tags", self._tags),
            web.get("/api/ps", self._ps),
            web.post("/api/pull", self._pull),
            web.post("/api/generate", self._generate),
            web.get("/v2/{space}/{name}/manifests/{tag}", self._manifest),
        ]

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.13.1"})

    async def _tags(self, request: web.Request) -> web.Response:
        details = {"format": "gguf", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}
        common = {"modified_at": "2026-05-04T14:56:49.277302595-07:00", "digest": "c" * 64, "details": details}
        models = [{"name": name, "model": name, "size": size, **common} for name, size in self.models.items()]
        return web.json_response({"models": models})

    async def _ps(self, request: web.Request) -> web.Response:
        return web.json_response({"models": self.loaded})

    async def _manifest(self, request: web.Request) -> web.Response:
        name, tag = request.match_info["name"], request.match_info["tag"]
        known = f"{name}:{tag}" in self.registry
        return web.json_response(
            {"schemaVersion": 2} if known else {"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=200 if known else 404
        )

    async def _stream(self, request: web.Request, lines: list[dict[str, Any]], held_after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            for number, line in enumerate(lines):
                await response.write(json.dumps(line).encode() + b"\n")
                while self.hold and number >= held_after:
                    await asyncio.sleep(0.02)
                    if request.transport is None or request.transport.is_closing():
                        raise ConnectionResetError
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        return response

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["model"]
        full = name if ":" in name else f"{name}:latest"
        lines: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        if full not in self.registry:
            return await self._stream(request, [*lines, {"error": "pull model manifest: file does not exist"}], 99)
        for digest, total in LAYERS.items():
            step = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
            lines += [step, {**step, "completed": total // 2}, {**step, "completed": total}]
            if self.pull_error is not None:
                return await self._stream(request, [*lines, {"error": self.pull_error}], 99)
        self.models[full] = sum(LAYERS.values())
        ending = ({"status": text} for text in ("verifying sha256 digest", "writing manifest", "success"))
        return await self._stream(request, [*lines, *ending], 2)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name = body["model"]
        full = name if ":" in name else f"{name}:latest"
        if full not in self.models:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        common = {"model": name, "created_at": "2026-05-04T14:56:49.277302595Z"}
        self.loaded = [
            {
                "name": full, "model": full, "size": self.models[full], "digest": "c" * 64, "expires_at": "2026-05-04T15:56:49Z",
                "size_vram": self.vram, "context_length": 4096, "details": {"family": "llama"},
            }
        ]  # fmt: skip
        if not body.get("prompt"):
            return web.json_response({**common, "response": "", "done": True, "done_reason": "load"})
        words = self.words[: body["options"]["num_predict"]]
        lines = [{**common, "response": word, "done": False} for word in words]
        last = {
            **common, "response": "", "done": True, "done_reason": "stop" if words == self.words else "length",
            "total_duration": 3_000_000_000, "load_duration": 500_000_000, "prompt_eval_count": 26,
            "prompt_eval_duration": 100_000_000, "eval_count": len(words), "eval_duration": 2_000_000_000,
        }  # fmt: skip
        return await self._stream(request, [*lines, last], 1)
