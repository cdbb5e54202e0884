"""A task that does nothing, so that what is measured is the engine."""

from avtomatika import Worker

worker = Worker(max_concurrent_tasks=20, task_type_limits={"cpu": 20})


@worker.task("nothing", task_type="cpu")
async def nothing(params):
    return {"n": params["n"]}
