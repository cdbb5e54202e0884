"""What `avtomatika up` runs on one machine: an embedded Redis, an orchestrator, workers, the facade; kept alive until a stop."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import secrets
import signal
import site
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType

import redis

import avtomatika
from avtomatika.embedded import EmbeddedRedis
from avtomatika.errors import AvtomatikaError, ConfigurationError, StoreUnavailableError
from avtomatika.keeper import Child, ChildFailedError, Keeper
from avtomatika.private import kept_secret, write_private
from avtomatika.settings import Settings, read_settings

logger = logging.getLogger(__name__)

# (signal, seconds): together they stay under the 15 s that a stop may take. SIGTERM lets a worker finish what ends soon,
# SIGQUIT makes Celery hand the rest back to the broker.
STOPS = (
    (("worker", "flower"), ((signal.SIGTERM, 5.0), (signal.SIGQUIT, 2.0))),
    (("orchestrator",), ((signal.SIGTERM, 2.0), (signal.SIGQUIT, 1.0))),
    (("facade",), ((signal.SIGTERM, 1.5),)),
)
STOP_REDIS = 2.0


class StoppedError(AvtomatikaError):
    """A signal asked for the stop before everything was ready."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and where.

    Attributes:
        data_dir: Redis data, history, tokens and logs; one `up` at a time.
        blueprints, workers: folders; None means BLUEPRINTS_DIR and WORKERS_DIR.
        queues: capabilities that the workers serve (``gpu,cpu``); empty means all they declare.
        worker_count: capability workers; 0 for none.
        host, port: of the facade; None means API_HOST and API_PORT, port 0 a free one.
        verbose: the children's logs go to the terminal, too.
    """

    data_dir: Path = Path(".avtomatika")
    blueprints: Path | None = None
    workers: Path | None = None
    queues: tuple[str, ...] = ()
    worker_count: int = 1
    host: str | None = None
    port: int | None = None
    flower: bool = False
    verbose: bool = False


class Supervisor:
    """Starts everything, restarts what dies, stops everything; a `with` block starts and stops.

    One thread: whoever holds it calls `check` now and then (`run` and `wait_ready` do).
    """

    def __init__(self, plan: Plan, settings: Settings | None = None, echo: Callable[[str], None] | None = None) -> None:
        settings = settings if settings is not None else read_settings()
        self.plan = plan
        self.data_dir = plan.data_dir.absolute()
        self.host = plan.host or settings.api_host
        self.port = settings.api_port if plan.port is None else plan.port
        self.token = settings.client_token.get_secret_value() if settings.client_token is not None else ""
        self.token_is_new = False
        self.worker_token = settings.global_worker_token.get_secret_value() if settings.global_worker_token is not None else ""
        self.worker_token_is_new = False
        self.redis = EmbeddedRedis(self.data_dir / "redis")
        self._settings = settings
        self._echo = echo if echo is not None else partial(print, flush=True)
        self._keeper = Keeper(show=self._echo if plan.verbose else None)
        self._signals = 0

    @property
    def children(self) -> tuple[Child, ...]:
        """The children as they are now; none before the start and after the stop."""
        return tuple(self._keeper.children)

    @property
    def url(self) -> str:
        """Where the facade serves."""
        host, scheme = _reachable(self.host), "http" if self._settings.api_tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def __enter__(self) -> Supervisor:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def run(self) -> int:
        """Runs until SIGINT, SIGTERM or SIGHUP; returns the exit code: 0, or 1 where a child could not be kept alive."""
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # nohup means it
                signal.signal(name, self._on_signal)
        try:
            with self:
                if self.token_is_new:
                    self._echo(f"token {self.token} (kept in {self.data_dir / 'client-token'}, shown this once)")
                if self.worker_token_is_new:
                    self._echo(f"worker-token {self.worker_token} (kept in {self.data_dir / 'worker-token'}, shown this once)")
                self.wait_ready()
                self._echo(f"ready {self.url}")
                while not self._signals:
                    self.check()
                    time.sleep(0.1)
                self._echo("stopping")
        except StoppedError:
            return 0
        except ChildFailedError as exc:
            self._echo(str(exc))
            return 1
        return 0

    def start(self) -> None:
        """Starts Redis and every child; returns before they are ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.redis.start()
        self.port = _checked_port(self.host, self.port)
        if self.plan.flower and find_spec("flower") is None:
            raise ConfigurationError("Flower is not installed: pip install 'avtomatika[flower]', or leave --flower out")
        self._refuse_bad_blueprints()
        if not self.token:
            self.token, self.token_is_new = kept_secret(self.data_dir / "client-token")
        if not self.worker_token:
            self.worker_token, self.worker_token_is_new = kept_secret(self.data_dir / "worker-token")
        for child in self._children():
            self._keeper.start(child)
        write_private(self.data_dir / "up.json", json.dumps({"pid": os.getpid(), "url": self.url}))

    def wait_ready(self, timeout: float = 120) -> None:
        """Returns once the facade serves and the orchestrator and every worker have registered."""
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            if self._signals:
                raise StoppedError("stopped before it was ready")
            missing = self._missing()
            if not missing:
                return
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {child.log}\n{child.tail(10)}" for child in missing)
                names = ", ".join(child.name for child in missing)
                raise ChildFailedError(f"not ready after {timeout:.0f} s: {names}\n{tails}")
            time.sleep(0.2)

    def check(self) -> None:
        """Restarts what has died; raises ChildFailedError where a child dies too often."""
        if self.redis.pid is not None and not self.redis.running:
            logger.warning("embedded Redis died and is started again", extra={"action": "redis_restart"})
            try:
                self.redis.start(timeout=10)
            except ConfigurationError as exc:
                raise ChildFailedError(str(exc)) from exc
        self._keeper.check()

    def stop(self) -> None:
        """Ends workers, then the orchestrator, then the facade, then Redis; kills what overstays. Nothing is left behind."""
        hurry_at = self._signals + 1

        def hurry() -> bool:
            return self._signals > hurry_at

        for roles, steps in STOPS:
            self._keeper.end(roles, steps, hurry)
        owned = self.redis.pid is not None
        self.redis.stop(timeout=0 if hurry() else STOP_REDIS)
        if owned:
            (self.data_dir / "up.json").unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Only counts: a handler runs between any two instructions of the main thread, and must take no lock that it holds.
        self._signals += 1

    def _missing(self) -> list[Child]:
        """Children that are not ready yet. The facade is asked first, since it is ready first."""
        facade = [child for child in self.children if child.role == "facade" and not self._serves()]
        expected = [child for child in self.children if child.role in ("orchestrator", "worker")]
        if facade:
            return facade + expected
        try:
            seen = asyncio.run(_registered(self._child_settings()))
        except (StoreUnavailableError, redis.RedisError, OSError):  # it may be on its way up again
            return expected
        return [child for child in expected if child.process is None or seen.get(child.name, 0.0) < child.started_at]

    def _serves(self) -> bool:
        return _serves(self.host, self.port, self._settings)

    def _child_settings(self) -> Settings:
        return read_settings(redis_url=self.redis.url, broker_url=self.redis.url)

    def _refuse_bad_blueprints(self) -> None:
        # In a process of its own: the folder's modules are the user's code.
        argv = [sys.executable, "-m", "avtomatika", "blueprint", "ls", "--json"]
        done = subprocess.run(argv, env=self._environment(), capture_output=True, text=True)  # noqa: S603
        if done.returncode != 0:
            raise ConfigurationError(
                done.stderr.strip().removeprefix("Error: ") or f"blueprints do not load (code {done.returncode})"
            )

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        history = settings.history_database_uri
        blueprints = (self.plan.blueprints or settings.blueprints_dir).absolute()
        workers = (self.plan.workers or settings.workers_dir).absolute()
        kept_back = ("CLIENT_TOKEN", "GLOBAL_WORKER_TOKEN", "WEBHOOK_SECRET")
        env = {name: value for name, value in os.environ.items() if name not in kept_back}
        env.update(
            REDIS_URL=self.redis.url,
            BROKER_URL=self.redis.url,
            HISTORY_DATABASE_URI=(
                history.get_secret_value() if history is not None else f"sqlite:///{self.data_dir / 'history.sqlite3'}"
            ),
            HISTORY_AUTO_UPGRADE="true",
            BLUEPRINTS_DIR=str(blueprints),
            WORKERS_DIR=str(workers),
            PYTHONUNBUFFERED="1",
        )
        package = str(Path(avtomatika.__file__).absolute().parents[1])
        if package not in [*site.getsitepackages(), site.getusersitepackages()]:
            env["PYTHONPATH"] = os.pathsep.join(part for part in (package, env.get("PYTHONPATH")) if part)
        return env

    def _children(self) -> list[Child]:
        env = self._environment()
        tokens = {"CLIENT_TOKEN": self.token, "GLOBAL_WORKER_TOKEN": self.worker_token}
        # Those that talk to the world outside sign with the secret, and say where the facade is.
        secret = self._settings.webhook_secret
        outward = {**env, "API_HOST": self.host, "API_PORT": str(self.port)}
        outward |= {"WEBHOOK_SECRET": secret.get_secret_value()} if secret is not None else {}
        facade_env = {**outward, **tokens}
        place = _node_id(self.data_dir)
        celery = [sys.executable, "-m", "celery", "-A", "avtomatika"]
        options = ["--without-gossip", "--without-mingle", "-l", self._settings.log_level]
        queues = ["-Q", ",".join(self.plan.queues)] if self.plan.queues else []

        def child(name: str, role: str, argv: list[str], env: dict[str, str] = env) -> Child:
            return Child(name, role, argv, env, self.data_dir / "logs" / f"{name.partition('@')[0]}.log")

        children = [child("facade", "facade", [sys.executable, "-m", "avtomatika", "server"], facade_env)]
        name = f"orchestrator@{place}"
        children.append(child(name, "orchestrator", [*celery, "worker", "-Q", "orchestrator", "-n", name, *options], outward))
        for number in range(1, self.plan.worker_count + 1):
            name = f"worker-{number}@{place}"
            children.append(child(name, "worker", [*celery, "worker", *queues, "-n", name, *options]))
        if self.plan.flower:
            children.append(child("flower", "flower", [*celery, "flower", "--address=127.0.0.1"]))
        return children


def running_facade(data_dir: Path) -> str | None:
    """The URL of the facade of the `up` that runs on this data directory, or None."""
    try:
        return str(json.loads((data_dir / "up.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _node_id(data_dir: Path) -> str:
    """Names this data directory in the workers' ids: the same at every start, wherever the directory is moved."""
    path = data_dir / "node-id"
    if not path.exists():
        write_private(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def _checked_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise ConfigurationError(
                f"cannot listen on {host} port {port}: {exc.strerror}; choose another with --port (0 takes a free one) and --host"
            ) from None
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """An address to reach a server by that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _serves(host: str, port: int, settings: Settings) -> bool:
    """Whether it answers. Whose certificate it shows does not matter here: it is asked nothing, and told nothing."""
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=2)
    if settings.api_tls_cert is not None:
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(_reachable(host), port, timeout=2, context=context)
    try:
        connection.connect()
        if settings.api_tls_cert is not None and settings.api_tls_client_auth == "required":
            return True  # it speaks TLS, and answers only those who come with a certificate
        connection.request("GET", "/_public/status")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _registered(settings: Settings) -> dict[str, float]:
    """Registered processes by id, each with the time it registered."""
    from avtomatika.runtime import open_store

    store = open_store(settings)
    try:
        await store.synchronise()
        return {record.id: max(record.registered_at, 0.0) for record in await store.workers(store.clock())}
    finally:
        await store.close()
