"""Where a stream of a job's events stands: what came last, and when to come back after it broke."""

from __future__ import annotations

import json
from typing import Any

import httpx
from httpx_sse import ServerSentEvent

from avtomatika.client.answers import EventView, ProgressView
from avtomatika.client.calls import Call, events_path
from avtomatika.client.conclusions import kind_of, raise_for_status, stranger, unreachable
from avtomatika.client.retries import Outcome, Retries, may_repeat

PROGRESS = "progress"


class Stream:
    """One `watch`; it outlives the connections."""

    def __init__(self, job_id: str, retries: Retries, url: object, last_event_id: str = "") -> None:
        self.path = events_path(job_id)
        self._call: Call[Any] = Call("GET", self.path, lambda answer: answer)
        self._last_event_id = last_event_id
        self._retries = retries
        self._url = url
        self._faults = 0

    @property
    def headers(self) -> dict[str, str]:
        """Of the next connection: nothing that was seen comes again."""
        return {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}

    def opened(self, response: httpx.Response) -> bool:
        """Whether events come. Raises ApiError where something else answers than a facade."""
        if response.is_success and kind_of(response) != "text/event-stream":
            raise stranger(response, self._url)
        return response.is_success

    def take(self, message: ServerSentEvent) -> dict[str, Any] | None:
        """The message's data; None for one that has none. An event of the history names itself by `event_type`."""
        self._faults = 0
        if not message.data:
            return None
        if message.event != PROGRESS:
            self._last_event_id = message.id
        data: dict[str, Any] = json.loads(message.data)
        return data

    def pause(self, outcome: Outcome) -> float:
        """Seconds until the next connection, after this one was refused, broke, or ended (a fault only if nothing came).

        Raises:
            ApiError: another one does not help.
        """
        self._faults += 1
        pause = self._retries.pause(self._faults, outcome)
        ended = isinstance(outcome, httpx.Response) and outcome.is_success
        if pause is not None and (ended or may_repeat(self._call, outcome)):
            return pause
        if isinstance(outcome, httpx.TransportError):
            raise unreachable(outcome, self._url) from outcome
        raise_for_status(outcome, self._url)
        return self._retries.cap


def view(data: dict[str, Any]) -> EventView | ProgressView:
    return EventView.model_validate(data) if "event_type" in data else ProgressView.model_validate(data)
