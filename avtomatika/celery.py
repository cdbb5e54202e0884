"""The Celery app: `celery -A avtomatika` finds it here.

Settings come from avtomatika.settings; a `celeryconfig` module in the working directory is laid over what is set here.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import Collection
from typing import Any

from celery import Celery
from celery.signals import after_setup_logger, after_setup_task_logger, celeryd_init

from avtomatika.broker.amqp import heartbeat_seconds
from avtomatika.broker.consumer import CapabilityConsumerStep
from avtomatika.broker.queues import ORCHESTRATOR
from avtomatika.broker.redis import transport_options
from avtomatika.broker.watchdog import WatchdogStep
from avtomatika.discovery import load_workers
from avtomatika.engine import tasks as engine_tasks
from avtomatika.errors import AvtomatikaError
from avtomatika.logs import use_format
from avtomatika.operations.config import operations_config
from avtomatika.runtime import Runtime, pin_declared
from avtomatika.settings import Settings, get_settings
from avtomatika.worker import runner
from avtomatika.worker.presence import Arrival, Presence
from avtomatika.worker.sdk import declared, use

logger = logging.getLogger(__name__)


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings."""
    prefix = settings.queue_prefix
    conf: dict[str, Any] = {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_channel_error_retry": True,
        "broker_connection_max_retries": None,  # however long the broker is away
        "result_backend": "avtomatika.broker.backend:JoinBackend",
        "worker_pool": "avtomatika.worker.pool:AsyncPool",
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,  # Flower switches events on while it runs
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_acks_late": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": f"{prefix}celery",
    }
    if prefix:
        conf["control_exchange"] = f"{prefix}celery"
        conf["event_exchange"] = conf["event_queue_prefix"] = f"{prefix}celeryev"
    if settings.broker_url.startswith("redis"):
        conf["broker_transport"] = "avtomatika.broker.redis:Transport"
        conf["broker_transport_options"] = transport_options(settings)
    else:
        secure = settings.broker_url.startswith("amqps")
        conf["broker_transport"] = f"avtomatika.broker.amqp:{'SSLTransport' if secure else 'Transport'}"
        conf["broker_transport_options"] = {"confirm_publish": True}
        conf["broker_heartbeat"] = heartbeat_seconds(settings)
    return conf


def make_app(settings: Settings) -> Celery:
    """An app with the engine's tasks, our pool and our consumer."""
    made = Celery("avtomatika", events="avtomatika.broker.events:Events")
    made.conf.update(configuration(settings))
    if importlib.util.find_spec("celeryconfig") is not None:
        config = importlib.import_module("celeryconfig")
        made.conf.update({k: v for k, v in vars(config).items() if k.islower() and not k.startswith("_")})
    made.runtime = Runtime(made, settings)
    engine_tasks.register(made, made.runtime)
    made.steps["consumer"].update((CapabilityConsumerStep, Arrival, WatchdogStep))
    made.steps["worker"].add(Presence)
    return made


app = make_app(get_settings())


@after_setup_logger.connect
@after_setup_task_logger.connect
def _format_logs(logger: logging.Logger, **_: Any) -> None:
    """LOG_FORMAT holds for what Celery set up, too."""
    use_format(app.runtime.settings, logger.handlers)


def _load_operations(runtime: Runtime, names: Collection[str]) -> None:
    """Makes this process declare the operations that it is to run: all that are offered here, or those of the named queues."""
    from avtomatika.operations.run import operations_worker

    worker = operations_worker(runtime, names)
    if worker is not None:
        use(worker)


@celeryd_init.connect
def _load(options: dict[str, Any], **_: Any) -> None:
    """In a worker process, and only there: loads what it is to run, before its queues are planned.

    An orchestrator alone loads no workers: they may import what only their machines have. What does not fit refuses the start.
    """
    queues = options.get("queues") or ()
    names = queues.split(",") if isinstance(queues, str) else list(queues)
    runtime: Runtime = app.runtime
    try:
        if ORCHESTRATOR in names:
            runtime.schedules  # noqa: B018  loads and checks blueprints, then schedules
            operations_config(runtime.settings)  # which tasks of schedules are completed with
        if not names or set(names) != {ORCHESTRATOR}:
            load_workers(runtime.settings.workers_dir)
            _load_operations(runtime, names)
            asyncio.run(pin_declared(runtime.settings))
    except AvtomatikaError as exc:
        raise SystemExit(f"the worker cannot start: {exc}") from None
    for declaration in declared().tasks.values():
        runner.register(app, runtime, declaration)
