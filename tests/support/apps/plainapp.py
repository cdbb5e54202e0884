"""An ordinary Celery app, as a team has them: it knows nothing of avtomatika."""

from __future__ import annotations

import os
import sys
import time

from celery import Celery

app = Celery(
    "plainapp",
    broker=os.environ["CELERY_BROKER_URL"],
    backend=os.environ["CELERY_RESULT_BACKEND"],
    include=["pytest_celery.vendors.worker.tasks"],
)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = os.environ.get("PLAINAPP_QUEUE", "celery")


@app.task(name="plainapp.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="plainapp.describe")
def describe(name: str) -> dict[str, object]:
    return {"name": name, "length": len(name)}


@app.task(name="plainapp.explode")
def explode(message: str) -> None:
    raise ValueError(message)


@app.task(name="plainapp.note")
def note(path: str, seconds: float, line: str) -> None:
    """Adds a line to a file, then takes its time."""
    with open(path, "a") as file:
        file.write(line + "\n")
    time.sleep(seconds)


@app.task(name="plainapp.modules_of")
def modules_of(package: str) -> int:
    """How many modules of a package this worker has loaded."""
    return sum(name.partition(".")[0] == package for name in sys.modules)
