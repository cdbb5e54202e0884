from avtomatika import Worker

worker = Worker("adder", max_concurrent_tasks=20)


@worker.task("add_one", task_type="cpu")
async def add_one(params):
    return {"sum": params["number"] + 1}
