"""The audit: who asked for which operation, what the policy said, and how it ended. A log record always, and ``audit_file``.

A privileged operation does not begin where its line cannot be written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from avtomatika.errors import ErrorCode
from avtomatika.jobs import Client, TaskInfo
from avtomatika.operations.auditfile import AuditError, append
from avtomatika.operations.base import Operation
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import OperationsConfig, operations_config
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, StopReason
from avtomatika.operations.policy import Permit, permit_of
from avtomatika.operations.registry import registry
from avtomatika.operations.secrets import redacted
from avtomatika.results import JSON
from avtomatika.settings import Settings

logger = logging.getLogger("avtomatika.audit")
logger.setLevel(logging.INFO)  # whatever LOG_LEVEL says

Admit = Callable[[JSON, Client, Settings], JSON]
#: No operation's name is longer.
_NAME = 100
#: Of a longer text in the parameters, the beginning is kept.
_TEXT = 500
#: Parameters that take more than this are kept as their hash only.
_MOST_PARAMS = 16 * 1024
#: What a result may say of what was done.
_RESULT = ("exit_code", "signal", "bytes", "files", "status_code", "deleted", "address")
_HOST_KEYS = frozenset({"host", "hosts", "jump"})
_OUTCOMES = {
    StopReason.CANCEL: "cancelled",
    StopReason.PAUSE: "paused",
    StopReason.SHUTDOWN: "interrupted",
    StopReason.TIMEOUT: "timed out",
    None: "failed",
}


def audited(admit: Admit) -> Admit:
    """The same admission of queue tasks, and what it decides is written down."""

    @wraps(admit)
    def judge(initial_data: JSON, client: Client, settings: Settings) -> JSON:
        config = operations_config(settings)
        permit = permit_of(client, "operation", config)
        name = str(initial_data.get("task_type") or "")[:_NAME]
        line = _line(client, name, initial_data.get("params") or {}, permit)
        try:
            admitted = admit(initial_data, client, settings)
        except OperationError as exc:
            _write(config, {"event": "refused", **line, **_refusal(exc)})
            raise
        operation = registry().get(name)
        _write(config, {"event": "queued", **line, **_allowance(permit, operation)}, must=operation.privileged)
        return admitted

    return judge


class Trail:
    """What one attempt leaves in the audit."""

    def __init__(self, config: OperationsConfig, operation: Operation, task_id: str) -> None:
        self._config = config
        self._operation = operation
        self._task_id = task_id
        self._line: JSON | None = None
        self._outcome: JSON = {}

    def known(self, info: TaskInfo, permit: Permit) -> None:
        """Whose attempt it is, and at what."""
        line = _line(permit.client, self._operation.name, info.params, permit)
        self._line = {**line, "job_id": info.job_id, "task_id": info.id, "attempt": info.attempt}

    async def started(self, permit: Permit) -> None:
        """It begins now. Raises OperationError where it must not, since that cannot be written down."""
        line = {"event": "started", **(self._line or {}), **_allowance(permit, self._operation)}
        await asyncio.to_thread(_write, self._config, line, must=self._operation.privileged)

    async def refused(self, exc: OperationError) -> None:
        """It does not begin."""
        line = self._line or {**_line(Client(role=""), self._operation.name, {}, None), "task_id": self._task_id}
        await asyncio.to_thread(_write, self._config, {"event": "refused", **line, **_refusal(exc)})

    def succeeded(self, result: JSON) -> None:
        said = {key: result[key] for key in _RESULT if isinstance(result.get(key), str | int | float)}
        self._outcome = {"outcome": "succeeded", **said}

    def failed(self, exc: OperationError) -> None:
        said = {key: exc.details[key] for key in _RESULT if isinstance(exc.details.get(key), str | int | float)}
        self._outcome = {"outcome": "failed", "error_code": exc.code.value, **said}

    async def ended(self, op: OperationContext) -> None:
        """It has ended: as was said, or as it was told to stop."""
        outcome = self._outcome or {"outcome": _OUTCOMES[op.stop_reason]}
        line = op.mask.json({"event": "ended", **(self._line or {}), **outcome})
        await asyncio.to_thread(_write, self._config, line)


def _line(client: Client, operation: str, params: Any, permit: Permit | None) -> JSON:
    clean = redacted(params, most=1 << 62)
    text = json.dumps(clean, sort_keys=True, separators=(",", ":"), default=str)
    return {
        "who": client.name,
        "role": client.role,
        "operation": operation,
        **(_places(params, permit) if permit is not None and isinstance(params, dict) else {}),
        "params_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "params": redacted(params, most=_TEXT) if len(text) <= _MOST_PARAMS else None,
    }


def _places(params: JSON, permit: Permit) -> JSON:
    """Where it goes, as whom, and with which credential (its name)."""
    names = list(dict.fromkeys(_hosts(params)))
    hosts = [permit.config.hosts[name] for name in names if name in permit.config.hosts]
    credential = _text(params, "credential") or next((host.credential for host in hosts if host.credential), None)
    entry = permit.config.credentials.get(credential or "")
    user = _text(params, "username") or next((host.username for host in hosts if host.username), None)
    return {
        "hosts": names,
        "addresses": [host.address or host.name for host in hosts],
        "user": user or (entry.username if entry is not None else None),
        "credential": credential,
    }


def _hosts(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for key, item in value.items():
                if key in _HOST_KEYS:
                    yield from (name for name in (item if isinstance(item, list) else [item]) if isinstance(name, str))
                if isinstance(item, dict | list):
                    yield from _hosts(item)
        case list():
            for item in value:
                if isinstance(item, dict | list):
                    yield from _hosts(item)


def _text(params: JSON, key: str) -> str | None:
    value = params.get(key)
    return value if isinstance(value, str) else None


def _allowance(permit: Permit, operation: Operation) -> JSON:
    return {"decision": "allowed", "rule": permit.rule(operation)}


def _refusal(exc: OperationError) -> JSON:
    return {"decision": "refused", "rule": str(exc), "outcome": "refused", "error_code": exc.code.value}


def _write(config: OperationsConfig, record: JSON, *, must: bool = False) -> None:
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
    path = config.audit_file
    try:
        if path is not None:
            record = append(path, record, durable=must)
    except AuditError as exc:
        logger.error("%s", exc, extra={"action": "audit_failed"})
        if must:
            raise OperationError(
                TaskErrorCode.CONFIGURATION_ERROR,
                f"{record['operation']} is privileged, and does not begin without its line in the audit: {exc}",
                kind=ErrorCode.TRANSIENT,
            ) from None
    finally:
        text = json.dumps(record, ensure_ascii=True, default=str)  # ASCII: whatever is in it ends no line and turns no terminal
        logger.info("%s", text, extra={"action": "audit", "audit": record})
