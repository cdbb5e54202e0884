"""The exceptions: what crosses Celery comes back as it was, and every one says something."""

from __future__ import annotations

import inspect
import json
import pickle

import pytest
from celery.backends.base import Backend
from celery.utils.serialization import get_pickleable_exception

import avtomatika.errors
from avtomatika.errors import (
    AvtomatikaError,
    ErrorCode,
    InvalidInputError,
    PermanentError,
    TaskError,
    TransientError,
    UnknownBlueprintError,
    UnknownJobError,
)

TASK_ERRORS = [
    TaskError("disk full", code="NO_SPACE", data={"free": 0}),
    TransientError("busy"),
    PermanentError("gone", data={"path": "/x"}),
    InvalidInputError("params of resize do not fit: width: must be positive"),
    TransientError(),
]


def _json_backend() -> Backend:
    from celery import Celery

    return Backend(Celery("errors", set_as_current=False), serializer="json")


@pytest.mark.parametrize("error", TASK_ERRORS, ids=repr)
def test_a_task_error_survives_pickle(error: TaskError) -> None:
    back = pickle.loads(pickle.dumps(error))

    assert (type(back), str(back), back.code, back.data) == (type(error), str(error), error.code, error.data)


@pytest.mark.parametrize("error", TASK_ERRORS, ids=repr)
def test_celery_takes_a_task_error_as_it_is(error: TaskError) -> None:
    assert get_pickleable_exception(error) is error


@pytest.mark.parametrize("error", TASK_ERRORS, ids=repr)
def test_a_task_error_crosses_a_json_result_backend(error: TaskError) -> None:
    backend = _json_backend()

    stored = json.loads(json.dumps(backend.prepare_exception(error)))
    back = backend.exception_to_python(stored)

    assert isinstance(back, type(error))
    assert str(back) == str(error)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TransientError("x"), ErrorCode.TRANSIENT),
        (PermanentError("x"), ErrorCode.PERMANENT),
        (InvalidInputError("x"), ErrorCode.INVALID_INPUT),
        (TaskError("x"), "TASK_ERROR"),
        (TransientError("x", code="MINE"), "MINE"),
    ],
)
def test_codes(error: TaskError, code: str) -> None:
    assert error.code == code


def test_an_error_without_words_says_its_class() -> None:
    assert str(PermanentError()) == "This will not work however often it is tried; the job goes to quarantine."


def test_ids_are_attributes() -> None:
    assert UnknownJobError("j-1").job_id == "j-1"
    assert UnknownBlueprintError("video", ("audio",)).name == "video"
    assert "audio" in str(UnknownBlueprintError("video", ("audio",)))
    assert "BLUEPRINTS_DIR" in str(UnknownBlueprintError("video"))


def test_one_tree_and_a_sentence_each() -> None:
    own = [value for value in vars(avtomatika.errors).values() if inspect.isclass(value) and issubclass(value, BaseException)]

    assert all(issubclass(cls, AvtomatikaError) for cls in own)
    assert all(cls.__doc__ and cls.__doc__.splitlines()[0].endswith(".") for cls in own)
