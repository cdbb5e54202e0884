"""Schemathesis against a real facade: whatever it sends, every answer is one that the document describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.support.processes import REPOSITORY, Facade, Processes
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("fuzz")]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    ignored_auth,
    unsupported_method,
]
# Answers that do not end by themselves, and a page for people.
ENDLESS = r"/events$|/ws(/|$)|/tasks/next$|/_public/docs"
TOKENS = {"X-Avtomatika-Token": "client-token", "X-Worker-Token": "worker-client-token"}
SETTINGS = hypothesis.settings(
    max_examples=8,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


@pytest.fixture
def facade(processes: Processes, redis_server: RedisServer, namespace: str, tmp_path: Path) -> Facade:
    env = {"REDIS_URL": redis_server.url, "NAMESPACE": namespace, "BLUEPRINTS_DIR": str(REPOSITORY / "blueprints")}
    env |= {"HISTORY_DATABASE_URI": f"sqlite:///{tmp_path / 'history.sqlite3'}", "HISTORY_AUTO_UPGRADE": "true"}
    return processes.make(Facade, env={**env, "RATE_LIMITING_ENABLED": "false"})


def _post(facade: Facade, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = requests.post(facade.url + path, json=body, headers=TOKENS, timeout=30)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _run(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, there: dict[str, str]) -> None:
    """Calls one operation with data that fits its description, or that does not; half of it about what is there."""

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=hypothesis.strategies.booleans())
    @SETTINGS
    def calls(case: schemathesis.Case, known: bool) -> None:
        if known:
            case.path_parameters.update({name: there[name] for name in case.path_parameters})
        case.call_and_validate(headers=TOKENS, checks=CHECKS)

    calls()


def test_every_answer_is_as_described(facade: Facade) -> None:
    schema = schemathesis.openapi.from_url(f"{facade.url}/_public/openapi.json").exclude(path_regex=ENDLESS)
    _post(facade, "/_worker/workers/register", {"worker_id": "w1", "supported_tasks": ["greet"]})
    failures: list[BaseException] = []
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        count += 1
        job_id = _post(facade, "/api/v1/hello", {})["job_id"]
        for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
            try:
                _run(operation, mode, {"job_id": job_id, "name": "hello", "worker_id": "w1"})
            except (hypothesis.errors.Unsatisfiable, hypothesis.errors.InvalidArgument):
                assert mode is schemathesis.GenerationMode.NEGATIVE, operation.label
            except (Exception, BaseExceptionGroup) as exc:  # all that fail are to be seen at once
                exc.add_note(f"{operation.label}, {mode.value} data")
                failures.append(exc)
    assert count > 15
    if failures:
        raise BaseExceptionGroup("answers that the document does not describe", failures)
