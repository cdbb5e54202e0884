"""The engine's service of this process, opened at first use: one for each event loop, since its connections belong to that."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from avtomatika.engine.service import Service, open_service
from avtomatika.settings import get_settings

_services: WeakKeyDictionary[asyncio.AbstractEventLoop, Service] = WeakKeyDictionary()


async def service_here() -> Service:
    """The service of the running loop, by the process's settings."""
    loop = asyncio.get_running_loop()
    found = _services.get(loop)
    if found is None:
        found = await open_service(get_settings())
        found = _services.setdefault(loop, found)
    return found


async def close_here() -> None:
    """Closes the running loop's service, where there is one; the next call opens another."""
    found = _services.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
