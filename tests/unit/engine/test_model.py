"""Whatever happens, in any order, with a crash at any await: nothing is lost, nothing happens twice, nothing is stuck.

CI runs a small, repeatable profile; `make model` runs thousands (MODEL_EXAMPLES, MODEL_STEPS).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from avtomatika.settings import read_settings
from avtomatika.testing.virtual_time import VirtualTime
from tests.support.model.invariants import Invariants
from tests.support.model.programs import Program, plain, programs
from tests.support.model.world import ORCHESTRATORS, WORKERS, Fault, World
from tests.support.records import NOW

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
PROFILE: dict[str, Any] = {"max_examples": EXAMPLES} if EXAMPLES else {"max_examples": 100, "derandomize": True, "database": None}

numbers = st.integers(0, 5)
faults = st.one_of(st.none(), st.none(), st.builds(Fault, st.integers(1, 5), st.sampled_from([True, True, False]), st.booleans()))
ORDERS = ["cancel", "force", "pause", "resume", "retry", "yes", "yes", "no"]
orders = st.sampled_from(ORDERS)
#: What can happen at the same time: a method of the world, and its arguments.
actions = st.one_of(
    st.tuples(st.just("control"), numbers, numbers, faults),
    st.tuples(st.just("control"), numbers, numbers, faults),
    st.tuples(st.just("begin"), numbers, numbers, faults),
    st.tuples(st.just("end"), numbers, numbers, faults),
    st.tuples(st.just("order"), orders, numbers, faults),
    st.tuples(st.just("watch"), st.sampled_from([0.0, 1.0, 11.0]), numbers, st.booleans(), faults),
    st.tuples(st.just("stall"), st.sampled_from([*WORKERS, *ORCHESTRATORS])),
    st.tuples(st.just("haunt"), numbers),
    st.tuples(st.just("boot"), st.sampled_from([*WORKERS, *ORCHESTRATORS])),
)


def a_fault(chance: random.Random, calls: int) -> Fault | None:
    """Now and then a fault at one of the next calls."""
    if chance.random() > 0.3:
        return None
    return Fault(chance.randint(1, calls), chance.random() < 0.7, chance.random() < 0.5)


class EngineModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.time = VirtualTime(self.loop)
        self.time.install()
        self.submitted = 0

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(push=st.booleans(), program=programs(), rounds=st.integers(0, 40), seed=st.integers(0, 2**20))
    def begin(self, push: bool, program: Program, rounds: int, seed: int) -> None:
        given = {"job_max_retries": 2, "max_transitions_per_step": 3, "cancel_grace_seconds": 5, "webhook_secret": None}
        self.world = World(read_settings(**given), NOW, push)
        self.check = Invariants(self.world)
        self.do(self.world.open())
        self.submit(program, None)
        self.troubles = rounds, seed

    @rule(program=programs(), fault=faults)
    def submit(self, program: Program, fault: Fault | None) -> None:
        if self.submitted < 3:
            self.submitted += 1
            self.do(self.world.submit(plain(program), f"request {self.submitted}", fault))

    @rule(number=numbers, who=numbers, fault=faults)
    def control(self, number: int, who: int, fault: Fault | None) -> None:
        self.do(self.world.control(number, who, fault))

    @rule(number=numbers, who=numbers, fault=faults)
    def begin_attempt(self, number: int, who: int, fault: Fault | None) -> None:
        self.do(self.world.begin(number, who, fault))

    @rule(number=numbers, who=numbers, fault=faults)
    def end_attempt(self, number: int, who: int, fault: Fault | None) -> None:
        self.do(self.world.end(number, who, fault))

    @rule(rounds=st.integers(1, 6))
    def go_on(self, rounds: int) -> None:
        """Some time without trouble."""
        for _ in range(rounds):
            self.do(self._round())

    @rule(rounds=st.integers(1, 8), seed=st.integers(0, 2**20))
    def trouble(self, rounds: int, seed: int) -> None:
        """Everything goes on, and whatever can go wrong does, by chance."""
        self.world.random.seed(seed)
        for _ in range(rounds):
            self.do(self._troubled_round(self.world.random))
            self.do(self.check.always())

    async def _troubled_round(self, chance: random.Random) -> None:
        world = self.world
        for name in (*ORCHESTRATORS, *WORKERS):
            if name not in world.processes and chance.random() < 0.6:
                await world.boot(name)
        doings = [lambda: world.control(chance.randrange(9), chance.randrange(9), a_fault(chance, 4))] * (2 + len(world.queue))
        doings += [lambda: world.begin(chance.randrange(9), chance.randrange(9), a_fault(chance, 3))] * 2
        doings += [lambda: world.end(chance.randrange(9), chance.randrange(9), a_fault(chance, 3))] * 2
        doings += [lambda: world.watch(chance.choice([0.5, 3.0, 11.0]), chance.randrange(9), True, a_fault(chance, 6))]
        seldom = [
            lambda: world.order(chance.choice(ORDERS), chance.randrange(9), a_fault(chance, 3)),
            lambda: world.stall(chance.choice([*WORKERS, *ORCHESTRATORS])),
            lambda: world.boot(chance.choice([*WORKERS, *ORCHESTRATORS])),
            lambda: world.haunt(chance.randrange(9)),
            lambda: world.lose(chance.randrange(9)),
            lambda: world.double(chance.randrange(9)),
        ]
        doings += [chance.choice(seldom) for _ in range(chance.randrange(4))]
        chance.shuffle(doings)
        while doings:
            count = chance.choice([1, 1, 2, 4])
            now, doings = doings[:count], doings[count:]
            await self._gather([do() for do in now])

    @rule(kind=orders, number=numbers, fault=faults)
    def order(self, kind: str, number: int, fault: Fault | None) -> None:
        self.do(self.world.order(kind, number, fault))

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 11.0, 20.0]), who=numbers, repairs=st.booleans(), fault=faults)
    def watch(self, seconds: float, who: int, repairs: bool, fault: Fault | None) -> None:
        self.do(self.world.watch(seconds, who, repairs, fault))

    @rule(number=numbers)
    def lose(self, number: int) -> None:
        self.do(self.world.lose(number))

    @rule(number=numbers)
    def double(self, number: int) -> None:
        self.do(self.world.double(number))

    @rule(name=st.sampled_from([*WORKERS, *ORCHESTRATORS]))
    def boot(self, name: str) -> None:
        self.do(self.world.boot(name))

    @rule(name=st.sampled_from([*WORKERS, *ORCHESTRATORS]))
    def stall(self, name: str) -> None:
        self.do(self.world.stall(name))

    @rule(number=numbers)
    def haunt(self, number: int) -> None:
        self.do(self.world.haunt(number))

    @rule(together=st.lists(actions, min_size=2, max_size=4), seed=st.integers(0, 1000))
    def at_the_same_time(self, together: list[tuple[Any, ...]], seed: int) -> None:
        self.world.random.seed(seed)
        self.do(self._gather([getattr(self.world, name)(*args) for name, *args in together]))

    async def _gather(self, together: list[Coroutine[Any, Any, None]]) -> None:
        world = self.world
        stores = [process.store for process in world.processes.values()] + [world.facade_store]
        for store in stores:
            store.together = len(together) > 1
        await asyncio.gather(*together)
        for store in stores:
            store.together = False

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.do(self.check.always())

    async def _round(self) -> None:
        """Each process does what it can once, and some time passes."""
        world = self.world
        for name in (*ORCHESTRATORS, *WORKERS):
            if name not in world.processes:
                await world.boot(name)
        for number in range(len(world.queue)):
            await world.control(0, number, None)
        for who in range(len(WORKERS)):
            for _ in range(2):
                await world.begin(0, who, None)
                await world.end(0, who, None)
        await world.watch(3.0, 0, True, None)
        await world.watch(3.0, 1, True, None)

    async def _drain(self) -> None:
        """From here on nothing goes wrong any more; people answer, and let what is paused go on."""
        world = self.world
        world.ghosts.clear()
        for _ in range(400):
            for number in range(len(world.store._jobs)):
                await world.order("resume", number, None)
                await world.order("yes", number, None)
            await self._round()
            await self.check.always()
            if self.check.drained() is None and self.check.workers_are_free():
                return
        raise AssertionError(f"left in the end: {self.check.drained()}")

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.trouble(*self.troubles)
                self.do(self._drain())
        finally:
            self.time.uninstall()
            self.loop.close()


EngineModel.TestCase.settings = settings(
    stateful_step_count=int(os.environ.get("MODEL_STEPS", "12")),
    deadline=None,
    **({"phases": (Phase.generate,)} if os.environ.get("MODEL_NO_SHRINK") else {}),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    print_blob=True,
    **PROFILE,
)
TestEngineModel = EngineModel.TestCase
