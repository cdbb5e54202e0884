"""A worker that knows nothing but the documented worker API: aiohttp, one file, no avtomatika.

WORKER_TOKEN=… python examples/http_worker.py http://127.0.0.1:8080
"""

import asyncio
import os
import sys

import aiohttp

WORKER_ID = os.environ.get("WORKER_ID", "example-worker")
running: dict[str, asyncio.Task] = {}


async def count(params, progress):
    """The task `count`: counts to `params["to"]`, ten numbers a second."""
    for number in range(params["to"]):
        await asyncio.sleep(0.1)
        await progress((number + 1) / params["to"], f"at {number + 1}")
    return {"counted": params["to"]}


async def run(session, socket, task):
    ids = {"task_id": task["task_id"], "job_id": task["job_id"]}

    def progress(part, message):
        return socket.send_json({"type": "progress_update", **ids, "progress": part, "message": message})

    try:
        result = {"status": "success", "data": await count(task["params"], progress)}
    except asyncio.CancelledError:
        result = {"status": "cancelled"}
    except Exception as exc:
        result = {"status": "failure", "error": {"code": "PERMANENT_ERROR", "message": repr(exc)}}
    del running[task["task_id"]]
    await session.post("/_worker/tasks/result", json={**ids, "worker_id": WORKER_ID, "result": result})


async def heartbeats(session):
    while True:
        await asyncio.sleep(15)
        await session.patch(f"/_worker/workers/{WORKER_ID}")


async def commands(socket):
    async for frame in socket:
        command = frame.json()
        if command.get("command") == "cancel_task" and command["task_id"] in running:
            running[command["task_id"]].cancel()


async def main(url):
    headers = {"X-Worker-Token": os.environ["WORKER_TOKEN"]}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        worker = {"worker_id": WORKER_ID, "worker_type": "cpu_worker", "supported_tasks": ["count"], "max_concurrent_tasks": 1}
        await session.post("/_worker/workers/register", json=worker, raise_for_status=True)
        async with session.ws_connect(f"/_worker/ws/{WORKER_ID}") as socket:
            side = [asyncio.create_task(heartbeats(session)), asyncio.create_task(commands(socket))]
            while not any(task.done() for task in side):
                async with session.get(f"/_worker/workers/{WORKER_ID}/tasks/next", raise_for_status=True) as answer:
                    if answer.status == 200:
                        task = await answer.json()
                        running[task["task_id"]] = asyncio.create_task(run(session, socket, task))
                        await asyncio.wait(running.values())


asyncio.run(main(sys.argv[1]))
