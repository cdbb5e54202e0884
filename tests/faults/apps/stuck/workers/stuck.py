"""A worker that can be brought to a halt without an error: its hub, its event loop, or its consumer."""

from __future__ import annotations

import time
from typing import Any

from kombu.asynchronous import get_event_loop

from avtomatika import Worker
from avtomatika.broker.slots import SlotGate

worker = Worker(max_concurrent_tasks=2)


@worker.task("halt", task_type="cpu")
async def halt(params: dict[str, Any], attempt: int) -> dict[str, str]:
    match params["what"] if attempt == 1 else "nothing":
        case "loop":
            hang_for_good()
        case "hub":
            get_event_loop().call_soon(hang_for_good)
        case "fetches":
            get_event_loop().call_soon(fetch_no_more)
    return {"halted": params["what"]}


def hang_for_good() -> None:
    time.sleep(3600)


def fetch_no_more() -> None:
    """On Redis the hub sends no fetch any more; RabbitMQ is told that nobody consumes."""
    assert SlotGate.current is not None
    channel = SlotGate.current.lanes["cpu"].channel
    if hasattr(channel, "active_queues"):
        get_event_loop().on_tick.clear()
    else:
        for tag in list(channel.callbacks):
            channel.basic_cancel(tag)
