"""The image's health check: sees by its command line what a process is, and asks it, or the fleet, whether it is alive.

``python healthcheck.py [PID]``; without a number the container's first process. One line of text, exit code 0 or 1.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import click
from celery.utils.nodenames import default_nodename, host_format

from avtomatika.errors import AvtomatikaError
from avtomatika.settings import Settings, read_settings
from avtomatika.state.keys import Keys
from avtomatika.state.redis_base import connect

SECONDS = 5.0


class Unhealthy(click.ClickException):
    """The process does not do its work."""


def arguments_of(pid: int) -> list[str]:
    """The command line of a process."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError as exc:
        raise Unhealthy(f"there is no process {pid}: {exc.strerror}") from None
    return [os.fsdecode(part) for part in line.split(b"\0")[:-1]]


def check(arguments: Sequence[str]) -> str:
    """Asks the process that was started so; what it answered, in words.

    Raises:
        Unhealthy: it does not answer, or it is none of avtomatika's.
    """
    for place, argument in enumerate(arguments):
        rest = arguments[place + 1 :]
        match Path(argument).name:
            case "avtomatika" if "server" in rest[:1]:
                given = {"api_host": _option(rest, "--host"), "api_port": _option(rest, "--port")}
                return _facade(read_settings(public_url=None, **{name: value for name, value in given.items() if value}))
            case "avtomatika" if rest[:2] == ["worker", "run"]:
                return _http_worker(read_settings())
            case "celery" if "flower" in rest:
                port = _option(rest, "--port") or os.environ.get("FLOWER_PORT", "5555")
                return _answers(f"http://127.0.0.1:{port}/healthcheck")
            case "celery" if "worker" in rest:
                node = host_format(default_nodename(_option(rest, "-n", "--hostname") or ""))
                return asyncio.run(_worker(read_settings(), node))
    raise Unhealthy(f"{' '.join(arguments)!r} is neither the facade nor a worker nor Flower: give it a health check of its own")


def _option(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option: `--name value` or `--name=value`."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else following
    return None


def _facade(settings: Settings) -> str:
    return _answers(f"{settings.public_base}/_public/status")


def _http_worker(settings: Settings) -> str:
    if not settings.worker_health_port:
        return "the worker over HTTP runs; WORKER_HEALTH_PORT would let it say more"
    host = settings.worker_health_host.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - only looked for
    return _answers(f"http://{host}:{settings.worker_health_port}/health")


def _answers(url: str) -> str:
    try:
        # Without the proxy that HTTP_PROXY may name: the server is in here.
        with build_opener(ProxyHandler({})).open(url, timeout=SECONDS) as answer:
            return f"{url} answers {answer.status}"
    except OSError as exc:
        raise Unhealthy(f"{url} does not answer: {exc}") from None


async def _worker(settings: Settings, node: str) -> str:
    """Looks at a worker's heartbeat in the store, with one call: alive is what the fleet holds for alive."""
    client = connect(settings.state_url)
    try:
        async with asyncio.timeout(SECONDS):
            expires = await client.hget(Keys(settings.namespace).worker(node), "e")
    except Exception as exc:  # whatever is wrong, the answer is no
        raise Unhealthy(f"the store does not say whether {node} is alive: {exc!r}") from None
    finally:
        await client.aclose()
    if expires is None or float(expires) <= time.time():
        raise Unhealthy(f"{node} is not registered, or its heartbeat has stopped")
    return f"{node} is alive for the fleet"


@click.command()
@click.argument("pid", type=click.IntRange(min=1), default=1)
def main(pid: int) -> None:
    """Checks a process of avtomatika: by default the first one of this container."""
    try:
        click.echo(check(arguments_of(pid)))
    except AvtomatikaError as exc:
        raise Unhealthy(str(exc)) from exc


if __name__ == "__main__":
    sys.exit(main())
