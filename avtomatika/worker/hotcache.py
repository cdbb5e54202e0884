"""Which models this process holds, and how long loading them took: one record a process, told by whatever loads models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from threading import Lock

#: How much of a learned load time the latest load makes up.
LATEST = 0.3


class HotCache:
    """Names of loaded models. Every method may be called from any thread.

    Attributes:
        on_change: called after every change, in the thread that made it; it must be quick.
        on_report: called with ("add" | "remove", model, seconds or None) at every report, changing something or not.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] | None = None
        self.on_report: Callable[[str, str, float | None], None] | None = None
        self._lock = Lock()
        self._models: set[str] = set()
        self._seconds: dict[str, float] = {}

    def forget_listeners(self) -> None:
        """In a forked child, which must not speak for its parent."""
        self._lock = Lock()
        self.on_change = self.on_report = None

    def add(self, model: str, load_seconds: float | None = None) -> None:
        """The model is loaded now; `load_seconds` is how long that took, where somebody measured it."""
        _check(model)
        with self._lock:
            changed = model not in self._models
            self._models.add(model)
            changed |= load_seconds is not None and self._learn(model, load_seconds)
        self._report("add", model, load_seconds, changed)

    def discard(self, model: str) -> None:
        """The model is loaded no longer."""
        _check(model)
        with self._lock:
            changed = model in self._models
            self._models.discard(model)
        self._report("remove", model, None, changed)

    def learn(self, model: str, load_seconds: float) -> None:
        """Loading the model took so long, in a child process, say."""
        with self._lock:
            changed = self._learn(model, load_seconds)
        if changed and self.on_change is not None:
            self.on_change()

    def _learn(self, model: str, seconds: float) -> bool:
        """An exponentially weighted mean, so that one slow load does not count for long."""
        known = self._seconds.get(model)
        seconds = max(0.0, seconds)
        self._seconds[model] = round(seconds if known is None else known + LATEST * (seconds - known), 3)
        return self._seconds[model] != known

    def _report(self, what: str, model: str, seconds: float | None, changed: bool) -> None:
        if self.on_report is not None:
            self.on_report(what, model, seconds)
        if changed and self.on_change is not None:
            self.on_change()

    @property
    def load_times(self) -> dict[str, float]:
        """Model -> seconds that loading it takes, learned; models that are not loaded now included."""
        with self._lock:
            return dict(self._seconds)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(sorted(self._models))

    def __contains__(self, model: object) -> bool:
        return model in self._models

    def __len__(self) -> int:
        return len(self._models)


def _check(model: object) -> None:
    if not isinstance(model, str):
        raise TypeError(f"a model's name must be a text, not {model!r}; it goes into the worker's record")


_hot_cache = HotCache()
os.register_at_fork(after_in_child=_hot_cache.forget_listeners)


def hot_cache() -> HotCache:
    """The one of this process."""
    return _hot_cache
