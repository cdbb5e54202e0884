"""What a stand-in for the service borrows of a real one, over its own store."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from avtomatika.engine.quarantine import Quarantine
from avtomatika.engine.service import Service
from tests.support.fetching import QueueFetcher
from tests.support.machine import Machine


def lend(service: Any) -> None:
    """Gives a service with a `store` in memory the orders, the HTTP workers and the hub of a real one."""
    machine = Machine()
    machine.store, machine.registry = service.store, service.blueprints
    machine._orchestrate()
    real = Service(machine.engine)
    service.remote, service.orders, service.has_socket = real.remote, real.orders, real.has_socket
    service.quarantine = Quarantine(service.store, real.orders, time.time)
    service.make_hub = partial(real.make_hub, fetcher=QueueFetcher([]))
