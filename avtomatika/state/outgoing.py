"""What a state store promises about all that leaves it: messages, what the world outside is told, and the events of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from avtomatika.deliveries import Delivery
from avtomatika.jobs import Message
from avtomatika.state.values import CommitResult, FeedEntry


class OutboxStore(Protocol):
    """Messages on their way: the outbox (not yet on the broker) and the ledger (published, not yet answered)."""

    async def publish(self, message: Message, now: float) -> CommitResult:
        """Publishes (or puts into the outbox) one message; one with a key goes into the ledger, replacing its older entry."""

    async def outbox(self, older_than: float, limit: int = 1000) -> Sequence[tuple[str, Message]]: ...

    async def outbox_messages(self, ids: Sequence[str]) -> Sequence[tuple[str, Message]]: ...

    async def clear_outbox(self, ids: Sequence[str]) -> None: ...

    async def ledger(self, published_before: float, limit: int = 1000) -> Sequence[tuple[Message, float]]:
        """Control messages without an answer, oldest first, each with the time it was last published."""

    async def ledger_get(self, key: str) -> Message | None: ...

    async def settle(self, keys: Sequence[str]) -> None:
        """Forgets ledger entries: their messages were answered, or can do nothing any more."""


class DeliveryStore(Protocol):
    """What the world outside is told. Deliveries come into being with a commit; here they are tried and end."""

    async def delivery(self, delivery_id: str) -> Delivery | None: ...

    async def due_receivers(self, now: float, limit: int = 1000) -> Sequence[str]:
        """Those for whom something is due, the one first that has waited longest."""

    async def due_deliveries(self, receiver: str, now: float, limit: int = 1000) -> Sequence[str]:
        """Ids of what is due for one receiver, the longest due first."""

    async def replace_delivery(self, delivery: Delivery) -> bool:
        """Stores a delivery's next version, and when it is due; false where another version is stored by now.

        One that is over is due no longer, and is kept for as long as the records of ended jobs.
        """

    async def forget_delivery(self, receiver: str, delivery_id: str) -> None:
        """What has no record any more is due no longer."""

    async def secret(self, name: str) -> str:
        """A random secret of this installation, made at first use and the same for every process."""


class FeedStore(Protocol):
    """The events of all jobs in one order, for whoever writes them elsewhere. An event is in it by the call that caused it."""

    async def feed(self, after: str = "", limit: int = 1000) -> Sequence[FeedEntry]:
        """The next entries behind a position, oldest first; "" begins with the oldest that is kept."""

    async def trim_feed(self, through: str, before: float) -> int:
        """Drops entries up to a position, itself included, that are older than a time; returns how many.

        "" drops whatever is older.
        """

    async def feed_length(self) -> int: ...
