"""The Python client of the facade: `Client`, and `AsyncClient` for asyncio."""

from __future__ import annotations

from avtomatika.client.answers import (
    Analytics,
    BlueprintView,
    Counted,
    Dashboard,
    EventView,
    JobSummary,
    JobView,
    ManyView,
    ProgressView,
    QuarantinedView,
    TaskView,
    WorkerView,
)
from avtomatika.client.asynchronous import AsyncClient
from avtomatika.client.blocking import Client
from avtomatika.client.retries import Retries

__all__ = [
    "Analytics",
    "AsyncClient",
    "BlueprintView",
    "Client",
    "Counted",
    "Dashboard",
    "EventView",
    "JobSummary",
    "JobView",
    "ManyView",
    "ProgressView",
    "QuarantinedView",
    "Retries",
    "TaskView",
    "WorkerView",
]
