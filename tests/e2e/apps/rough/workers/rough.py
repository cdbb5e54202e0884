"""Tasks that do what no task should."""

import asyncio
import sys
from pathlib import Path

from avtomatika import Worker

worker = Worker(max_concurrent_tasks=2, task_type_limits={"slow": 1})


@worker.task("leave_thread", task_type="cpu")
def leave_thread(params):
    sys.exit("a thread wants to leave")


@worker.task("leave_coroutine", task_type="cpu")
async def leave_coroutine(params):
    sys.exit("a coroutine wants to leave")


@worker.task("run_out_of_memory", task_type="cpu")
async def run_out_of_memory(params):
    raise MemoryError("no more")


@worker.task("echo", task_type="cpu")
async def echo(params):
    return params


@worker.task("wait_for_file", task_type="slow")
async def wait_for_file(params):
    while not Path(params["path"]).exists():
        await asyncio.sleep(0.02)
    return {}
