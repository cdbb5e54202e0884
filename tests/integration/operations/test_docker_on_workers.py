"""docker_pull and docker_run through real processes: pushed, run by a worker, cancelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from avtomatika.jobs import JobStatus
from avtomatika.operations.errors import PolicyError
from tests.support.fake_docker import FakeDocker, Program, sha
from tests.support.operations import make_site, push
from tests.support.polling import eventually_async
from tests.support.processes import Processes
from tests.support.servers import Broker

SECRET = "a-password-that-nobody-sees"
CONFIG = """
[credentials.registry]
username = "ada"
password_env = "REGISTRY_PASSWORD"
registry = "registry.example.com"

[policy.default]
operations = ["docker_*"]
credentials = ["registry"]
options = {images = ["registry.example.com/*"]}
"""


async def test_an_image_is_pulled_and_a_container_cancelled(redis_broker: Broker, processes: Processes, tmp_path: Path) -> None:
    site = make_site(redis_broker, processes, tmp_path, CONFIG)
    with FakeDocker() as docker:
        docker.accounts["ada"] = SECRET
        docker.remote["registry.example.com/app:1"] = [("aaa", 4000)]
        docker.programs["registry.example.com/app:1"] = Program(stdout=b"at work\n", seconds=None)
        site.orchestrator()
        site.worker("docker", env={"DOCKER_HOST": docker.host, "REGISTRY_PASSWORD": SECRET})
        image = {"image_name": "registry.example.com/app", "tag": "1", "credential": "registry"}
        async with site.engine() as engine:
            store = engine.service.store
            job = await engine.ended((await push(engine, "docker_pull", image)).id)
            assert job.status is JobStatus.FINISHED, job.error_message
            assert job.result["digest"] == sha("manifest", "registry.example.com/app:1")
            assert "aaa: Pull complete" in [line.text for line in await store.job_log(job.id)]

            job = await push(engine, "docker_run", image)

            async def runs() -> bool:
                lines = [line.text for line in await store.job_log(job.id)]
                return "at work" in lines

            await eventually_async(runs)
            await engine.service.orders.cancel(job.id)
            job = await engine.ended(job.id)
            assert job.status is JobStatus.CANCELLED

            async def gone() -> bool:
                return not docker.containers

            await eventually_async(gone, what="the container of a cancelled task is removed")

            job = await engine.ended((await push(engine, "docker_pull", {**image, "tag": "2"}, max_retries=0)).id)
            assert job.status is JobStatus.QUARANTINED
            assert job.state_history["error_code"] == "DOCKER_IMAGE_NOT_FOUND"
            with pytest.raises(PolicyError, match="images"):
                await push(engine, "docker_pull", {"image_name": "elsewhere.example.com/app"})
        assert not any(SECRET in text for _, text in processes.logs())
