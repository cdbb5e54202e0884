"""Operations: remote work as tasks. For whoever writes families of their own, everything needed is here.

See docs/operations.md.
"""

from avtomatika.operations.base import Family, Operation, Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, OperationStopped, PolicyError, StopReason
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus, TaskType

__all__ = [
    "Family",
    "Operation",
    "OperationContext",
    "OperationError",
    "OperationStopped",
    "Params",
    "Permit",
    "PolicyError",
    "StopReason",
    "TaskErrorCode",
    "TaskStatus",
    "TaskType",
]
