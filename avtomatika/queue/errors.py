"""What the queue refuses."""

from __future__ import annotations

from typing import Any

from avtomatika.errors import AvtomatikaError, WrongStateError


class UnknownTaskError(AvtomatikaError):
    """There is no queue task of this id, or it is another client's."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"unknown task {task_id!r}: it never existed, was removed, or is another client's")
        self.task_id = task_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id,)


class ActionFailedError(WrongStateError):
    """A task is not in a state in which this can be done with it.

    Attributes:
        current_status: of the task.
        reason: why not, as a sentence.
    """

    def __init__(self, action: str, task_id: str, current_status: str, reason: str) -> None:
        super().__init__(f"task {task_id} cannot be {_PAST.get(action, action)}: {reason}")
        self.action = action
        self.task_id = task_id
        self.current_status = current_status
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.action, self.task_id, self.current_status, self.reason)


_PAST = {"pause": "paused", "resume": "resumed", "retry": "tried again", "cancel": "cancelled", "remove": "removed"}
