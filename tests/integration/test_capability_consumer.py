"""The pool, the transport and the capability consumer together, in a real worker on each broker."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import kombu
import pytest
from celery import Celery

from avtomatika.broker.queues import capability_queue, direct_queue
from avtomatika.broker.redis import PRIORITY_STEPS, prepare_push, redis_priority
from avtomatika.jobs import Message
from tests.support.polling import eventually
from tests.support.processes import REPOSITORY, CeleryWorkerProcess, Processes
from tests.support.proxy import Proxy
from tests.support.servers import Broker, RabbitMQ, RedisServer

APP = "tests.integration.apps.slots_app"


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    capability: str
    name: str
    of_capability: int
    of_all: int
    at: float


@dataclass
class Fleet:
    """A broker with the app's workers on it, and a client of it."""

    broker: Broker
    processes: Processes
    nodes: list[CeleryWorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        prefix = self.broker.queue_prefix
        self.client = Celery("client", broker=self.broker.broker_url, set_as_current=False)
        self.client.conf.update(
            control_exchange=f"{prefix}celery",
            event_exchange=f"{prefix}celeryev",
            broker_transport_options={"priority_steps": PRIORITY_STEPS} if self.on_redis else {},
        )

    @property
    def on_redis(self) -> bool:
        return self.broker.broker_url.startswith("redis")

    def worker(self, *queues: str, global_limit: int = 10, node: str | None = None, **env: str) -> CeleryWorkerProcess:
        settings = {**self.broker.env, "GLOBAL_LIMIT": str(global_limit), "SHUTDOWN_GRACE_SECONDS": "0.3", **env}
        options = ("-c", "8", "--without-mingle")
        made = self.processes.make(
            CeleryWorkerProcess, APP, queues=queues, node=node, env=settings, cwd=REPOSITORY, options=options
        )
        self.nodes.append(made)
        return made

    def send(self, queue: str, seconds: float, *names: str, task: str = "work", **options: object) -> list[str]:
        """Publishes as the engine does: through the default exchange, to a declared queue."""
        direct = queue.startswith("worker.")
        target = (direct_queue if direct else capability_queue)(self.broker.queue_prefix + queue)
        capability = queue.rpartition(".")[2] if direct else queue.partition(".")[0]
        with self.client.connection_for_write() as connection, self.client.amqp.Producer(connection) as producer:
            return [
                self.client.send_task(task, args=(capability, name, seconds), queue=target, producer=producer, **options).id
                for name in names
            ]

    def lines(self) -> list[Line]:
        with self.broker.redis.client() as client:
            rows = [row.split() for row in client.lrange("log", 0, -1)]
        return [Line(w, c, n, int(x), int(y), float(t)) for w, c, n, x, y, t in rows]

    def named(self, what: str) -> list[str]:
        return [line.name for line in self.lines() if line.what == what]

    def wait_for(self, what: str, *names: str) -> None:
        eventually(lambda: set(names) <= set(self.named(what)), what=f"{what} of {names}")

    def depth(self, queue: str) -> int:
        """Messages of a queue that no worker holds."""
        physical = self.broker.queue_prefix + queue
        with self.client.connection_for_write() as connection:
            return int(capability_queue(physical)(connection.default_channel).queue_declare(passive=False)[1])

    def active(self) -> list[str]:
        reply = self.client.control.inspect(timeout=2, destination=[node.node for node in self.nodes]).active() or {}
        return [request["id"] for requests in reply.values() for request in requests]


@contextmanager
def events_of(client: Celery) -> Iterator[dict[str, list[str]]]:
    """Task id -> types of its events, as they come in."""
    told: dict[str, list[str]] = defaultdict(list)
    with client.connection_for_read() as connection:
        handlers = {"*": lambda event: told[event.get("uuid", "")].append(event["type"])}
        receiver = client.events.Receiver(connection, handlers=handlers)
        listener = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": True}, daemon=True)
        listener.start()
        eventually(lambda: "worker-heartbeat" in told[""])
        yield told
        receiver.should_stop = True
        listener.join(10)


@pytest.fixture
def fleet(broker: Broker, processes: Processes) -> Iterator[Fleet]:
    fleet = Fleet(broker, processes)
    yield fleet
    processes.close()
    fleet.client.close()


@pytest.fixture
def redis_fleet(redis_broker: Broker, processes: Processes) -> Iterator[Fleet]:
    fleet = Fleet(redis_broker, processes)
    yield fleet
    processes.close()
    fleet.client.close()


@pytest.mark.parametrize("global_limit", [10, 3])
def test_limits_hold_under_a_full_queue_and_nothing_starves(fleet: Fleet, global_limit: int) -> None:
    gpu = [f"g{n}" for n in range(40)]
    cpu = [f"c{n}" for n in range(160)]
    fleet.send("gpu.train", 0.01, *gpu)
    fleet.send("cpu.resize", 0.02, *cpu[::2])
    fleet.send("cpu.describe", 0.02, *cpu[1::2])

    fleet.worker("gpu", "cpu", global_limit=global_limit)
    eventually(lambda: len(fleet.named("end")) >= 200, what="the end of 200 tasks")

    starts = [line for line in fleet.lines() if line.what == "start"]
    assert Counter(line.name for line in starts) == Counter(gpu + cpu)
    peaks = {c: max(line.of_capability for line in starts if line.capability == c) for c in ("gpu", "cpu")}
    assert peaks["gpu"] == 1
    assert 2 <= peaks["cpu"] <= min(4, global_limit)  # how near it comes, a slow machine decides
    assert 3 <= max(line.of_all for line in starts) <= min(5, global_limit)


def test_with_one_slot_for_all_an_idle_capability_does_not_block_another(fleet: Fleet) -> None:
    fleet.worker("gpu", "cpu", global_limit=1)
    for n in range(3):
        fleet.send("cpu.resize", 0.01, f"c{n}")
        fleet.wait_for("end", f"c{n}")
        fleet.send("gpu.train", 0.01, f"g{n}")
        fleet.wait_for("end", f"g{n}")
    assert max(line.of_all for line in fleet.lines()) == 1


def test_a_revoke_with_terminate_cancels_the_coroutine_and_frees_the_slot(fleet: Fleet) -> None:
    fleet.worker("gpu")
    (long,) = fleet.send("gpu.train", 600, "long")
    fleet.wait_for("start", "long")
    fleet.send("gpu.train", 0, "next")

    fleet.client.control.revoke(long, terminate=True)

    fleet.wait_for("cancelled:revoked", "long")
    fleet.wait_for("end", "next")
    eventually(lambda: fleet.depth("gpu.train") == 0)


def test_time_limits_cancel_the_coroutine(fleet: Fleet) -> None:
    fleet.worker("cpu")
    fleet.send("cpu.resize", 600, "soft", soft_time_limit=0.1)
    fleet.send("cpu.resize", 600, "hard", time_limit=0.1)

    fleet.wait_for("cancelled:soft_timeout", "soft")
    fleet.wait_for("cancelled:hard_timeout", "hard")
    eventually(lambda: not fleet.active())


def test_an_ordinary_celery_task_runs_in_a_thread_beside_the_others(fleet: Fleet) -> None:
    fleet.worker("cpu")
    fleet.send("cpu.resize", 0.05, "threaded", task="plain")
    fleet.send("cpu.resize", 0.05, "pooled")
    fleet.wait_for("end", "threaded", "pooled")


def test_queues_are_added_and_cancelled_at_run_time(fleet: Fleet) -> None:
    prefix = fleet.broker.queue_prefix
    node = fleet.worker("gpu")
    fleet.send("gpu.later", 0, "of-the-capability")
    fleet.client.control.add_consumer(f"{prefix}gpu.later", destination=[node.node], reply=True, timeout=10)
    fleet.wait_for("end", "of-the-capability")

    fleet.client.control.add_consumer(f"{prefix}mine", destination=[node.node], reply=True, timeout=10)
    with fleet.client.connection_for_write() as connection:
        queue = kombu.Queue(f"{prefix}mine", kombu.Exchange(f"{prefix}mine"), f"{prefix}mine")
        fleet.client.send_task("work", args=("mine", "own-queue", 0), queue=queue, connection=connection)
    fleet.wait_for("end", "own-queue")

    fleet.client.control.cancel_consumer(f"{prefix}gpu.train", destination=[node.node], reply=True, timeout=10)
    reply = fleet.client.control.inspect(timeout=10, destination=[node.node]).active_queues() or {}
    names = {queue["name"] for queue in reply[node.node]}
    assert names == {f"{prefix}gpu", f"{prefix}gpu.later", f"{prefix}worker.{node.node}.gpu", f"{prefix}mine"}
    fleet.send("gpu.train", 0, "not-consumed")
    fleet.send("gpu.later", 0, "still-consumed")
    fleet.wait_for("end", "still-consumed")
    assert fleet.depth("gpu.train") == 1


def test_a_worker_has_a_direct_queue_of_each_capability_that_it_consumes(fleet: Fleet) -> None:
    node = fleet.worker("gpu")
    other = fleet.worker("gpu", "cpu")
    fleet.send(f"worker.{other.node}.gpu", 0, "other")
    fleet.send(f"worker.{node.node}.gpu", 600, "mine")
    fleet.wait_for("end", "other")
    fleet.wait_for("start", "mine")

    running = fleet.client.control.inspect(timeout=5, destination=[node.node]).active() or {}

    assert [request["args"][1] for request in running[node.node]] == ["mine"]
    prefix = fleet.broker.queue_prefix
    queues = fleet.client.control.inspect(timeout=5, destination=[node.node, other.node]).active_queues() or {}
    direct = {name: {q["name"] for q in found if "worker." in q["name"]} for name, found in queues.items()}
    assert direct == {
        node.node: {f"{prefix}worker.{node.node}.gpu"},
        other.node: {f"{prefix}worker.{other.node}.gpu", f"{prefix}worker.{other.node}.cpu"},
    }


def test_direct_and_plain_queues_share_the_slots_of_their_capability(fleet: Fleet) -> None:
    node = fleet.worker("gpu", "cpu")
    names = {f"{kind}{n}" for kind in ("gp", "gd", "cp", "cd") for n in range(15)}
    fleet.send("gpu.train", 0.01, *(f"gp{n}" for n in range(15)))
    fleet.send("cpu.resize", 0.02, *(f"cp{n}" for n in range(15)))
    fleet.send(f"worker.{node.node}.gpu", 0.01, *(f"gd{n}" for n in range(15)))
    fleet.send(f"worker.{node.node}.cpu", 0.02, *(f"cd{n}" for n in range(15)))

    fleet.wait_for("end", *names)

    starts = [line for line in fleet.lines() if line.what == "start"]
    assert Counter(line.name for line in starts) == Counter(names)
    assert max(line.of_capability for line in starts if line.capability == "gpu") == 1
    assert max(line.of_capability for line in starts if line.capability == "cpu") <= 4


def test_neither_a_backlog_nor_a_stream_of_direct_tasks_starves_the_other_queue(fleet: Fleet) -> None:
    node = f"worker@{fleet.broker.namespace}"
    direct = f"worker.{node}.gpu"
    # The backlog has the higher priority: a direct task holds a slot already and must not wait for it.
    high = {"priority": redis_priority(10) if fleet.on_redis else 10}
    low = {"priority": redis_priority(0) if fleet.on_redis else 0}
    fleet.send("gpu.train", 0.02, *(f"p{n}" for n in range(40)), **high)
    fleet.send(direct, 0.02, *(f"d{n}" for n in range(3)), **low)
    fleet.worker("gpu", node=node)
    fleet.wait_for("end", *(f"p{n}" for n in range(40)), "d0", "d1", "d2")

    order = fleet.named("start")
    assert order.index("d2") < 30

    fleet.send(direct, 0.02, *(f"dd{n}" for n in range(40)), **high)
    fleet.send("gpu.train", 0.02, *(f"pp{n}" for n in range(3)), **low)
    fleet.wait_for("end", *(f"dd{n}" for n in range(40)), "pp2")
    order = [name for name in fleet.named("start") if name[:2] in ("dd", "pp")]
    assert order.index("pp2") < 30


def test_sigterm_hands_back_what_is_unfinished_and_loses_nothing(fleet: Fleet) -> None:
    node = fleet.worker("gpu", "cpu", SHUTDOWN_GRACE_SECONDS="2")
    fleet.send("gpu.train", 600, "g-long")
    fleet.send("cpu.resize", 600, "c-long")
    fleet.wait_for("start", "g-long", "c-long")
    fleet.send("gpu.train", 600, *(f"g{n}" for n in range(3)))
    fleet.send("cpu.resize", 0.2, "c-short")
    fleet.wait_for("start", "c-short")

    assert node.terminate(deadline=20) == 0

    assert fleet.named("end") == ["c-short"]
    assert sorted(fleet.named("cancelled:shutdown")) == ["c-long", "g-long"]
    assert fleet.depth("gpu.train") == 4
    assert fleet.depth("cpu.resize") == 1


def test_stops_under_load_lose_nothing(fleet: Fleet) -> None:
    names = [f"c{n}" for n in range(300)]
    fleet.send("cpu.resize", 0.005, *names)
    for done in (40, 120):
        node = fleet.worker("gpu", "cpu")
        eventually(lambda done=done: len(fleet.named("end")) >= done, interval=0.005)
        assert node.terminate(20) == 0
    fleet.worker("gpu", "cpu")
    eventually(lambda: len(fleet.named("end")) >= len(names))
    assert sorted(fleet.named("end")) == sorted(names)
    eventually(lambda: fleet.depth("cpu.resize") == 0)


def test_what_happens_to_tasks_is_told_by_events_and_each_message_is_settled_once(redis_fleet: Fleet) -> None:
    fleet = redis_fleet
    fleet.worker("cpu", "gpu")
    with events_of(fleet.client) as told:
        (good,) = fleet.send("cpu.resize", 0, "good")
        bad = fleet.client.send_task("work", args=("too", "few"), queue=capability_queue("cpu.resize")).id
        (long,) = fleet.send("gpu.train", 600, "long")
        eventually(lambda: "task-succeeded" in told[good] and "task-failed" in told[bad] and "task-started" in told[long])
        fleet.client.control.revoke(long, terminate=True)
        fleet.wait_for("cancelled:revoked", "long")
        eventually(lambda: "task-revoked" in told[long])
        fleet.send("gpu.train", 0, "last")
        fleet.wait_for("end", "last")
    assert told[good].count("task-succeeded") == told[bad].count("task-failed") == told[long].count("task-revoked") == 1
    assert "task-succeeded" not in told[bad] + told[long]
    with fleet.broker.redis.client() as client:
        eventually(lambda: not client.exists("unacked", "unacked_index"))


def test_a_cold_stop_hands_back_what_is_unfinished(fleet: Fleet) -> None:
    node = fleet.worker("gpu")
    fleet.send("gpu.train", 600, "long", "waiting")
    fleet.wait_for("start", "long")
    node.signal(signal.SIGQUIT)
    node.wait(20)
    eventually(lambda: fleet.depth("gpu.train") == 2)


def test_a_cut_connection_leaves_one_run_and_its_slot_taken(redis_fleet: Fleet, redis_server: RedisServer) -> None:
    fleet = redis_fleet
    node = fleet.worker("gpu", "cpu")
    fleet.send("gpu.train", 3, "running")
    fleet.send("gpu.train", 0, *(f"g{n}" for n in range(5)))
    fleet.wait_for("start", "running")

    with redis_server.client() as client:
        for _ in range(3):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    node.wait_for_log("Connection to broker lost")
    fleet.send("cpu.resize", 0, "after")
    fleet.wait_for("end", "after", "running", *(f"g{n}" for n in range(5)))

    starts = [line for line in fleet.lines() if line.what == "start"]
    assert Counter(line.name for line in starts).most_common(1)[0][1] == 1
    assert max(line.of_capability for line in starts if line.capability == "gpu") == 1
    with redis_server.client() as client:
        eventually(lambda: not client.exists("unacked", "unacked_index", "gpu.train"))


@pytest.mark.rabbitmq
def test_a_cut_connection_on_rabbitmq_never_overfills_the_slot(rabbitmq: RabbitMQ, redis_server: RedisServer, namespace: str,
                                                               processes: Processes) -> None:  # fmt: skip
    parts = urlsplit(rabbitmq.url)
    proxy = Proxy(parts.port or 5672)
    through = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"))
    fleet = Fleet(Broker("rabbitmq", redis_server, rabbitmq.url, rabbitmq.prefix, namespace), processes)
    node = fleet.worker("gpu", "cpu", BROKER_URL=through)
    fleet.send("gpu.train", 1.5, "running")
    fleet.wait_for("start", "running")
    fleet.send("gpu.train", 0, *(f"g{n}" for n in range(5)))

    proxy.cut()

    node.wait_for_log("Connection to broker lost")
    fleet.send("cpu.resize", 0, "after")
    fleet.wait_for("end", "after", "running", *(f"g{n}" for n in range(5)))
    eventually(lambda: fleet.depth("gpu.train") == 0 and not fleet.active())
    starts = Counter(line.name for line in fleet.lines() if line.what == "start")
    assert starts["running"] <= 2  # RabbitMQ gives it out again; the claim of the engine refuses the second
    assert max(line.of_capability for line in fleet.lines() if line.capability == "gpu") == 1
    processes.close()
    proxy.close()


def test_a_redis_that_was_away_is_taken_up_again(own_redis: RedisServer, namespace: str, processes: Processes) -> None:
    fleet = Fleet(Broker("redis", own_redis, own_redis.url, "", namespace), processes)
    node = fleet.worker("gpu")
    fleet.send("gpu.train", 2, "running", "next")
    fleet.wait_for("start", "running")
    own_redis.kill()
    node.wait_for_log("Connection to broker lost")
    own_redis.restart()
    fleet.wait_for("end", "running", "next")
    starts = [line for line in fleet.lines() if line.what == "start"]
    assert Counter(line.name for line in starts) == {"running": 1, "next": 1}
    assert max(line.of_capability for line in starts) == 1
    assert node.terminate(20) == 0


def test_a_task_longer_than_the_visibility_timeout_is_not_given_out_again(redis_fleet: Fleet, redis_server: RedisServer) -> None:
    """Nor when the connections are cut in the middle of it."""
    fleet = redis_fleet
    often = json.dumps({"visibility_timeout": 4, "touch_interval": 0.5, "unacked_restore_interval": 0.2})
    fleet.worker("gpu", TRANSPORT=often)
    fleet.worker("gpu", TRANSPORT=often)
    fleet.send("gpu.train", 9, "long")
    fleet.wait_for("start", "long")
    with redis_server.client() as client:
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    for node in fleet.nodes:
        node.wait_for_log("Connection to broker lost")
    fleet.wait_for("end", "long")
    assert fleet.named("start") == ["long"]


def test_what_a_killed_worker_held_is_given_out_again(redis_fleet: Fleet) -> None:
    fleet = redis_fleet
    often = json.dumps({"visibility_timeout": 1, "touch_interval": 0.2, "unacked_restore_interval": 0.2})
    fleet.worker("gpu", TRANSPORT=often)
    fleet.send("gpu.train", 600, "held")
    fleet.wait_for("start", "held")
    fleet.nodes[0].kill()
    fleet.worker("gpu", TRANSPORT=often)
    eventually(lambda: fleet.named("start") == ["held", "held"])


def test_a_prepared_push_is_an_ordinary_message_to_kombu(each_redis: RedisServer) -> None:
    body = '[[1], {"text": "ü"}, {"chain": null}]'
    headers = {"id": str(uuid.uuid4()), "task": "work", "nested": {"a": [1, 2]}}
    message = Message("gpu.train", body, headers, {"correlation_id": "c", "reply_to": ""}, priority=10)
    with each_redis.client() as client:
        client.lpush(*prepare_push(message))
        client.lpush(*prepare_push(Message("gpu.train", "[[], {}, {}]", {"id": "low"}, {}, priority=0)))
    got: list[kombu.Message] = []
    with kombu.Connection(each_redis.url, transport_options={"priority_steps": PRIORITY_STEPS}) as connection:
        queue = kombu.Queue("gpu.train", kombu.Exchange(""), "gpu.train")
        with kombu.Consumer(connection.channel(), [queue], on_message=lambda m: (got.append(m), m.ack()), accept=["json"]):
            while len(got) < 2:
                connection.drain_events(timeout=10)
    first, second = got
    assert first.payload == json.loads(body)
    assert first.headers == headers
    assert first.properties["correlation_id"] == "c"
    assert first.delivery_info == {"exchange": "", "routing_key": "gpu.train"}
    assert second.headers == {"id": "low"}


def test_our_priorities_run_the_other_way_on_redis() -> None:
    steps = [redis_priority(p) for p in range(11)]
    assert steps[0] == 9
    assert steps[10] == 0
    assert steps == sorted(steps, reverse=True)
    assert {redis_priority(-5), redis_priority(99)} == {9, 0}
