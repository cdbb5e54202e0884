"""The settings: where they come from, what they refuse, and what they never show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from avtomatika.errors import ConfigurationError
from avtomatika.settings import Settings, get_settings, masked, read_settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the shell, no avtomatika.toml of the working directory."""
    known = {*Settings.model_fields, "broker_url", "avtomatika_settings"}
    for name in list(os.environ):
        if name.lower() in known:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_no_environment() -> None:
    settings = read_settings()

    assert settings.state_url == "redis://127.0.0.1:6379/0"
    assert settings.broker_url == settings.state_url
    assert settings.broker_is_state
    assert settings.job_max_retries == 3
    assert settings.client_token is None


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "avtomatika.toml").write_text('api_port = 9000\njob_max_retries = 7\nnamespace = "shop"\n')
    monkeypatch.setenv("API_PORT", "9001")

    settings = read_settings()

    assert (settings.api_port, settings.job_max_retries, settings.namespace) == (9001, 7, "shop")


def test_a_named_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "elsewhere.toml"
    named.write_text('broker_url = "amqp://guest:guest@127.0.0.1//"\n')
    monkeypatch.setenv("AVTOMATIKA_SETTINGS", str(named))

    settings = read_settings()

    assert settings.broker_url.startswith("amqp://")
    assert not settings.broker_is_state


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVTOMATIKA_SETTINGS", "/nowhere/avtomatika.toml")

    with pytest.raises(ConfigurationError, match=r"AVTOMATIKA_SETTINGS names /nowhere/avtomatika\.toml"):
        read_settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_PORT", "70000"),
        ("REDIS_PORT", "six"),
        ("WORKER_TIMEOUT_SECONDS", "0"),
        ("JOB_MAX_RETRIES", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("NAMESPACE", "a b"),
        ("QUEUE_PREFIX", "no spaces"),
        ("VISIBILITY_TIMEOUT_SECONDS", "1"),
        ("RATE_LIMIT", "0"),
        ("RATE_LIMIT", "inf"),
        ("RATE_LIMITING_ENABLED", "perhaps"),
        ("BODY_TIMEOUT_SECONDS", "0"),
        ("WEBHOOK_MAX_ATTEMPTS", "0"),
        ("WEBHOOK_TIMEOUT_SECONDS", "0"),
        ("PUBLIC_URL", "jobs.example.com"),
    ],
)
def test_nonsense_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError, match=rf"\n  {variable}: "):
        read_settings()


def test_every_misfit_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "-1")
    monkeypatch.setenv("REDIS_DB", "first")

    with pytest.raises(ConfigurationError) as refused:
        read_settings()

    assert {line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]} == {"API_PORT", "REDIS_DB"}


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "")

    assert read_settings().api_port == 8080


def test_the_log_level_may_be_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")

    assert read_settings().log_level == "DEBUG"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "canary-7c1f"
    monkeypatch.setenv("REDIS_URL", f"redis://:{secret}@127.0.0.1:6379/0")
    monkeypatch.setenv("BROKER_URL", f"amqp://user:{secret}@127.0.0.1//")
    monkeypatch.setenv("HISTORY_DATABASE_URI", f"postgresql://user:{secret}@127.0.0.1/x")
    monkeypatch.setenv("CLIENT_TOKEN", secret)
    monkeypatch.setenv("GLOBAL_WORKER_TOKEN", secret)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)

    settings = read_settings()

    assert secret in settings.state_url
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert secret not in shown


def test_a_refused_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "canary-7c1f")

    with pytest.raises(ConfigurationError) as refused:
        read_settings()

    assert "input_value" not in str(refused.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        read_settings().api_port = 1  # type: ignore[misc]


def test_a_process_reads_them_once() -> None:
    get_settings.cache_clear()
    try:
        assert get_settings() is get_settings()
    finally:
        get_settings.cache_clear()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("amqp://user:secret@broker//", "amqp://user:***@broker//"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:a:a@127.0.0.1/0", "redis://:***@127.0.0.1/0"),
    ],
)
def test_masked_urls(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("state", "broker", "same"),
    [
        ("redis://127.0.0.1:6379/0", "redis://localhost:6379/0", True),
        ("redis://127.0.0.1", "redis://127.0.0.1:6379/0", True),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/1", False),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6380/0", False),
        ("redis://127.0.0.1:6379/0", "amqp://127.0.0.1//", False),
    ],
)
def test_whether_broker_and_state_are_one(monkeypatch: pytest.MonkeyPatch, state: str, broker: str, same: bool) -> None:
    monkeypatch.setenv("REDIS_URL", state)
    monkeypatch.setenv("BROKER_URL", broker)

    assert read_settings().broker_is_state is same


@pytest.mark.parametrize(
    ("health", "interval", "heartbeat", "silence"),
    [("60", "15", 15, 120), ("3", "15", 1, 6), ("60", "60", 20, 120)],
)
def test_heartbeat_and_silence(
    monkeypatch: pytest.MonkeyPatch, health: str, interval: str, heartbeat: float, silence: float
) -> None:
    monkeypatch.setenv("WORKER_HEALTH_CHECK_INTERVAL_SECONDS", health)
    monkeypatch.setenv("HEARTBEAT_INTERVAL_SECONDS", interval)

    settings = read_settings()

    assert (settings.heartbeat, settings.silence) == (heartbeat, silence)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"api_host": "0.0.0.0", "api_port": 9000}, "http://127.0.0.1:9000"),
        ({"api_host": "::1"}, "http://[::1]:8080"),
        ({"public_url": "https://jobs.example.com/flow/"}, "https://jobs.example.com/flow"),
    ],
)
def test_where_the_facade_is_found_from_outside(given: dict[str, Any], base: str) -> None:
    assert read_settings(**given).public_base == base
