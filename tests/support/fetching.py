"""A broker in a list, for facades over a store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from avtomatika.broker.fetch import Fetched
from avtomatika.errors import StoreUnavailableError
from avtomatika.jobs import Message


class QueueFetcher:
    """Takes messages out of a list, and keeps what is not settled yet."""

    def __init__(self, queue: list[Message]) -> None:
        self.queue = queue
        self.unacknowledged: dict[int, Message] = {}
        self.away = False
        self.fetches = 0

    async def fetch(self, queue: str, count: int) -> Sequence[Fetched]:
        if self.away:
            raise StoreUnavailableError("the broker is away")
        self.fetches += 1
        taken = [message for message in self.queue if message.queue == queue][:count]
        for message in taken:
            self.queue.remove(message)
            self.unacknowledged[id(message)] = message
        return [Fetched(message.headers["id"], queue, message) for message in taken]

    async def settle(self, fetched: Fetched) -> None:
        del self.unacknowledged[id(fetched.tag)]

    async def put_back(self, fetched: Fetched) -> None:
        self.queue.insert(0, self.unacknowledged.pop(id(fetched.tag)))

    async def close(self) -> None: ...
