"""The harness: blueprints, fake workers and virtual time for one test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import TracebackType
from typing import Any

from avtomatika.blueprint.blueprint import Blueprint
from avtomatika.engine.approvals import decide, request_of
from avtomatika.engine.service import Service
from avtomatika.errors import HarnessError
from avtomatika.integrations import ApprovalRequest
from avtomatika.jobs import JSON, Approval, Client, JobStatus
from avtomatika.settings import read_settings
from avtomatika.testing.driver import Driver, FakeWorker, TaskCall
from avtomatika.testing.fakes import Answer, Fake, Fault, acts_of
from avtomatika.testing.job import HarnessJob
from avtomatika.testing.virtual_time import VirtualTime
from avtomatika.testing.waiting import leaf_of, unfaked, why
from avtomatika.worker.sdk import Worker

_NOTHING: Any = object()
_CONTROL = ("step", "resume", "aggregate", "child_ended", "cancel")
#: What only a test can end.
_TESTS_TURN = (JobStatus.WAITING_FOR_HUMAN, JobStatus.PAUSED)


class BlueprintHarness:
    """Runs blueprints on the real engine, in memory, with fake workers and virtual time: no broker, no Redis, no threads.

    Use it with `async with`, in a test of its own event loop (`asyncio.run`, pytest-asyncio). While it is open, asyncio's time is
    virtual: `asyncio.sleep(3600)` in a handler, a fake or the test takes no real time. Whatever the world outside would be told
    (webhooks, integrations) is not sent.

    Args:
        blueprints: they are checked as at a start of the orchestrator; the first one is what `run` runs.
        task_routes: as in Celery's configuration: tasks that match it are plain Celery tasks.
        max_events: so many messages and events one call may lead to, before the blueprint counts as running in a circle.
        patience: real seconds that each jump of time waits for answers from outside (a network, a database); see `VirtualTime`.
        settings: settings by name, `job_max_retries=0`; the others come from the environment, as always.

    Raises:
        BlueprintError: a blueprint does not pass its check.
    """

    def __init__(
        self,
        *blueprints: Blueprint,
        task_routes: Mapping[str, Any] | None = None,
        max_events: int = 10_000,
        patience: float = 0.0,
        **settings: Any,
    ) -> None:
        if not blueprints:
            raise HarnessError("a harness needs the blueprint to run: BlueprintHarness(blueprint)")
        self._blueprints = blueprints
        self._settings = read_settings(**settings)
        self._task_routes = task_routes
        self._max_events = max_events
        self._patience = patience
        self._hired: list[FakeWorker] = []
        self._answer: Callable[[ApprovalRequest], Any] | None = None
        self._open: Driver | None = None

    async def __aenter__(self) -> BlueprintHarness:
        self._time = VirtualTime(asyncio.get_running_loop(), self._patience)
        driver = Driver(self._settings, self._time, self._task_routes, self._max_events)
        for blueprint in self._blueprints:
            driver.registry.register(blueprint)
        driver.registry.check().raise_errors("blueprints")
        self._time.install()
        self._open = driver
        driver.ask = self._answer_questions
        for worker in self._hired:
            driver.hire(worker)
        await driver.restart_orchestrator()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._driver.close()
        finally:
            self._time.uninstall()

    @property
    def _driver(self) -> Driver:
        if self._open is None:
            raise HarnessError("the harness is not open yet: use it with `async with BlueprintHarness(…) as harness:`")
        return self._open

    # --- Workers ---------------------------------------------------------------------------------------------------------------

    def worker(
        self,
        task: str,
        *answers: Answer | Fault,
        then: Answer | Fault = _NOTHING,
        seconds: float = 0.0,
        name: str | None = None,
        slots: int = 1000,
        **about: Any,
    ) -> None:
        """Fakes a task, by a worker of its own; a later call for the same worker replaces it.

        Args:
            answers: what its attempts do, one after the other: faults with a count (`fails(2)`, `dies(1)`), and at last a
                function of the params, sync or async, or the value that it would return: data, a `Result`, or None.
            then: the last answer, where it reads better by itself.
            seconds: how long each attempt takes, in virtual time.
            name: the worker's id; the task's name without one. Give several workers of one task different names.
            slots: how many it runs at once.
            about: what it says of itself, as `WorkerRecord` names it: `resources`, `cost_per_second`, `hot_cache`, ….

        Raises:
            ValueError: the answers do not say what every attempt does.
        """
        acts = acts_of(task, answers, () if then is _NOTHING else (then,))
        self._hire(FakeWorker(name or task, {task: Fake(task, acts, seconds)}, slots, about))

    def use(self, worker: Worker, *, name: str | None = None) -> None:
        """Runs the functions of a real Worker, all of them in this event loop, instead of fakes."""
        fakes = {task: Fake(task, [(declared.func, None)]) for task, declared in worker.tasks.items()}
        about = {"cost_per_skill": worker.cost_per_skill, "skill_dependencies": worker.skill_dependencies}
        about |= {"resources": worker.resources, "installed_models": tuple(worker.installed_models)}
        about |= {"cost_per_second": worker.cost_per_second or 0.0}
        self._hire(FakeWorker(name or worker.worker_type, fakes, worker.max_concurrent_tasks, about))

    def _hire(self, worker: FakeWorker) -> None:
        if self._open is None:
            self._hired.append(worker)
        else:
            self._open.hire(worker)

    def calls(self, task: str) -> list[JSON]:
        """The params of every attempt of a task that a fake has begun, in order."""
        return [call.params for call in self.attempts(task)]

    def attempts(self, task: str | None = None) -> list[TaskCall]:
        """Every attempt that a fake has begun, with its number and its worker, in order."""
        return [call for call in self._driver.calls if task in (None, call.task)]

    # --- Jobs ------------------------------------------------------------------------------------------------------------------

    async def start(
        self,
        initial_data: JSON | None = None,
        *,
        blueprint: Blueprint | str | None = None,
        client: Client | str = "",
        priority: float = 0.0,
        tags: Collection[str] = (),
    ) -> HarnessJob:
        """Submits a job, and lets nothing happen yet.

        Args:
            blueprint: which one; the harness's first without it.
        """
        chosen = blueprint or self._blueprints[0]
        name = chosen if isinstance(chosen, str) else chosen.name
        who = Client(name=client) if isinstance(client, str) else client
        service = Service(self._driver.engine)
        job = await service.create(name, initial_data or {}, client=who, priority=priority, tags=tags)
        return HarnessJob(self, job.id)

    async def run(
        self,
        initial_data: JSON | None = None,
        *,
        blueprint: Blueprint | str | None = None,
        client: Client | str = "",
        priority: float = 0.0,
        tags: Collection[str] = (),
    ) -> HarnessJob:
        """Submits a job and lets it go on until it ends, or until it is the test's turn; see `start` and `finish`."""
        job = await self.start(initial_data, blueprint=blueprint, client=client, priority=priority, tags=tags)
        return await self.finish(job)

    async def finish(self, job: HarnessJob) -> HarnessJob:
        """Lets everything go on, and time pass, until a job ends, is paused, or (it or its child) waits for a person.

        Raises:
            HarnessError: it waits for something that cannot come; the message says for what, and what to add.
            AssertionError: a fake's own assertion.
        """
        driver = self._driver

        def over() -> bool:
            leaf = leaf_of(driver, job.record)
            return job.status.is_terminal or leaf.status in _TESTS_TURN or unfaked(driver, leaf) is not None

        reached = await driver.drive(over)
        leaf = leaf_of(driver, job.record)
        if not reached or unfaked(driver, leaf) is not None:
            raise HarnessError(await why(driver, job.record))
        return job

    async def settle(self) -> None:
        """Lets everything happen that needs no time to pass."""
        await self.advance(0)

    async def advance(self, seconds: float) -> None:
        """Lets virtual time pass, and everything happen that is due in it."""
        driver = self._driver
        end = driver.clock() + seconds
        await driver.drive(lambda: False, end)
        await asyncio.sleep(max(0.0, end - driver.clock()))

    @property
    def now(self) -> float:
        """The virtual time, in seconds since the epoch."""
        return self._driver.clock()

    # --- People ----------------------------------------------------------------------------------------------------------------

    def on_question(self, answer: str | Callable[[ApprovalRequest], str | Awaitable[str | None] | None]) -> None:
        """Answers every question to a person from now on: a decision, or a function of the question (None leaves it open)."""
        self._answer = answer if callable(answer) else lambda _: answer

    async def _answer_questions(self) -> bool:
        if self._answer is None:
            return False
        driver = self._driver
        for job in list(driver.store._jobs.values()):
            if isinstance(job.waiting, Approval) and not job.status.is_terminal:
                decision = self._answer(await request_of(job, job.waiting, driver.store, driver.settings))
                decision = await decision if isinstance(decision, Awaitable) else decision
                if decision is not None:
                    await self._decide(job.id, decision, None, "on_question")
                    return True
        return False

    async def _decide(self, job_id: str, decision: str, comment: str | None, who: str) -> None:
        await decide(self._driver.engine, job_id, decision, comment=comment, who=who)

    # --- Faults ----------------------------------------------------------------------------------------------------------------

    def lose(self, message: str, times: int = 1) -> None:
        """Loses the next messages of a name on their way: a task's, or the engine's own.

        Args:
            message: a task's name; or `step`, `resume` (a result), `aggregate`, `child_ended`, `cancel`.
        """
        self._driver.lost[self._message(message)] += times

    def repeat(self, message: str, times: int = 1) -> None:
        """Delivers the next messages of a name twice; see `lose`."""
        self._driver.repeated[self._message(message)] += times

    def _message(self, name: str) -> str:
        tasks = {task for worker in self._driver.fake_workers.values() for task in worker.fakes}
        if name not in _CONTROL and name not in tasks:
            raise HarnessError(f"no message is named {name!r}: there are {', '.join((*_CONTROL, *sorted(tasks)))}")
        return name

    async def kill_worker(self, name: str, *, restart: bool = True) -> None:
        """Ends a fake worker's process in the middle of what it runs; without `restart` it stays away."""
        await self._driver.register_new()
        if name not in self._driver.fake_workers:
            raise HarnessError(f"there is no worker {name!r}: there are {', '.join(sorted(self._driver.fake_workers)) or 'none'}")
        await self._driver.kill_worker(name, restart=restart)

    async def kill_orchestrator(self) -> None:
        """Ends the orchestrator's process in the middle of what it does; another one goes on."""
        await self._driver.kill_orchestrator()
