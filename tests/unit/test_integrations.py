"""Integrations that users add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avtomatika import integrations
from avtomatika.discovery import load_blueprints
from avtomatika.errors import ConfigurationError
from avtomatika.integrations import ApprovalRequest, find, integration, known, register_integration


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrations, "_known", {})


async def mail(request: ApprovalRequest) -> None: ...


def test_a_function_becomes_an_integration_and_stays_itself() -> None:
    assert integration("mail")(mail) is mail
    assert (known(), find("mail"), find("log")) == (("log", "mail", "webhook"), mail, None)


def test_an_object_with_an_async_call_is_one_too() -> None:
    class Mailer:
        async def __call__(self, request: ApprovalRequest) -> None: ...

    mailer = Mailer()
    register_integration("mail", mailer)
    assert find("mail") is mailer


@pytest.mark.parametrize("name", ["log", "webhook", "mail"])
def test_a_name_is_given_once(name: str) -> None:
    integration("mail")(mail)

    async def another(request: ApprovalRequest) -> None: ...

    with pytest.raises(ConfigurationError, match=f"{name!r} already"):
        integration(name)(another)


@pytest.mark.parametrize(
    ("name", "ask", "words"), [("", mail, "needs a name"), ("x", lambda r: None, "async"), ("x", 5, "async")]
)
def test_what_is_refused(name: Any, ask: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        register_integration(name, ask)


def test_the_token_is_not_shown() -> None:
    request = ApprovalRequest("j", "b", "?", ("yes",), "canary-1", {})
    assert "canary-1" not in repr(request)


BLUEPRINT = """
from avtomatika import Blueprint

bp = Blueprint("asks")

@bp.handler_for("start", is_start=True)
async def start(actions):
    actions.await_human_approval("{name}", "?", {{"yes": "end"}})

@bp.handler_for("end", is_end=True)
async def end(): ...
"""
INTEGRATION = """
from avtomatika import integration

@integration("pager")
async def page(request): ...
"""


def test_a_file_beside_the_blueprints_adds_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "asks.py").write_text(BLUEPRINT.format(name="pager"))
    (tmp_path / "zz_pager.py").write_text(INTEGRATION)

    registry = load_blueprints(tmp_path)

    assert "pager" in known()
    assert registry.check().warnings == ()
    assert "integration" not in caplog.text


def test_a_name_that_nobody_adds_is_a_warning_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "asks.py"
    file.write_text(BLUEPRINT.format(name="webhok"))

    registry = load_blueprints(tmp_path)

    (warning,) = registry.check().warnings
    assert str(warning) == f"{file}:8: await_human_approval names the unknown integration 'webhok'; did you mean 'webhook'?"
    assert str(warning) in caplog.text
