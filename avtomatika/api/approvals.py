"""Answers to questions: no client's token, but the one that belongs to the question."""

from __future__ import annotations

from aiohttp import web

from avtomatika.api.answers import answer
from avtomatika.api.bodies import TokenDecision, parse, read_object
from avtomatika.api.describe import describe
from avtomatika.api.keys import SERVICE
from avtomatika.api.models import ApprovalReceived


@describe(
    "Decide with the token of a question",
    "approvals",
    description="The token is single-use and belongs to one question. A wrong one, one that was used, another job's and an "
    "unknown job are all answered 403.",
    body=TokenDecision,
    answers={200: ApprovalReceived},
    errors=(400, 403, 409, 422),
)
async def decide_by_token(request: web.Request) -> web.Response:
    body = parse(TokenDecision, await read_object(request), required="decision")
    job_id = request.match_info["job_id"]
    await request.app[SERVICE].decide_by_token(job_id, body.decision, body.token, body.comment)
    return answer({"status": "approval_received", "job_id": job_id})
