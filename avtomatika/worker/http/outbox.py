"""Results on their way to one orchestrator: tried until it takes or refuses them, kept on disk while it does neither."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from avtomatika.errors import ErrorCode
from avtomatika.results import Result
from avtomatika.worker.http.backoff import Backoff
from avtomatika.worker.http.client import Client, Refused, Unavailable
from avtomatika.worker.http.spool import Entry, Spool

logger = logging.getLogger(__name__)

#: Uploads at once.
UPLOADS = 4


class Outbox:
    """
    Args:
        left: what a predecessor could not deliver; it goes first (see `round`).
        on_change: called when something has gone.
    """

    def __init__(self, client: Client, spool: Spool, left: Iterable[Entry], on_change: Callable[[], None]) -> None:
        self._client = client
        self._spool = spool
        self._on_change = on_change
        self._left = {entry.name: entry for entry in left}
        self._entries: dict[str, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._again = asyncio.Event()

    @property
    def backlog(self) -> int:
        """How many are not delivered."""
        return len(self._entries) + len(self._left)

    def put(self, entry: Entry) -> None:
        self._entries[entry.name] = entry
        task = asyncio.get_running_loop().create_task(self._deliver(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def round(self) -> None:
        """Tries what a predecessor left, once each. Raises Unavailable where the orchestrator does not answer at all."""
        for entry in list(self._left.values()):
            try:
                await self._post(entry)
            except Unavailable as exc:
                if not exc.answered:
                    raise
                self.put(entry)
            else:
                self._spool.drop(entry)
            self._left.pop(entry.name, None)

    def kick(self) -> None:
        """The orchestrator answers again: what waits is tried at once."""
        self._again.set()
        self._again = asyncio.Event()

    async def flush(self, seconds: float) -> None:
        """Delivers what can be delivered in that time."""
        self.kick()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def close(self) -> None:
        """Tries no longer; what is not delivered lies on the disk."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entry in self._entries.values():
            self._keep(entry)
        if self.backlog:
            logger.warning(
                "%d results for %s were not delivered; they are kept in %s", self.backlog, self._client.url, self._spool.folder,
                extra={"action": "spool"},
            )  # fmt: skip

    async def _deliver(self, entry: Entry) -> None:
        backoff = Backoff()
        again: asyncio.Event | None = None
        while True:
            try:
                async with self._uploads:
                    await self._post(entry)
                break
            except Unavailable as exc:
                logger.warning(
                    "the result of %s waits: %s", entry.task_id, exc, extra={"action": "result", "task_id": entry.task_id}
                )
                again, asked, wait = self._again, exc.retry_after or 0.0, backoff.next()
            await asyncio.to_thread(self._keep, entry)
            await asyncio.sleep(asked)  # whatever else is heard of the orchestrator
            with suppress(TimeoutError):
                await asyncio.wait_for(again.wait(), wait)
        self._entries.pop(entry.name, None)
        self._spool.drop(entry)
        if again is not None:  # it was away, and takes results again
            self.kick()
        self._on_change()

    async def _post(self, entry: Entry) -> None:
        """Returns once it is taken, or refused for good; raises Unavailable."""
        extra = {"action": "result", "task_id": entry.task_id, "job_id": entry.body.get("job_id")}
        try:
            status = await self._client.post_result(entry.body)
        except Refused as exc:
            if exc.status == 413:
                await self._post_failure(entry, str(exc))
            logger.error("the result of %s is dropped: %s", entry.task_id, exc, extra=extra)
            return
        logger.log(
            logging.INFO if status == "result_ignored" else logging.DEBUG, "result of %s: %s", entry.task_id, status, extra=extra
        )

    async def _post_failure(self, entry: Entry, why: str) -> None:
        """Instead of a result that is too large, so that its job need not wait for the timeout."""
        result = Result.failure(ErrorCode.PERMANENT, f"the result is too large: {why}")
        with suppress(Refused):
            await self._client.post_result({**entry.body, "result": result.to_dict()})

    def _keep(self, entry: Entry) -> None:
        try:
            self._spool.keep(entry)
        except OSError as exc:
            logger.error(
                "the result of %s is only in memory: %s cannot be written: %s", entry.task_id, self._spool.folder, exc,
                extra={"action": "spool", "task_id": entry.task_id},
            )  # fmt: skip
