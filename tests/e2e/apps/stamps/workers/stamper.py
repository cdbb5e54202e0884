"""Takes a moment for each stamp, so that there is something in flight."""

import asyncio
from pathlib import Path

from avtomatika import Worker

worker = Worker("stamper", max_concurrent_tasks=8)


@worker.task("stamp", task_type="cpu")
async def stamp(params, job_id):
    await asyncio.sleep(0.1)
    Path(params["folder"], f"{job_id}.{params['step']}").touch()
    return {params["step"]: job_id}
