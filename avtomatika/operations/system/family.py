"""The family ``system``, and what its exceptions mean."""

from __future__ import annotations

import sys

from avtomatika.operations.base import Family
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.files import judge_os


def _judge(exc: BaseException) -> OperationError | None:
    psutil = sys.modules.get("psutil")
    if psutil is not None and isinstance(exc, psutil.AccessDenied):
        return OperationError(TaskErrorCode.SYSTEM_PERMISSION_DENIED, "the system does not tell this user")
    return judge_os(exc)


family = Family("system", extra="system", modules=("psutil",), judge=_judge)
