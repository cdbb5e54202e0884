"""The cache of loaded models: what is loaded, shared, unloaded and waited for."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections import Counter
from typing import Any

import pytest

from avtomatika import ModelCache
from avtomatika.errors import PermanentError, RegistrationError
from avtomatika.worker.hotcache import HotCache
from tests.support.polling import eventually_async


@pytest.fixture(autouse=True)
def hot(monkeypatch: pytest.MonkeyPatch) -> HotCache:
    """A record of this test's own."""
    cache = HotCache()
    monkeypatch.setattr("avtomatika.worker.models.hot_cache", lambda: cache)
    return cache


class Model:
    def __init__(self, name: str) -> None:
        self.name = name


class Bench:
    """A cache whose models write down what happens to them; a load waits for its gate where it has one."""

    def __init__(self, budget_gb: float, **sizes: float) -> None:
        self.cache = ModelCache(budget_gb)
        self.log: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.failing: set[str] = set()
        self.alive: dict[str, weakref.ref[Model]] = {}
        self.loading: Counter[str] = Counter()
        self.in_memory = 0.0
        self.most = 0.0
        self.sizes = sizes
        for name in sizes:
            self.cache.register(name, self._loader(name), self._unloader(name), size_gb=sizes[name])

    def _loader(self, name: str) -> Any:
        async def load() -> Model:
            self.loading[name] += 1
            assert self.loading[name] == 1, f"{name} is loaded twice at once"
            self.in_memory += self.sizes[name]
            self.most = max(self.most, self.in_memory)
            try:
                self.log.append(f"load {name}")
                if name in self.gates:
                    await self.gates[name].wait()
                await asyncio.sleep(0)
                if name in self.failing:
                    raise OSError(f"{name} is broken")
            except BaseException:
                self.in_memory -= self.sizes[name]
                raise
            finally:
                self.loading[name] -= 1
            model = Model(name)
            self.alive[name] = weakref.ref(model)
            return model

        return load

    def _unloader(self, name: str) -> Any:
        async def unload(model: Model) -> None:
            assert model.name == name
            self.log.append(f"unload {name}")
            await asyncio.sleep(0)
            self.in_memory -= self.sizes[name]

        return unload

    async def use(self, *names: str) -> None:
        async with self.cache.use(*names):
            pass

    def holder(self, *names: str) -> Holder:
        return Holder(self.cache, names)


class Holder:
    """A task that uses models until it is told to stop."""

    def __init__(self, cache: ModelCache, names: tuple[str, ...]) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._run(cache, names))

    async def _run(self, cache: ModelCache, names: tuple[str, ...]) -> None:
        async with cache.use(*names):
            self.entered.set()
            await self.leave.wait()

    async def has(self) -> Holder:
        await asyncio.wait_for(self.entered.wait(), 10)
        return self

    async def end(self) -> None:
        self.leave.set()
        await asyncio.wait_for(self.task, 10)


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(30):
        await asyncio.sleep(0)


# --- Loading and sharing -------------------------------------------------------------------------------------------------------


async def test_a_model_is_loaded_at_its_first_use_and_stays() -> None:
    bench = Bench(10, sdxl=6)

    async with bench.cache.use("sdxl") as first:
        assert first.name == "sdxl"
    async with bench.cache.use("sdxl") as second:
        assert second is first

    assert bench.log == ["load sdxl"]
    assert bench.cache.loaded == ("sdxl",)


async def test_concurrent_users_share_one_load() -> None:
    bench = Bench(10, sdxl=6)
    bench.gates["sdxl"] = asyncio.Event()

    holders = [bench.holder("sdxl") for _ in range(5)]
    await settled()
    assert not any(holder.entered.is_set() for holder in holders)
    bench.gates["sdxl"].set()
    for holder in holders:
        await holder.has()

    assert bench.log == ["load sdxl"]
    for holder in holders:
        await holder.end()


async def test_several_models_come_together_in_the_order_of_their_names() -> None:
    bench = Bench(10, sdxl=6, vae=1)

    async with bench.cache.use("vae", "sdxl") as models:
        assert [model.name for model in models] == ["vae", "sdxl"]


async def test_loads_of_different_models_do_not_wait_for_each_other() -> None:
    bench = Bench(10, slow=5, fast=5)
    bench.gates["slow"] = asyncio.Event()
    slow = bench.holder("slow")
    await settled()

    await bench.use("fast")

    assert not slow.entered.is_set()
    bench.gates["slow"].set()
    await (await slow.has()).end()


async def test_plain_hooks_run_in_a_thread() -> None:
    cache = ModelCache(1)
    threads: list[str] = []

    @cache.loader("whisper", size_gb=1, unload=lambda model: threads.append(threading.current_thread().name))
    def load() -> str:
        threads.append(threading.current_thread().name)
        return "model"

    cache.register("other", lambda: "other", size_gb=1)
    async with cache.use("whisper") as model:
        assert model == "model"
    async with cache.use("other"):
        pass

    assert len(threads) == 2
    assert threading.current_thread().name not in threads


# --- The budget ----------------------------------------------------------------------------------------------------------------


async def test_the_least_recently_used_model_goes_first() -> None:
    bench = Bench(10, a=4, b=4, c=4, d=4)
    for name in ("a", "b", "a", "c"):
        await bench.use(name)
    assert bench.log == ["load a", "load b", "unload b", "load c"]

    await bench.use("d")

    assert bench.log[-2:] == ["unload a", "load d"]
    assert bench.cache.loaded == ("c", "d")
    assert bench.most <= 10


async def test_as_many_go_as_have_to_and_before_the_load() -> None:
    bench = Bench(10, a=3, b=3, c=3, big=8)
    for name in ("a", "b", "c"):
        await bench.use(name)

    await bench.use("big")

    assert bench.log[3:] == ["unload a", "unload b", "unload c", "load big"]
    assert bench.most <= 10


async def test_a_model_in_use_is_never_unloaded() -> None:
    bench = Bench(10, a=6, b=3, c=4)
    holder = await bench.holder("a").has()
    await bench.use("b")

    await bench.use("c")

    assert bench.log == ["load a", "load b", "unload b", "load c"]
    await holder.end()


async def test_while_everything_is_in_use_one_waits() -> None:
    bench = Bench(10, a=6, b=6)
    holder = await bench.holder("a").has()
    waiting = bench.holder("b")
    await settled()
    assert bench.log == ["load a"]

    await holder.end()

    await (await waiting.has()).end()
    assert bench.log == ["load a", "unload a", "load b"]


async def test_nobody_overtakes_one_that_waits_for_room() -> None:
    bench = Bench(10, a=6, b=6)
    first = await bench.holder("a").has()
    waiting = bench.holder("b")
    await settled()
    late = bench.holder("a")
    await settled()
    assert not late.entered.is_set()

    await first.end()
    await (await waiting.has()).end()
    await (await late.has()).end()

    assert bench.log == ["load a", "unload a", "load b", "unload b", "load a"]


async def test_a_block_inside_of_a_block_does_not_wait_for_those_that_wait_for_it() -> None:
    bench = Bench(10, a=4, b=4, big=10)
    async with bench.cache.use("a"):
        waiting = bench.holder("big")
        await settled()
        async with asyncio.timeout(10):
            await bench.use("a")
            await bench.use("b")
        assert not waiting.entered.is_set()

    await (await waiting.has()).end()


async def test_two_blocks_that_need_two_models_each_do_not_block_each_other() -> None:
    bench = Bench(10, a=5, b=5, c=5)

    async def work() -> None:
        pairs = [("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")]
        for names in random.Random(1).choices(pairs, k=30):
            async with bench.cache.use(*names):
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(4)))

    assert bench.most <= 10


async def test_an_unloaded_model_is_free_before_the_next_one_is_loaded() -> None:
    bench = Bench(10, a=6, b=6)
    await bench.use("a")
    seen: list[object] = []
    load = bench._loader("b")

    async def look() -> Any:
        gc.collect()
        seen.append(bench.alive["a"]())
        return await load()

    bench.cache.register("look", look, size_gb=6)
    await bench.use("look")

    assert seen == [None]


# --- What goes wrong -----------------------------------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once() -> None:
    cache = ModelCache(10)
    cache.register("a", list, size_gb=6)
    cache.register("b", list, size_gb=6)

    with pytest.raises(RegistrationError, match="'big' takes 11 GB; the budget of 10 GB"):
        cache.register("big", list, size_gb=11)
    with pytest.raises(RegistrationError, match="'a' is registered twice"):
        cache.register("a", list, size_gb=1)
    with pytest.raises(RegistrationError, match="size_gb"):
        cache.register("c", list, size_gb=-1)
    with pytest.raises(PermanentError, match="a, b take 12 GB together"):
        cache.use("a", "b")
    with pytest.raises(PermanentError, match=r"no model is registered as c; known: \['a', 'b'\]"):
        cache.use("a", "c")


@pytest.mark.parametrize("budget", [0, -1, float("nan"), "10", True])
def test_a_budget_is_a_number_above_zero(budget: Any) -> None:
    with pytest.raises(RegistrationError, match="budget_gb"):
        ModelCache(budget)


async def test_a_load_that_fails_leaves_nothing_behind(hot: HotCache) -> None:
    bench = Bench(10, a=6, b=6)
    bench.failing.add("a")
    bench.gates["a"] = asyncio.Event()
    holders = [bench.holder("a"), bench.holder("a")]
    waiting = bench.holder("b")
    await settled()
    bench.gates["a"].set()

    for holder in holders:
        with pytest.raises(OSError, match="a is broken"):
            await asyncio.wait_for(holder.task, 10)
    await (await waiting.has()).end()
    assert list(hot) == ["b"]

    bench.failing.clear()
    await bench.use("a")
    assert bench.cache.loaded == ("a",)
    assert list(hot) == ["a"]


async def test_an_unload_that_fails_makes_room_all_the_same() -> None:
    cache = ModelCache(10)

    def unload(model: object) -> None:
        raise OSError("stuck")

    cache.register("a", object, unload, size_gb=6)
    cache.register("b", object, size_gb=6)
    for name in ("a", "b"):
        async with cache.use(name):
            pass

    assert cache.loaded == ("b",)


async def test_one_that_is_cancelled_in_line_holds_up_nobody() -> None:
    bench = Bench(10, a=6, b=6, c=4)
    holder = await bench.holder("a").has()
    waiting = bench.holder("b")
    behind = bench.holder("c")
    await settled()
    assert not behind.entered.is_set()

    waiting.task.cancel()

    await (await behind.has()).end()
    assert "load b" not in bench.log
    await holder.end()


async def test_a_load_goes_on_when_the_task_that_began_it_is_cancelled() -> None:
    bench = Bench(10, a=6, b=6)
    bench.gates["a"] = asyncio.Event()
    first = bench.holder("a")
    await settled()
    first.task.cancel()
    second = bench.holder("a")
    await settled()
    bench.gates["a"].set()

    await (await second.has()).end()
    assert bench.log == ["load a"]
    async with asyncio.timeout(10):
        await bench.use("b")
    assert bench.log[1:] == ["unload a", "load b"]


async def test_random_tasks_keep_to_the_budget_and_all_come_to_an_end() -> None:
    rng = random.Random(7)
    sizes = {f"m{n}": rng.choice([1, 2, 3, 5]) for n in range(8)}
    bench = Bench(10, **sizes)
    ended = 0

    async def work() -> None:
        nonlocal ended
        for _ in range(40):
            names = rng.sample(sorted(sizes), rng.choice([1, 1, 2, 3]))
            if sum(sizes[name] for name in names) > 10:
                continue
            bench.failing = {"m3"} if rng.random() < 0.1 else set()
            try:
                async with asyncio.timeout(rng.choice([0.0005, 60])), bench.cache.use(*names):
                    assert set(names) <= set(bench.cache.loaded)
                    await asyncio.sleep(rng.choice([0, 0.0005]))
            except (OSError, TimeoutError):
                pass
            ended += 1

    async with asyncio.timeout(120):
        await asyncio.gather(*(work() for _ in range(6)))

    assert ended > 150
    assert bench.most <= 10
    await eventually_async(lambda: _idle(bench.cache))


async def _idle(cache: ModelCache) -> bool:
    return not cache._line and not cache._unloading and all(model.idle for model in cache._models.values())


# --- Plain functions -----------------------------------------------------------------------------------------------------------


def test_a_plain_function_uses_models_with_with() -> None:
    cache = ModelCache(10)

    async def load() -> str:
        await asyncio.sleep(0)
        return "a"

    cache.register("a", load, size_gb=4)
    cache.register("b", lambda: "b", size_gb=4)

    with cache.use("a", "b") as models, cache.use("a") as again:
        assert (models, again) == (("a", "b"), "a")
    assert set(cache.loaded) == {"a", "b"}


def test_threads_share_loads_and_keep_to_the_budget() -> None:
    cache = ModelCache(2)
    lock = threading.Lock()
    most, loaded, loads = 0, 0, Counter[str]()

    def loader(name: str) -> Any:
        def load() -> str:
            nonlocal most, loaded
            with lock:
                loads[name] += 1
                loaded += 1
                most = max(most, loaded)
            return name

        return load

    def unload(model: str) -> None:
        nonlocal loaded
        with lock:
            loaded -= 1

    for name in "abc":
        cache.register(name, loader(name), unload, size_gb=1)
    wrong: list[object] = []

    def work(seed: int) -> None:
        for name in random.Random(seed).choices("abc", k=40):
            with cache.use(name) as model:
                if model != name:
                    wrong.append((model, name))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()

    assert (wrong, most) == ([], 2)
    assert set(loads) == set("abc")


def test_what_a_load_raises_comes_out_of_with() -> None:
    cache = ModelCache(10)

    def load() -> None:
        raise OSError("broken")

    cache.register("a", load, size_gb=4)
    with pytest.raises(OSError, match="broken"), cache.use("a"):
        raise AssertionError("the block must not run")


async def test_with_in_a_coroutine_is_refused_before_it_blocks_the_loop() -> None:
    cache = ModelCache(10)
    cache.register("a", list, size_gb=4)
    with pytest.raises(RuntimeError, match="async with"), cache.use("a"):
        raise AssertionError("the block must not run")


async def test_coroutines_and_threads_wait_for_each_other() -> None:
    bench = Bench(10, a=6, b=6)
    entered, leave = threading.Event(), threading.Event()

    def work() -> str:
        with bench.cache.use("a") as model:
            entered.set()
            leave.wait(30)
            return str(model.name)

    thread = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.to_thread(entered.wait, 30)
    waiting = bench.holder("b")
    await settled()
    assert not waiting.entered.is_set()
    leave.set()

    assert await thread == "a"
    await (await waiting.has()).end()


# --- What others are told ------------------------------------------------------------------------------------------------------


async def test_the_hot_cache_knows_what_is_loaded_and_how_long_it_took(hot: HotCache) -> None:
    bench = Bench(10, a=6, b=6)
    bench.gates["a"] = asyncio.Event()
    told: list[list[str]] = []
    hot.on_change = lambda: told.append(list(hot))

    holder = bench.holder("a")
    await settled()
    assert told == []
    bench.gates["a"].set()
    await (await holder.has()).end()
    await bench.use("b")

    assert told == [["a"], [], ["b"]]
    assert set(hot.load_times) == {"a", "b"}
    assert all(seconds >= 0 for seconds in hot.load_times.values())


async def test_a_load_hook_may_use_another_model_of_its_cache() -> None:
    cache, loading, go = ModelCache(budget_gb=10), asyncio.Event(), asyncio.Event()

    async def lora() -> str:
        loading.set()
        await go.wait()
        async with cache.use("base") as base:
            return f"{base}+lora"

    cache.register("base", lambda: "base", size_gb=3)
    cache.register("lora", lora, size_gb=1)
    cache.register("big", lambda: "big", size_gb=10)

    async def use(name: str) -> Any:
        async with cache.use(name) as model:
            return model

    first = asyncio.ensure_future(use("lora"))
    await loading.wait()
    second = asyncio.ensure_future(use("big"))  # it waits in line, for all there is
    await asyncio.sleep(0)
    go.set()

    assert await asyncio.wait_for(asyncio.gather(first, second), 20) == ["base+lora", "big"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration])
async def test_what_would_end_the_loop_fails_the_load(error: type[BaseException]) -> None:
    cache = ModelCache(budget_gb=1)

    def load() -> None:
        raise error("no")

    cache.register("m", load, size_gb=1)

    with pytest.raises(RuntimeError, match=error.__name__):
        async with cache.use("m"):
            pass
