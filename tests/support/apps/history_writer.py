"""A process that does nothing but write the history: `history_writer.py REDIS_URL NAMESPACE DATABASE_URI BATCH`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

from avtomatika.engine.historian import Historian
from avtomatika.history import Archive
from avtomatika.jobs import new_id
from avtomatika.settings import read_settings
from avtomatika.state.redis import RedisStore, connect


async def main(redis_url: str, namespace: str, uri: str, batch: str) -> None:
    settings = read_settings(redis_url=redis_url, namespace=namespace, history_database_uri=uri)
    engine: Any = SimpleNamespace(
        store=RedisStore(connect(redis_url), namespace), settings=settings, clock=time.time, boot_id=new_id()
    )
    await Historian(cast("Any", engine), Archive(uri, upgrades=True), batch=int(batch)).run()


logging.basicConfig(level="INFO")
asyncio.run(main(*sys.argv[1:]))
