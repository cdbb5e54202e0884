"""A cache of loaded models under a budget: loaded at first use, shared by the tasks of the process, unloaded for others."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from avtomatika.errors import PermanentError, RegistrationError, TransientError
from avtomatika.loops import new_event_loop
from avtomatika.worker.hotcache import hot_cache
from avtomatika.worker.threads import NOT_OURS, call_plainly

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

Load = Callable[[], Any | Awaitable[Any]]
Unload = Callable[[Any], Any | Awaitable[Any]]

#: Ids of the caches of which the running task holds models: it does not wait in line there, or it could wait for itself.
_holding: ContextVar[tuple[int, ...]] = ContextVar("avtomatika_models", default=())

ROUNDING_GB = 1e-9


def _running() -> Future[Any]:
    """A future that nobody who waits for it can cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True, slots=True)
class _Hooks:
    name: str
    load: Load
    unload: Unload | None
    size_gb: float


@dataclass(eq=False, slots=True)
class _Model:
    """One model that is loaded or being loaded. `users`: those that have it, and those that wait for its load."""

    hooks: _Hooks
    ready: Future[Any] = field(default_factory=_running)
    users: int = 0
    used_at: float = 0.0

    @property
    def idle(self) -> bool:
        return self.ready.done() and not self.users


@dataclass(eq=False, slots=True)
class _Ask:
    """One use of some models, from its asking on.

    Attributes:
        nested: it comes from a block that holds models of this cache, so that it must not wait for those that wait for it.
        granted: there is room for all of them.
        models: what it got, in the order of its names.
        loads: those that it has to load itself.
        unloads: those that have to go first, each with the future that tells of it.
        after: unloads of others that have to end first, too.
    """

    names: tuple[str, ...]
    nested: bool = False
    granted: Future[None] = field(default_factory=_running)
    models: list[_Model] = field(default_factory=list)
    loads: list[_Model] = field(default_factory=list)
    unloads: list[tuple[_Model, Future[None]]] = field(default_factory=list)
    after: list[Future[None]] = field(default_factory=list)


class ModelCache:
    """Keeps models loaded, as many as the budget holds. The least recently used ones go for others; one in use never goes.

    Args:
        budget_gb: what all loaded models together may take. Whether that is VRAM or RAM is yours to say; a process may have
            a cache for each.
    """

    def __init__(self, budget_gb: float) -> None:
        if not _is_amount(budget_gb) or not budget_gb:
            raise RegistrationError(f"budget_gb must be a number above 0, not {budget_gb!r}")
        self.budget_gb = float(budget_gb)
        self._hooks: dict[str, _Hooks] = {}
        self._models: dict[str, _Model] = {}
        self._unloading: list[Future[None]] = []
        self._line: list[_Ask] = []
        self._fetching: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    def register(self, name: str, load: Load, unload: Unload | None = None, *, size_gb: float) -> None:
        """Tells how a model is loaded.

        Args:
            load: returns the model; a coroutine function runs on the worker's event loop, a plain one in a thread.
            unload: gets the model and frees what dropping it does not; of either kind, too.
            size_gb: what it takes of the budget.

        Raises:
            RegistrationError: the name is taken, or the model is bigger than the budget.
        """
        if name in self._hooks:
            raise RegistrationError(f"model {name!r} is registered twice; rename one of them")
        if not _is_amount(size_gb):
            raise RegistrationError(f"model {name!r}: size_gb must be a number of at least 0, not {size_gb!r}")
        if size_gb > self.budget_gb:
            raise RegistrationError(f"model {name!r} takes {size_gb:g} GB; the budget of {self.budget_gb:g} GB never holds it")
        self._hooks[name] = _Hooks(name, load, unload, float(size_gb))

    def loader(self, name: str, *, size_gb: float, unload: Unload | None = None) -> Callable[[F], F]:
        """`register` as a decorator of the load function."""

        def register(load: F) -> F:
            self.register(name, load, unload, size_gb=size_gb)
            return load

        return register

    def use(self, *names: str) -> Use:
        """Models for one block: `async with` in a coroutine, `with` in a plain function.

        The block gets the model, or a tuple where several are named. Name all that it needs in one call: they are taken
        together, so that two tasks never hold one each and wait for the other's. While there is no room, the block waits until
        enough of the others are no longer in use, in the order of coming. What a load hook raises, the block raises.

        Raises:
            PermanentError: a name is not registered, or all of them together are bigger than the budget.
        """
        unknown = [name for name in names if name not in self._hooks]
        if unknown or not names:
            raise PermanentError(f"no model is registered as {', '.join(unknown) or '(nothing)'}; known: {sorted(self._hooks)}")
        together = sum(self._hooks[name].size_gb for name in set(names))
        if together > self.budget_gb + ROUNDING_GB:
            raise PermanentError(f"{', '.join(names)} take {together:g} GB together; the budget is {self.budget_gb:g} GB")
        return Use(self, names)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models that are ready, the least recently used one first."""
        with self._lock:
            ready = [model for model in self._models.values() if model.ready.done()]
        return tuple(model.hooks.name for model in sorted(ready, key=lambda model: model.used_at))

    async def _take(self, ask: _Ask) -> Any:
        """What the block gets. Cancelled, it leaves the line; a load that it has begun goes on, and the model stays."""
        with self._lock:
            self._line.append(ask)
            self._serve()
        fetching = None
        if not ask.granted.done() or ask.loads:
            fetching = asyncio.get_running_loop().create_task(self._fetch(ask))
            self._fetching.add(fetching)
            fetching.add_done_callback(self._fetching.discard)
        try:
            if fetching is not None:
                await asyncio.shield(fetching)
            values = [m.ready.result() if m.ready.done() else await asyncio.wrap_future(m.ready) for m in ask.models]
        except BaseException:
            if self._leave(ask) and fetching is not None:
                fetching.cancel()
            raise
        return values[0] if len(ask.names) == 1 else tuple(values)

    # Who gets what

    def _leave(self, ask: _Ask) -> bool:
        """Gives back what an ask holds; true where it was still in line."""
        now = monotonic()
        with self._lock:
            waiting = ask in self._line
            if waiting:
                self._line.remove(ask)
            for model in ask.models:
                model.users -= 1
                model.used_at = now
            ask.models = []
            self._serve()
        return waiting

    def _serve(self) -> None:
        """An ask that finds no room holds up those behind it, so that none starves; nested ones are held up by nobody."""
        held_up = False
        for ask in tuple(self._line):
            if (ask.nested or not held_up) and self._grant(ask):
                self._line.remove(ask)
            else:
                held_up = True

    def _grant(self, ask: _Ask) -> bool:
        """Gives an ask its models, if there is room or room can be made of what nobody uses."""
        missing = [self._hooks[name] for name in dict.fromkeys(ask.names) if name not in self._models]
        victims = self._victims(sum(hooks.size_gb for hooks in missing), spared=ask.names) if missing else []
        if victims is None:
            return False
        now = monotonic()
        if missing:
            ask.after = list(self._unloading)
        for victim in victims:
            del self._models[victim.hooks.name]
            ask.unloads.append((victim, _running()))
            self._unloading.append(ask.unloads[-1][1])
        for hooks in missing:
            ask.loads.append(_Model(hooks))
            self._models[hooks.name] = ask.loads[-1]
        ask.models = [self._models[name] for name in ask.names]
        for model in ask.models:
            model.users += 1
            model.used_at = now
        ask.granted.set_result(None)
        return True

    def _victims(self, needed: float, spared: tuple[str, ...]) -> list[_Model] | None:
        """The models to unload for so many GB, the least recently used ones; None where all of them are not enough."""
        room = self.budget_gb + ROUNDING_GB - sum(model.hooks.size_gb for model in self._models.values())
        idle = [model for model in self._models.values() if model.idle and model.hooks.name not in spared]
        victims: list[_Model] = []
        for model in sorted(idle, key=lambda model: model.used_at):
            if needed <= room:
                break
            victims.append(model)
            room += model.hooks.size_gb
        return victims if needed <= room else None

    # Unloading and loading, in this order

    async def _fetch(self, ask: _Ask) -> None:
        _holding.set((*_holding.get(), id(self)))  # what a load hook uses of this cache waits for nobody in line
        if not ask.granted.done():
            await asyncio.wrap_future(ask.granted)
        try:
            while ask.unloads:
                await self._unload(*ask.unloads.pop(0))
            for gone in ask.after:
                await asyncio.wrap_future(gone)
            for model in ask.loads:
                await self._load(model)
        finally:  # those who wait for it are told, where all this was cut short with the event loop
            for _, gone in ask.unloads:
                self._gone(gone)
            for model in ask.loads:
                if not model.ready.done():
                    self._failed(model, TransientError(f"loading {model.hooks.name} was interrupted"))

    async def _unload(self, model: _Model, gone: Future[None]) -> None:
        hot_cache().discard(model.hooks.name)
        value, model.ready = model.ready.result(), _running()  # nothing of ours refers to the model any more
        try:
            if model.hooks.unload is not None:
                await _call(model.hooks.unload, value)
        except Exception:
            logger.exception("the unload hook of %s failed", model.hooks.name, extra={"action": "model_unload"})
        finally:
            del value
            self._gone(gone)

    def _gone(self, gone: Future[None]) -> None:
        with self._lock:
            self._unloading.remove(gone)
        gone.set_result(None)

    async def _load(self, model: _Model) -> None:
        name = model.hooks.name
        began = monotonic()
        try:
            value = await _call(model.hooks.load)
        except Exception as exc:
            logger.warning("model %s was not loaded: %r", name, exc, extra={"action": "model_load"})
            self._failed(model, exc)
            return
        seconds = monotonic() - began
        logger.info("model %s was loaded in %.1f s", name, seconds, extra={"action": "model_load"})
        hot_cache().add(name, seconds)
        with self._lock:
            model.ready.set_result(value)
            self._serve()

    def _failed(self, model: _Model, error: Exception) -> None:
        with self._lock:
            del self._models[model.hooks.name]
            model.ready.set_exception(error)
            self._serve()


class Use:
    """The use of some models in one block; see `ModelCache.use`."""

    def __init__(self, cache: ModelCache, names: tuple[str, ...]) -> None:
        self._cache = cache
        self._names = names
        self._ask: _Ask | None = None

    async def __aenter__(self) -> Any:
        return self._entered(await self._cache._take(self._new_ask()))

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __enter__(self) -> Any:
        if _on_a_loop():
            raise RuntimeError("`with` would stop the event loop while a model is loaded; use `async with` in a coroutine")
        return self._entered(asyncio.run_coroutine_threadsafe(self._cache._take(self._new_ask()), _home()).result())

    def __exit__(self, *_: object) -> None:
        held = list(_holding.get())
        if id(self._cache) in held:
            held.remove(id(self._cache))
        _holding.set(tuple(held))
        ask, self._ask = self._ask, None
        if ask is not None:
            self._cache._leave(ask)

    def _new_ask(self) -> _Ask:
        if self._ask is not None:
            raise RuntimeError("one use is for one block at a time; call use() anew for each")
        self._ask = _Ask(self._names, id(self._cache) in _holding.get())
        return self._ask

    def _entered(self, value: Any) -> Any:
        _holding.set((*_holding.get(), id(self._cache)))
        return value


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _call(hook: Callable[..., Any], *args: Any) -> Any:
    """A coroutine function here, a plain function in a thread."""
    try:
        return await (hook(*args) if inspect.iscoroutinefunction(hook) else asyncio.to_thread(call_plainly, hook, *args))
    except NOT_OURS as exc:
        raise RuntimeError(f"{type(exc).__name__}: {exc}") from exc


_own_loop: asyncio.AbstractEventLoop | None = None
_own_lock = threading.Lock()


def live_on(loop: asyncio.AbstractEventLoop | None) -> None:
    """Plain functions have their models loaded on this loop from now on; for processes without our pool."""
    global _own_loop
    with _own_lock:
        _own_loop = loop


def _home() -> asyncio.AbstractEventLoop:
    """The loop on which plain functions have their models loaded: the pool's, the HTTP worker's; in a child one of its own."""
    from avtomatika.worker.pool import AsyncPool

    if AsyncPool.current is not None:
        return AsyncPool.current.loop
    global _own_loop
    with _own_lock:
        if _own_loop is None:
            _own_loop = new_event_loop()
            threading.Thread(target=_own_loop.run_forever, name="avtomatika-models", daemon=True).start()
        return _own_loop
