"""Questions to people: how one is asked, who may answer it, and what becomes of it when nobody does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from typing import TYPE_CHECKING

from avtomatika import integrations
from avtomatika.addresses import UrlRefusedError, receiver_of
from avtomatika.blueprint.actions import AwaitApproval
from avtomatika.deliveries import Delivery
from avtomatika.engine.attempts import assert_plain
from avtomatika.engine.draft import Draft, approval_timer
from avtomatika.engine.webhooks import check_webhook
from avtomatika.errors import FailureCode, HandlerError, TokenRefusedError, UnknownDecisionError, UnknownJobError, WrongStateError
from avtomatika.integrations import LOG, WEBHOOK, ApprovalRequest
from avtomatika.jobs import Approval, Failure, Job, JobStatus, new_id
from avtomatika.settings import Settings
from avtomatika.state.base import Store

if TYPE_CHECKING:
    from avtomatika.engine.results import Engine

logger = logging.getLogger(__name__)

REQUESTED = "approval.requested"
SECRET = "approvals"  # noqa: S105 - the name of a secret
_NO_DIGEST = "0" * 64


async def token_of(store: Store, job_id: str, approval_id: str) -> str:
    """The token of a question: made anew, the same each time, of the installation's secret. Nothing stored for a job holds it."""
    secret = await store.secret(SECRET)
    digest = hmac.new(secret.encode(), f"{job_id}|{approval_id}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


async def ask(draft: Draft, action: AwaitApproval, state: str, store: Store, settings: Settings) -> None:
    """The job waits for a person, whom the integration is asked to tell; both come into being in one change.

    Raises:
        HandlerError: the integration is unknown, or lacks what it needs; or the options are not JSON.
    """
    receiver = _receiver(action, settings)
    assert_plain("options of await_human_approval", action.options)
    approval_id = new_id()
    digest = digest_of(await token_of(store, draft.job.id, approval_id))
    deadline = None if action.timeout_seconds is None else draft.now + action.timeout_seconds
    approval = Approval(
        id=approval_id,
        integration=action.integration,
        message=action.message,
        transitions=action.transitions,
        token_hash=digest,
        asked_at=draft.now,
        deadline_at=deadline,
        on_timeout=action.on_timeout,
        options=action.options,
    )
    draft.wait(JobStatus.WAITING_FOR_HUMAN, approval)
    details = {"message": action.message, "integration": action.integration, "decisions": sorted(action.transitions)}
    draft.event("approval_requested", state=state, details=details)
    draft.deliveries.append(Delivery(approval_id, draft.job.id, REQUESTED, receiver, draft.now, draft.now))
    if deadline is not None:
        draft.timers.append(approval_timer(draft.job.id, approval_id, deadline))


def _receiver(action: AwaitApproval, settings: Settings) -> str:
    name = action.integration
    if name not in integrations.known():
        raise HandlerError(
            f"await_human_approval names the unknown integration {name!r}; there are {', '.join(integrations.known())}. "
            "Correct the name, or add it with @integration in a file of BLUEPRINTS_DIR"
        )
    if name != WEBHOOK:
        return f"integration:{name}"
    url = url_of(action.options.get("url"), settings)
    if url is None:
        raise HandlerError('the integration "webhook" needs a URL: set APPROVAL_WEBHOOK_URL, or give options={"url": …}')
    try:
        check_webhook(url, settings)
    except UrlRefusedError as exc:
        raise HandlerError(f'the integration "webhook" cannot be used: {exc}') from None
    return receiver_of(url)


def url_of(given: object, settings: Settings) -> str | None:
    """Where the integration ``webhook`` sends a question: where the handler says, else APPROVAL_WEBHOOK_URL."""
    return given if isinstance(given, str) and given else settings.approval_webhook_url


async def request_of(job: Job, approval: Approval, store: Store, settings: Settings) -> ApprovalRequest:
    """What an integration is given."""
    base = settings.public_base
    return ApprovalRequest(
        job_id=job.id,
        blueprint_name=job.blueprint_name,
        message=approval.message,
        decisions=tuple(sorted(approval.transitions)),
        token=await token_of(store, job.id, approval.id),
        links={"decide": f"{base}/_public/webhooks/approval/{job.id}", "job": f"{base}/api/v1/jobs/{job.id}"},
        expires_at=approval.deadline_at,
        client=job.client.name,
        id=approval.id,
        integration=approval.integration,
        options=approval.options,
    )


async def log_question(request: ApprovalRequest) -> None:
    """The integration ``log``: says how to answer without the token, which is a secret."""
    logger.info(
        "job %s (%s) asks: %s - answer with `avtomatika job decide %s %s`",
        request.job_id,
        request.blueprint_name,
        " ".join(request.message.split()),
        request.job_id,
        "|".join(request.decisions) or "DECISION",
        extra={"action": "approval", "job_id": request.job_id, "integration": LOG},
    )


async def decide(
    engine: Engine, job_id: str, decision: str, *, comment: str | None = None, who: str = "", approval_id: str | None = None
) -> Job:
    """Answers the question that a job waits with; the job goes on in the state that the decision leads to.

    Args:
        approval_id: where given, it must wait with this very question.

    Raises:
        UnknownJobError: no such job.
        UnknownDecisionError: the decision is not among its transitions.
        WrongStateError: it waits for no decision, or with another question.
    """
    asked = approval_id
    while True:  # until no other order comes first
        job = await engine.store.load(job_id)
        if job is None:
            raise UnknownJobError(job_id)
        if not isinstance(job.waiting, Approval):
            raise WrongStateError(f"job {job_id} is {job.status.value}: it waits for no decision")
        asked = asked or job.waiting.id
        if asked != job.waiting.id:
            raise WrongStateError(f"job {job_id} waits with another question by now")
        draft = Draft(job, engine.clock(), engine.compiler)
        _decide(draft, job.waiting, decision, comment, who)
        commit = draft.commit()
        done = await engine.store.commit(commit)  # a store that is away is said, not waited for: a person waits here
        if done.applied:
            await engine.after(done)
            return commit.job


def _decide(draft: Draft, approval: Approval, decision: str, comment: str | None, who: str) -> None:
    state = approval.transitions.get(decision)
    if state is None:
        listed = ", ".join(sorted(approval.transitions)) or "none"
        raise UnknownDecisionError(f"decision {decision!r} is none of: {listed}")
    draft.leave_waiting()
    details = {"decision": decision, "by": who, **({"comment": comment} if comment else {})}
    draft.event("approval_decided", state=draft.job.current_state, next_state=state, details=details)
    said = {"approval": {"decision": decision, "comment": comment, "by": who}}
    draft.set(state_history={**draft.job.state_history, **said})
    draft.go_to(state)


async def decide_by_token(engine: Engine, job_id: str, decision: str, token: str, comment: str | None = None) -> Job:
    """Answers a question with its token; whoever has that may answer.

    Raises:
        TokenRefusedError: not the token of a question that this job waits with; unknown jobs are answered the same.
        UnknownDecisionError: the token is right, and the decision is none that leads on.
        WrongStateError: somebody else was faster.
    """
    job = await engine.store.load(job_id)
    approval = job.waiting if job is not None and isinstance(job.waiting, Approval) else None
    expected = approval.token_hash if approval is not None else _NO_DIGEST
    is_right = hmac.compare_digest(digest_of(token), expected)
    if approval is None or not is_right:
        raise TokenRefusedError()
    return await decide(engine, job_id, decision, comment=comment, who=f"webhook:{approval.integration}", approval_id=approval.id)


async def give_up(engine: Engine, job_id: str, approval_id: str) -> None:
    """The time of a question is over: the job goes where it says, or fails."""
    while True:
        job = await engine.store.load(job_id)
        if job is None or not isinstance(job.waiting, Approval) or job.waiting.id != approval_id:
            return
        draft = Draft(job, engine.clock(), engine.compiler)
        _give_up(draft, job.waiting)
        if await engine.commit(draft.commit()):
            return


def _give_up(draft: Draft, approval: Approval) -> None:
    seconds = (approval.deadline_at or draft.now) - approval.asked_at
    reason = f"nobody decided within {seconds:g} s: {approval.message}"
    draft.leave_waiting()
    draft.event("approval_timed_out", state=draft.job.current_state, next_state=approval.on_timeout, details={"reason": reason})
    if approval.on_timeout is None:
        draft.end(JobStatus.FAILED, reason, Failure(FailureCode.TIMEOUT, 1))
        return
    draft.set(state_history={**draft.job.state_history, "approval": {"decision": None, "comment": None, "by": None}})
    draft.go_to(approval.on_timeout)
