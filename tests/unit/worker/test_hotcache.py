"""The record of loaded models: what changes it, who is told, and how load times are learned."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from avtomatika.worker.hotcache import HotCache


def test_models_come_and_go() -> None:
    cache = HotCache()
    cache.add("vae")
    cache.add("sdxl")
    cache.add("vae")
    cache.discard("vae")
    cache.discard("never there")

    assert list(cache) == ["sdxl"]
    assert ("sdxl" in cache, "vae" in cache, len(cache)) == (True, False, 1)


def test_changes_are_told_and_nothing_else() -> None:
    cache = HotCache()
    told: list[str] = []
    cache.on_change = lambda: told.append(",".join(cache))

    cache.add("vae")
    cache.add("vae")
    cache.add("vae", 2.0)
    cache.add("vae", 2.0)
    cache.discard("sdxl")
    cache.discard("vae")

    assert told == ["vae", "vae", ""]


def test_reports_are_told_even_where_they_change_nothing() -> None:
    cache = HotCache()
    told: list[tuple[str, str, float | None]] = []
    cache.on_report = lambda *report: told.append(report)

    cache.add("vae", 1.5)
    cache.add("vae")
    cache.discard("sdxl")

    assert told == [("add", "vae", 1.5), ("add", "vae", None), ("remove", "sdxl", None)]


@pytest.mark.parametrize(
    ("seconds", "learned"),
    [([10], 10), ([10, 20], 13), ([10, 20, 20], 15.1), ([10, -5], 7), ([-5], 0)],
)
def test_load_times_are_learned_from_the_latest_ones(seconds: list[float], learned: float) -> None:
    cache = HotCache()
    for one in seconds:
        cache.add("sdxl", one)
        cache.discard("sdxl")
    cache.learn("vae", 4)

    assert cache.load_times == {"sdxl": learned, "vae": 4}


def test_any_thread_may_use_it() -> None:
    cache = HotCache()
    changes: list[int] = []
    cache.on_change = lambda: changes.append(len(list(cache)))

    def work(name: str) -> None:
        for n in range(200):
            cache.add(f"{name}{n}")
            if n % 2:
                cache.discard(f"{name}{n}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(cache) == sorted(f"{name}{n}" for name in "abcd" for n in range(0, 200, 2))
    assert len(changes) == 4 * 300


@pytest.mark.parametrize("model", [7, None, b"sdxl"])
def test_a_name_that_is_no_text_is_refused_where_it_is_said(model: Any) -> None:
    cache = HotCache()

    for tell in (cache.add, cache.discard):
        with pytest.raises(TypeError, match="must be a text"):
            tell(model)

    assert list(cache) == []
