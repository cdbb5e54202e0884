"""Tasks that run until their file is made, and write down how they ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from avtomatika import ModelCache, Worker
from avtomatika.worker.pool import current_cancel_reason

worker = Worker(
    max_concurrent_tasks=3,
    task_type_limits={"gpu": 1, "cpu": 2},
    skill_dependencies={"draw": ["sdxl"]},
    cost_per_second=0.25,
    cost_per_skill={"draw": 2},
    resources={"gpu_info": {"model": "T4"}, "region": "eu"},
    installed_models=["sdxl", "vae"],
)
models = ModelCache(budget_gb=8)
models.register("sdxl", lambda: "sdxl", size_gb=6)
models.register("vae", lambda: "vae", size_gb=6)


async def hold(folder: Path) -> None:
    (folder / "started").touch()
    try:
        while not (folder / "go").exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        (folder / "cancelled").write_text(str(current_cancel_reason()))
        raise


@worker.task("draw", task_type="gpu")
async def draw(params):
    async with models.use("sdxl"):
        await hold(Path(params["folder"]))


@worker.task("decode", task_type="gpu")
async def decode(params):
    async with models.use("vae"):
        await hold(Path(params["folder"]))


@worker.task("copy", task_type="cpu")
async def copy(params):
    await hold(Path(params["folder"]))


@worker.task("load_in_child", task_type="cpu", process=True)
def load_in_child(params, add_to_hot_cache):
    with models.use("vae"):
        add_to_hot_cache("own", 1.5)
        (Path(params["folder"]) / "started").touch()
        while not (Path(params["folder"]) / "go").exists():
            time.sleep(0.02)
