"""One gpu task at a time, beside four on the cpu."""

from avtomatika import Worker

worker = Worker("pictures", max_concurrent_tasks=10, task_type_limits={"gpu": 1, "cpu": 4})


@worker.task("draw", task_type="gpu")
async def draw(params, worker_id):
    return {"where": worker_id, "picture": params["picture"]}


@worker.task("shrink", task_type="cpu")
async def shrink(params, worker_id):
    return {"where": worker_id, "picture": params["picture"]}
