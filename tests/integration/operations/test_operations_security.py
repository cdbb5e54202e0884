"""What a worker runs is what was queued and is still allowed: no message forges it, and the audit tells all of it."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from avtomatika.jobs import JobStatus
from avtomatika.operations.auditfile import Verified, verify
from tests.support.operations import make_site, push
from tests.support.processes import Processes
from tests.support.servers import Broker

CONFIG = """
audit_file = "audit.jsonl"
[hosts.here]
address = "127.0.0.1"
[hosts.there]
address = "127.0.0.1"

[policy.default]
operations = ["network_test"]
hosts = ["here", "there"]
"""


class Listener:
    """Counts who connects."""

    def __init__(self, server: socket.socket) -> None:
        self.port: int = server.getsockname()[1]
        self.connected = 0


@contextmanager
def listening() -> Iterator[Listener]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        listener = Listener(server)

        def accept() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return
                listener.connected += 1

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def forge(broker: Broker, queue: str, **kwargs: Any) -> None:
    """A hand-made message, as anybody could send it who reaches the broker."""
    with Celery("forger", broker=broker.env["BROKER_URL"]) as app:
        app.send_task(
            "network_test",
            kwargs=kwargs,
            task_id=kwargs.get("task_id"),
            queue=f"{broker.env['QUEUE_PREFIX']}{queue}",
            retry=False,
        )


async def test_messages_forge_nothing_and_the_policy_is_asked_again(
    redis_broker: Broker, processes: Processes, tmp_path: Path
) -> None:
    site = make_site(redis_broker, processes, tmp_path, CONFIG)
    site.orchestrator()
    with listening() as right, listening() as wrong:
        async with site.engine() as engine:
            good = await push(engine, "network_test", {"host": "here", "port": right.port})
            revoked = await push(engine, "network_test", {"host": "there", "port": wrong.port})

            evil = {"host": "here", "port": wrong.port}
            made_up = {"task_id": str(uuid.uuid4()), "attempt": 1}
            forge(redis_broker, "network", **made_up, job_id=str(uuid.uuid4()), params=evil)  # nothing of it is known
            forge(redis_broker, "network", **made_up, job_id=good.id, params=evil)  # of a job that is there
            forge(redis_broker, "network", params=evil)  # as a plain Celery task
            forge(redis_broker, "network", **evil)
            site.config.write_text(CONFIG.replace(', "there"]', "]"))

            worker = site.worker("network")
            good = await engine.ended(good.id)
            revoked = await engine.ended(revoked.id)
            last = await engine.ended((await push(engine, "network_test", {"host": "here", "port": right.port})).id)

            assert good.status is JobStatus.FINISHED, good.error_message
            assert last.status is JobStatus.FINISHED, last.error_message
            assert good.result["port"] == right.port
            assert revoked.status is JobStatus.FAILED
            assert "does not allow the host 'there'" in (revoked.error_message or "")
            assert (right.connected, wrong.connected) == (2, 0)

            audit = tmp_path / "audit.jsonl"
            lines = [json.loads(line) for line in audit.read_text().splitlines()]
            assert list(verify(audit, Verified())) == []
            of_good = [line for line in lines if line.get("job_id") == good.id]
            assert [line["event"] for line in of_good] == ["started", "ended"]
            assert of_good[1]["outcome"] == "succeeded"
            assert {line["who"] for line in of_good} == {"client-of-default"}
            refused = next(line for line in lines if line.get("job_id") == revoked.id)
            assert (refused["event"], refused["decision"], "the host 'there'" in refused["rule"]) == ("refused", "refused", True)
            queued = [line for line in lines if line["event"] == "queued"]
            assert queued[0]["params_sha256"] == of_good[0]["params_sha256"]
            assert of_good[0]["params_sha256"] in worker.log()  # the log has it, too
            assert {line.get("job_id") for line in lines if line["event"] in ("started", "ended")} == {good.id, last.id}
