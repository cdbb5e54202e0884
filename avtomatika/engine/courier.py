"""The courier: tells the world outside what is due to be told, many receivers at once, each until it takes it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from avtomatika import integrations
from avtomatika.addresses import UrlRefusedError
from avtomatika.deliveries import Delivery, DeliveryAttempt, DeliveryStatus
from avtomatika.engine.approvals import REQUESTED, log_question, request_of, url_of
from avtomatika.engine.views import timestamp
from avtomatika.errors import AvtomatikaError, ConfigurationError, StoreUnavailableError
from avtomatika.integrations import LOG, WEBHOOK, ApprovalRequest, Ask
from avtomatika.jobs import JSON, Approval
from avtomatika.outgoing import SendError, post
from avtomatika.settings import Settings
from avtomatika.webhooks import DELIVERY, EVENT, SIGNATURE, TIMESTAMP, sign

if TYPE_CHECKING:
    from avtomatika.engine.results import Engine

logger = logging.getLogger(__name__)

#: So many deliveries are under way at once, and so many of them to one receiver.
AT_ONCE = 32
PER_RECEIVER = 4
#: So many of them to receivers that failed the last time, one to each: the others are not to wait for their time limits.
AT_ONCE_TO_FAILING = 8
MAX_FAILING = 10_000
#: How long an integration of the user's may take.
INTEGRATION_SECONDS = 60.0
_MAX_WORDS = 300


class Courier:
    """Belongs to the housekeeping: one process at a time runs its rounds."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = engine.store
        self.settings = engine.settings
        self._going: dict[str, asyncio.Task[None]] = {}
        self._receivers: Counter[str] = Counter()
        self._failing: dict[str, None] = {}
        self._rounds = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._stopped = True

    async def round(self) -> None:
        """Begins what is due, as far as there is room, and does not wait for it. What ends makes room for the next."""
        self._stopped = False
        async with self._rounds:
            now = self.engine.clock()
            for receiver in await self.store.due_receivers(now) if len(self._going) < AT_ONCE else ():
                if not self._has_room(receiver):
                    continue
                for delivery_id in await self.store.due_deliveries(receiver, now, PER_RECEIVER):
                    if delivery_id not in self._going and self._has_room(receiver) and not self._stopped:
                        self._begin(receiver, delivery_id)

    def _has_room(self, receiver: str) -> bool:
        if len(self._going) >= AT_ONCE:
            return False
        if receiver not in self._failing:
            return self._receivers[receiver] < PER_RECEIVER
        failing = sum(count for name, count in self._receivers.items() if name in self._failing)
        return self._receivers[receiver] < 1 and failing < AT_ONCE_TO_FAILING

    async def _round_again(self) -> None:
        try:
            await self.round()
        except StoreUnavailableError as exc:
            logger.debug("deliveries wait for the store: %s", exc, extra={"action": "deliver"})

    async def settled(self) -> None:
        """What is under way has ended."""
        while self._going or (self._next is not None and not self._next.done()):
            await asyncio.wait([*self._going.values(), *([self._next] if self._next is not None else [])])

    def stop(self) -> None:
        """Ends what is under way; it is due still, and whoever leads then begins it anew."""
        self._stopped = True
        for task in self._going.values():
            task.cancel()

    def _begin(self, receiver: str, delivery_id: str) -> None:
        self._receivers[receiver] += 1
        task = asyncio.create_task(self._deliver(receiver, delivery_id), name=f"delivery {delivery_id}")
        self._going[delivery_id] = task

        def over(ended: asyncio.Task[None]) -> None:
            del self._going[delivery_id]
            self._receivers[receiver] -= 1
            if not self._receivers[receiver]:
                del self._receivers[receiver]
            if not ended.cancelled() and (exc := ended.exception()) is not None:
                extra = {"action": "deliver", "delivery_id": delivery_id}
                logger.error("a delivery broke off; it is tried again", exc_info=exc, extra=extra)
            if not self._stopped and (self._next is None or self._next.done()):
                self._next = asyncio.get_running_loop().create_task(self._round_again())

        task.add_done_callback(over)

    async def _deliver(self, receiver: str, delivery_id: str) -> None:
        try:
            delivery = await self.store.delivery(delivery_id)
            if delivery is None:
                await self.store.forget_delivery(receiver, delivery_id)
            if delivery is None or delivery.is_over:
                return
            request = await self._request(delivery) if delivery.event == REQUESTED else None
        except StoreUnavailableError as exc:
            logger.warning("a delivery waits for the state store: %s", exc, extra={"action": "deliver"})
            return
        if delivery.event == REQUESTED and request is None:
            await self._keep(delivery.dropped())
            return
        attempt = await self._attempt(delivery, request)
        self._note(receiver, failed=attempt.error is not None)
        after = delivery.tried(attempt, self.engine.clock(), self.settings.webhook_max_attempts)
        await self._keep(after)
        if attempt.error is not None:
            given_up = after.status is DeliveryStatus.FAILED
            logger.log(
                logging.ERROR if given_up else logging.WARNING,
                "%s of job %s did not reach its receiver (attempt %d: %s); %s",
                delivery.event,
                delivery.job_id,
                after.tries,
                attempt.error,
                "it is given up" if given_up else "it is tried again",
                extra={"action": "deliver", "job_id": delivery.job_id, "delivery_id": delivery.id},
            )

    def _note(self, receiver: str, *, failed: bool) -> None:
        if not failed:
            self._failing.pop(receiver, None)
            return
        self._failing[receiver] = None
        if len(self._failing) > MAX_FAILING:
            del self._failing[next(iter(self._failing))]

    async def _request(self, delivery: Delivery) -> ApprovalRequest | None:
        """The question of a delivery; None where it has been answered, or nobody waits for the answer any more."""
        job = await self.store.load(delivery.job_id)
        if job is None or not isinstance(job.waiting, Approval) or job.waiting.id != delivery.id:
            return None
        return await request_of(job, job.waiting, self.store, self.settings)

    async def _attempt(self, delivery: Delivery, request: ApprovalRequest | None) -> DeliveryAttempt:
        at, began = self.engine.clock(), time.perf_counter()
        status_code: int | None = None
        error: str | None = None
        try:
            if request is None:
                status_code = await self._post(delivery.url, delivery, delivery.payload)
            else:
                status_code = await self._ask(delivery, request)
            if status_code is not None and not 200 <= status_code < 300:
                error = f"answered {status_code}"
        except (UrlRefusedError, SendError, ConfigurationError) as exc:
            error = str(exc)
        except Exception as exc:  # an integration is the user's code
            error = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        if error is not None and request is not None:
            error = error.replace(request.token, "***")
        duration = round((time.perf_counter() - began) * 1000, 3)
        return DeliveryAttempt(at, duration, status_code, None if error is None else error[:_MAX_WORDS])

    async def _post(self, url: str | None, delivery: Delivery, payload: JSON) -> int:
        if url is None:
            raise ConfigurationError("there is no URL to send it to: set APPROVAL_WEBHOOK_URL")
        return await send(url, delivery, payload, self.settings, time.time())

    async def _ask(self, delivery: Delivery, request: ApprovalRequest) -> int | None:
        """Passes a question on to its people; the status of the answer where it was posted."""
        name = request.integration
        if name == WEBHOOK:
            url = url_of(request.options.get("url"), self.settings)
            return await self._post(url, delivery, {"approval": approval_body(request)})
        ask = log_question if name == LOG else integrations.find(name)
        if ask is None:
            raise AvtomatikaError(f"this orchestrator has not loaded the integration {name!r}: look at its BLUEPRINTS_DIR")
        await _call(ask, request)
        return None

    async def _keep(self, delivery: Delivery) -> None:
        """Stores how it went as soon as the store answers, so that what was taken is not told again because Redis restarts."""
        wait = 0.1
        while True:
            try:
                await self.store.replace_delivery(delivery)
                return
            except StoreUnavailableError:
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)


async def _call(ask: Ask, request: ApprovalRequest) -> None:
    """Calls an integration, which is the user's code: whatever it raises is an ordinary exception."""
    try:
        async with asyncio.timeout(INTEGRATION_SECONDS) as limit:
            await ask(request)
    except TimeoutError:
        if not limit.expired():
            raise
        raise SendError(f"the integration {request.integration!r} took longer than {INTEGRATION_SECONDS:g} s") from None
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if this is None or this.cancelling():
            raise
        raise SendError(f"the integration {request.integration!r} was cancelled from inside") from None
    except (SystemExit, KeyboardInterrupt, MemoryError) as exc:  # it must not end the orchestrator
        raise RuntimeError(f"{type(exc).__name__}: {exc}") from exc


def approval_body(request: ApprovalRequest) -> JSON:
    """A question as the integration ``webhook`` posts it."""
    fields = asdict(request)
    del fields["options"]
    return {**fields, "decisions": list(request.decisions), "expires_at": timestamp(request.expires_at)}


async def send(url: str, delivery: Delivery, payload: JSON, settings: Settings, now: float) -> int:
    """Posts a delivery, signed now; the answer's status.

    Raises:
        UrlRefusedError: the URL is not to be connected to.
        SendError: no answer.
        ConfigurationError: there is no secret to sign with.
    """
    if settings.webhook_secret is None:
        raise ConfigurationError("this orchestrator has no WEBHOOK_SECRET to sign with: set the one that the facade has")
    envelope = {"event": delivery.event, "delivery_id": delivery.id, "timestamp": timestamp(delivery.created_at), **payload}
    body = json.dumps(envelope, separators=(",", ":"), default=str).encode()
    headers = {
        TIMESTAMP: str(int(now)),
        SIGNATURE: sign(settings.webhook_secret.get_secret_value(), int(now), body),
        DELIVERY: delivery.id,
        EVENT: delivery.event,
    }
    timeout, allow_private = settings.webhook_timeout_seconds, settings.webhook_allow_private
    return await post(url, body, headers, timeout_seconds=timeout, allow_private=allow_private)
