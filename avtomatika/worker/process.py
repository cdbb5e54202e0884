"""Tasks declared with ``process=True``: a plain function in a child process, killed when it is cancelled.

A child serves one task at a time and is used again; it loads the task's file by its path and tells of progress over a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pebble import ProcessPool

from avtomatika._child import die_with_parent
from avtomatika.errors import AvtomatikaError, TaskError
from avtomatika.worker.hotcache import hot_cache

logger = logging.getLogger(__name__)

KILL_SECONDS = 5.0

#: The path of a Unix socket has at most 107 bytes; the longest one below such a folder is multiprocessing's.
_LONGEST_PLACE = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
FLUSH_SECONDS = 1.0

OnProgress = Callable[[float, str], Awaitable[Any] | None]
OnCache = Callable[[str, str], Awaitable[Any] | None]


class ProcessTaskError(AvtomatikaError):
    """A function in a child process raised an exception, or its process died.

    Attributes:
        type_name: the exception's class name.
        traceback: as the child printed it.
    """

    def __init__(self, message: str, type_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a child hands back; plain data, so that it can be unpickled without the task's module."""

    value: Any = None
    task_error: TaskError | None = None
    error: tuple[str, str, str] | None = None  # type name, message, traceback


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who is told what a child says during one run."""

    child: ProcessPool
    on_progress: OnProgress
    on_cache: OnCache | None


class ProcessRunner:
    """Runs functions in child processes: as many as run at once, started when needed and used again. Of one event loop."""

    _current: ClassVar[ProcessRunner | None] = None

    @classmethod
    def current(cls) -> ProcessRunner:
        """The runner of this process, made at first use; the pool closes it when it stops."""
        if cls._current is None:
            from avtomatika.worker.pool import AsyncPool  # here, since children and HTTP workers load this module, too

            cls._current = cls()
            if AsyncPool.current is not None:
                AsyncPool.current.at_stop(cls._current.close)
        return cls._current

    @classmethod
    async def close_current(cls) -> None:
        """Closes the runner of this process, if one was made: where no pool does it."""
        if cls._current is not None:
            await cls._current.close()

    def __init__(self) -> None:
        self._context = multiprocessing.get_context(_start_method())
        self._idle: list[ProcessPool] = []
        self._busy: dict[ProcessPool, asyncio.Future[_Outcome] | None] = {}
        self._closed = False
        self._listeners: dict[str, _Listener] = {}
        self._models: dict[ProcessPool, set[str]] = {}  # which child holds which models
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()

    async def run(
        self,
        path: Path | str,
        task_name: str,
        params: dict[str, Any],
        context: Mapping[str, Any],
        on_progress: OnProgress,
        on_cache: OnCache | None = None,
    ) -> Any:
        """What the declared function returns.

        Args:
            path: the file that declares the task.
            context: plain data for the function (task_id, job_id, …); `send_progress`, `add_to_hot_cache` and
                `remove_from_hot_cache` are added in the child, as plain functions.
            on_cache: gets ("add" | "remove", model).

        Raises:
            TaskError: the function raised one, or its params do not fit; code and data are kept.
            ProcessTaskError: it raised something else, or the process died.
            CancelledError: this was cancelled; by then the process is gone.
        """
        if self._closed:
            raise ProcessTaskError(f"{task_name} is not started: the worker stops")
        address = await self._listen()
        run_id = uuid.uuid4().hex
        plain = {name: value for name, value in context.items() if not callable(value)}
        child = self._idle.pop() if self._idle else self._new_child()
        listener = self._listeners[run_id] = _Listener(child, on_progress, on_cache)
        self._busy[child] = None
        # In a thread: the first call starts the process, which takes a while.
        arguments = (str(path), task_name, params, plain, str(address), run_id)
        scheduled = asyncio.ensure_future(asyncio.to_thread(child.schedule, _in_child, args=arguments))
        try:
            waiting = self._busy[child] = asyncio.wrap_future(await asyncio.shield(scheduled))
            outcome = await waiting
        except asyncio.CancelledError:
            await _done(scheduled)
            await self._end(listener)
            if self._closed:
                raise ProcessTaskError(f"the process of {task_name} was ended: the worker stops") from None
            raise
        except Exception as exc:
            # The process died, was killed, or gave back what cannot be carried over: pebble says it in many ways.
            await self._end(listener)
            raise ProcessTaskError(f"the process of {task_name} gave no result: {exc!r}", type(exc).__name__) from exc
        else:
            self._idle.append(child)
        finally:
            self._busy.pop(child, None)
            del self._listeners[run_id]
        return _unwrap(outcome)

    async def close(self) -> None:
        """Kills what still runs and ends the idle children."""
        self._closed = True
        children = [*self._idle, *self._busy]
        self._idle.clear()
        if ProcessRunner._current is self:
            ProcessRunner._current = None
        await asyncio.gather(*(self._kill(child) for child in children))
        for waiting in self._busy.values():
            if waiting is not None:
                waiting.cancel()  # pebble does not end every future of a pool that is stopped
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _new_child(self) -> ProcessPool:
        return ProcessPool(max_workers=1, initializer=_prepare_child, initargs=(list(sys.path),), context=self._context)

    async def _end(self, listener: _Listener) -> None:
        """Kills a child; the models that only it held are loaded no longer."""
        await self._kill(listener.child)
        for model in self._models.pop(listener.child, set()):
            await self._tell_cache(listener, "remove", model)

    async def _kill(self, child: ProcessPool) -> None:
        """Returns when the process is gone, whatever cancels the caller meanwhile."""
        child.stop()  # type: ignore[no-untyped-call]
        gone = asyncio.ensure_future(asyncio.to_thread(child.join, KILL_SECONDS))
        await _done(gone)
        if gone.exception() is not None:
            logger.warning("a child process did not end: %r", gone.exception(), extra={"action": "process_not_killed"})

    async def _listen(self) -> Path:
        async with self._starting:
            if self._folder is None:
                self._folder = _socket_folder()
                self._server = await asyncio.start_unix_server(self._serve, self._folder / "progress")
            return self._folder / "progress"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                await self._tell(*json.loads(line))
        except (ConnectionError, ValueError, asyncio.CancelledError) as exc:
            logger.debug("a child's connection ended: %r", exc)
        finally:
            writer.close()

    async def _tell(self, run_id: str, kind: str, *values: Any) -> None:
        listener = self._listeners.get(run_id)
        if listener is None:
            return
        if kind == "progress":
            await _taken(listener.on_progress, *values)
            return
        model, seconds = values
        held = self._models.setdefault(listener.child, set())
        if kind == "add":
            held.add(model)
        else:
            held.discard(model)
        if seconds is not None:
            hot_cache().learn(model, seconds)
        await self._tell_cache(listener, kind, model)

    async def _tell_cache(self, listener: _Listener, kind: str, model: str) -> None:
        """A model is loaded as long as any child holds it."""
        held_elsewhere = any(model in held for held in self._models.values())
        if listener.on_cache is not None and (kind == "add" or not held_elsewhere):
            await _taken(listener.on_cache, kind, model)


async def _taken(call: Callable[..., Awaitable[Any] | None], *values: Any) -> None:
    try:
        answer = call(*values)
        if inspect.isawaitable(answer):
            await answer
    except Exception:
        logger.exception("a report of a child process was not taken", extra={"action": "progress_failed"})


def _start_method() -> str:
    """A fork server, which starts children fast; spawn where it cannot listen, since its socket lies under TMPDIR."""
    has_room = len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_PLACE
    return "forkserver" if has_room and "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _socket_folder() -> Path:
    """A folder for a socket that only this user may enter."""
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp"]  # noqa: S108
    for place in places:
        if place and len(os.fsencode(place)) <= _LONGEST_PLACE and os.access(place, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="avtomatika-", dir=place))
    raise ProcessTaskError(
        f"no folder for a socket: the paths of {', '.join(filter(None, places))} are too long; set TMPDIR to a short one"
    )


async def _done(future: asyncio.Future[Any]) -> None:
    """Waits for a future's end, whatever cancels the caller meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue


def _unwrap(outcome: _Outcome) -> Any:
    if outcome.task_error is not None:
        raise outcome.task_error
    if outcome.error is not None:
        type_name, message, trace = outcome.error
        raise ProcessTaskError(f"{type_name}: {message}", type_name, trace)
    return outcome.value


# In the child


def _prepare_child(path: list[str]) -> None:
    """Ctrl-C is the parent's to answer; a parent killed with -9 takes its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    # The kernel's parent is multiprocessing's fork server, which lives as long as its children do: the worker is watched, too.
    threading.Thread(target=_die_with_worker, name="avtomatika-parent", daemon=True).start()
    sys.path[:] = path


def _die_with_worker() -> None:
    worker = multiprocessing.parent_process()
    if worker is not None:
        worker.join()
        os._exit(1)


class _Line:
    """The child's side of the socket, opened at the first word; any thread of the child may speak."""

    def __init__(self, address: str, run_id: str) -> None:
        self._address = address
        self._run_id = run_id
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def say(self, kind: str, *values: Any) -> None:
        line = json.dumps([self._run_id, kind, *values]).encode() + b"\n"
        try:
            with self._lock:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    self._socket.connect(self._address)
                self._socket.sendall(line)
        except OSError as exc:
            logger.debug("the parent does not listen: %r", exc)

    def close(self) -> None:
        """Returns when the parent has read everything, so that no progress comes after the result."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.settimeout(FLUSH_SECONDS)
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.recv(1)
            self._socket.close()


def _in_child(path: str, task_name: str, params: dict[str, Any], context: dict[str, Any], address: str, run_id: str) -> _Outcome:
    from avtomatika.discovery import load_module
    from avtomatika.worker.sdk import Worker

    line = _Line(address, run_id)

    def send_progress(task_id: str, job_id: str, progress: float, message: str = "") -> None:
        line.say("progress", float(progress), message)

    context = {
        **context,
        "send_progress": send_progress,
        "add_to_hot_cache": hot_cache().add,
        "remove_from_hot_cache": hot_cache().discard,
    }
    hot_cache().on_report = line.say
    try:
        workers = [value for value in vars(load_module(Path(path))).values() if isinstance(value, Worker)]
        task = next((worker.tasks[task_name] for worker in workers if task_name in worker.tasks), None)
        if task is None:
            raise LookupError(f"{path} declares no task {task_name!r}")
        return _Outcome(task.func(**task.arguments(params, context)))
    except TaskError as exc:
        # Of the class known everywhere: a subclass out of the task's own file could not be unpickled in the parent.
        return _Outcome(task_error=TaskError(str(exc), code=exc.code, data=exc.data))
    except Exception as exc:
        return _Outcome(error=(type(exc).__name__, str(exc), traceback.format_exc()))
    finally:
        hot_cache().on_report = None
        line.close()
