from avtomatika import Worker

worker = Worker(worker_type="calculator")


@worker.task("multiply")
async def multiply(params, **kwargs):
    return {"status": "success", "data": {"product": params["left"] * params["right"]}}
