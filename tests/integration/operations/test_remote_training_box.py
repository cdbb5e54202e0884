"""The example of operations as steps against a real sshd, through real processes: its way through, and a command that fails."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from avtomatika.jobs import Client, JobStatus
from tests.support.operations import make_site
from tests.support.polling import eventually_async
from tests.support.processes import REPOSITORY, Processes
from tests.support.servers import Broker
from tests.support.sshd import Sshd, running

SCRIPT = """
import pathlib, sys, time
words = pathlib.Path("words.txt").read_text().split()
pathlib.Path("result").mkdir()
for number, word in enumerate(words, 1):
    print(f"step {number} of {len(words)}", flush=True)
    if word == "poison":
        sys.exit(3)
pathlib.Path("result/model.txt").write_text(" ".join(sorted(words)))
while sys.argv[1:] and not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)  # until its lines have been seen
"""
PAGE = (REPOSITORY / "docs" / "operations-blueprints.md").read_text(encoding="utf-8")


def policy_of_the_page(local: Path, remote: Path) -> str:
    """The policy as docs/operations-blueprints.md has it, for other folders."""
    found = re.search(r"^```toml\n(.*?)^\[hosts", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].replace("/srv/jobs", str(remote)).replace("/srv/data", str(local))


async def test_a_training_on_a_box(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    local, remote = tmp_path / "here", tmp_path / "there"
    for path in (local / "in", remote):
        path.mkdir(parents=True)
    (local / "in" / "train.py").write_text(SCRIPT)
    (local / "in" / "words.txt").write_text("pear apple fig")
    with running(Sshd(tmp_path / "sshd")) as server:
        config = server.credential() + server.host("gpu-box") + 'groups = ["gpu"]\n' + policy_of_the_page(local, remote)
        site = make_site(redis_broker, processes, tmp_path, config)
        shutil.copy(REPOSITORY / "blueprints" / "remote_training.py", tmp_path / "blueprints")
        site.orchestrator()
        site.worker("ssh")
        initial = {
            "host": "gpu-box",
            "folder": str(local / "in"),
            "output": str(local / "out"),
            "remote_root": str(remote),
            "command": ["python3", "train.py", str(tmp_path / "seen")],
            "seconds": 60,
        }
        async with site.engine() as engine:
            client = Client(name="somebody")
            job = await engine.service.create("remote_training", initial, client=client)

            async def streams() -> bool:
                store = engine.service.store
                found = await store.load(job.id)
                lines = [line.text for line in await store.job_log(job.id)]
                return found is not None and found.current_state == "train" and "step 3 of 3" in lines

            await eventually_async(streams)
            (tmp_path / "seen").touch()
            job = await engine.ended(job.id)
            assert job.status is JobStatus.FINISHED, job.error_message
            assert job.result["stdout"].splitlines() == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
            assert job.result["files"] == 1
            assert (local / "out" / "model.txt").read_text() == "apple fig pear"
            assert list(remote.iterdir()) == []

            (local / "in" / "words.txt").write_text("pear poison")
            failing = {**initial, "command": ["python3", "train.py"], "output": str(local / "other")}
            job = await engine.ended((await engine.service.create("remote_training", failing, client=client)).id)
            assert job.status is JobStatus.FAILED
            assert job.state_history["problem"]["error_code"] == "SSH_COMMAND_FAILED"
            assert job.state_history["problem"]["details"]["exit_code"] == 3
            assert not (local / "other").exists()
            assert list(remote.iterdir()) == []

            forbidden = {**initial, "command": ["python3", "-c", "print(1)"]}
            job = await engine.ended((await engine.service.create("remote_training", forbidden, client=client)).id)
            assert job.status is JobStatus.FAILED
            assert "does not allow the command" in (job.error_message or "")
