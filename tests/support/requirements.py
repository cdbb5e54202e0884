"""What a test needs of the machine. Missing things skip a test; AVTOMATIKA_REQUIRE names those that must not be missing."""

from __future__ import annotations

import os
import shutil
import socket
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

RABBITMQ_URL = os.environ.get("AVTOMATIKA_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
POSTGRES_URL = os.environ.get("AVTOMATIKA_TEST_POSTGRES_URL", "postgresql://postgres:postgres@127.0.0.1:5432/postgres")


def required() -> frozenset[str]:
    """The names in AVTOMATIKA_REQUIRE, separated by commas."""
    return frozenset(name.strip() for name in os.environ.get("AVTOMATIKA_REQUIRE", "").split(",") if name.strip())


def missing(name: str, why: str) -> NoReturn:
    """Skips the test, or fails it where AVTOMATIKA_REQUIRE names what is missing."""
    if name in required():
        pytest.fail(f"{name} is required (AVTOMATIKA_REQUIRE), but {why}", pytrace=False)
    pytest.skip(f"{name}: {why}")


def require(name: str) -> str:
    """The URL or the path of what a test needs: `postgres`, `rabbitmq`, `sshd` or `chromium`."""
    if name == "rabbitmq":
        return _listening(name, RABBITMQ_URL, 5672)
    if name == "postgres":
        return _listening(name, POSTGRES_URL, 5432)
    if name == "sshd":
        return _command(name, "sshd", "/usr/sbin/sshd")
    if name == "chromium":
        return _command(name, "chromium", "chromium-browser", "google-chrome", "chrome")
    raise ValueError(f"nobody knows how to look for {name!r}")


def _listening(name: str, url: str, default_port: int) -> str:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or default_port
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as exc:
        missing(name, f"nothing answers on {host}:{port} ({exc})")
    return url


def _command(name: str, *candidates: str) -> str:
    for candidate in candidates:
        path = shutil.which(candidate)
        if path is not None:
            return path
    missing(name, f"there is no {candidates[0]} on this machine")
