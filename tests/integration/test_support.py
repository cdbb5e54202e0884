"""The tests' own footing: processes that surely end, servers that keep their data, waiting that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.polling import NotInTime, eventually
from tests.support.processes import ManagedProcess, Processes, port_is_open
from tests.support.servers import RabbitMQ, RedisServer, clean

GRANDCHILD_IN_ITS_OWN_SESSION = """
import subprocess, sys
code = "import time; print('asleep', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
child.wait()
"""


def _python(code: str, directory: Path, name: str = "process") -> ManagedProcess:
    return ManagedProcess(name, [sys.executable, "-c", code], directory=directory)


def test_orphans_in_a_session_of_their_own_are_found_and_killed(processes: Processes, tmp_path: Path) -> None:
    process = processes.start(_python(GRANDCHILD_IN_ITS_OWN_SESSION, tmp_path))
    process.wait_for_log("asleep")

    process.kill()
    orphans = process.descendants()
    process.close()

    assert len(orphans) == 1
    assert not process.descendants()
    assert not psutil.pid_exists(orphans[0].pid) or orphans[0].status() == psutil.STATUS_ZOMBIE


def test_waiting_for_a_log_line_says_that_the_process_ended(processes: Processes, tmp_path: Path) -> None:
    process = processes.start(_python("print('other words'); raise SystemExit(3)", tmp_path))

    with pytest.raises(RuntimeError, match=r"ended with 3(.|\n)*other words"):
        process.wait_for_log("ready.")


def test_a_process_dies_with_the_test_process(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from tests.support.processes import ManagedProcess\n"
        "argv = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = ManagedProcess('child', argv, directory=pathlib.Path(sys.argv[1]))\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env, timeout=60, check=False
    )

    pid = int(out.stdout)
    eventually(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, retry=(psutil.NoSuchProcess,)
    )


def test_a_killed_redis_comes_back_with_its_data(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.set("kept", "yes")

    own_redis.kill()
    assert not port_is_open(own_redis.port)
    own_redis.restart()

    with own_redis.client() as client:
        assert client.get("kept") == "yes"


def test_the_two_redis_differ(redis62: RedisServer, redis_newer: RedisServer) -> None:
    with redis62.client() as old, redis_newer.client() as new:
        assert old.info("server")["redis_version"].startswith("6.2.")
        assert int(new.info("server")["redis_version"].split(".")[0]) >= 7
        assert old.dbsize() == new.dbsize() == 0


def test_queues_under_the_prefix_are_deleted(rabbitmq: RabbitMQ) -> None:
    from kombu import Connection, Queue

    name = f"{rabbitmq.prefix}left-over"
    with Connection(rabbitmq.url) as connection:
        Queue(name, channel=connection.channel()).declare()
        rabbitmq.names.add(name)

        clean([rabbitmq])

        with pytest.raises(connection.channel_errors):
            connection.channel().queue_declare(name, passive=True)


def test_waiting_ends_with_what_it_last_saw() -> None:
    with pytest.raises(NotInTime, match="the last look gave 0"):
        eventually(lambda: 0, deadline=0.1)
