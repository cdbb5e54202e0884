"""Checks of a host, each with its verdict."""

from __future__ import annotations

from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.network.checks import check
from avtomatika.operations.network.family import family
from avtomatika.operations.network.params import NetworkTest, guard
from avtomatika.results import JSON


@family.operation("network_test", timeout_seconds=60, max_retries=0, guard=guard)
async def network_test(params: NetworkTest, op: OperationContext) -> JSON:
    """Looks whether a host's name, port, certificate or URL is well, with a verdict for each."""
    verdicts = []
    for number, kind in enumerate(params.kinds):
        op.progress(number / len(params.kinds), f"checking {kind}")
        verdicts.append(await check(kind, params, op))
    said = [verdict.to_dict() for verdict in verdicts]
    failed = [verdict for verdict in verdicts if verdict.failure is not None]
    if failed and not params.report_only:
        failure = failed[0].failure
        assert failure is not None
        message = f"{len(failed)} of {len(verdicts)} checks failed; {failed[0].kind}: {failure}"
        raise OperationError(failure.code, message, details={**failure.details, "checks": said}, kind=failure.kind)
    last = said[-1]
    return {
        "host": last.get("host"),
        "address": last.get("address"),
        "port": last.get("port", params.port),
        "reachable": not failed,
        "seconds": last["seconds"],
        "checks": said,
    }
