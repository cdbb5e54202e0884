"""docker_stop and docker_remove."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.docker.engine import engine, family
from avtomatika.operations.docker.references import TAG_OR_DIGEST, ContainerName, Daemon, ImageName, full_name
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.results import JSON


class Stop(Daemon):
    """A container by name or id; `timeout` seconds after the polite signal it is killed."""

    container: ContainerName
    timeout: int = Field(10, ge=0, le=3600)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("containers", self.container)


class Remove(Daemon):
    """A container, or an image. `force` also removes what is in use."""

    container: ContainerName | None = None
    image_name: ImageName | None = None
    tag: str = Field("latest", pattern=TAG_OR_DIGEST)
    force: bool = False
    volumes: bool = Field(False, description="its anonymous volumes, too")

    @model_validator(mode="after")
    def _one(self) -> Remove:
        if (self.container is None) == (self.image_name is None):
            raise ValueError("name either a container or an image_name")
        return self

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if self.container is not None:
            permit.matches("containers", self.container)
        if self.image_name is not None:
            permit.matches("images", full_name(self.image_name, self.tag))


@family.operation("docker_stop", timeout_seconds=600, guard=lambda params, permit: params.guard(permit))
def docker_stop(params: Stop, op: OperationContext) -> JSON:
    """Stops a container; one that does not run is a success."""
    with engine(params, op) as api:
        found = _container(api, params.container, op)
        running = found["State"]["Status"] in ("running", "paused", "restarting")
        if running:
            op.progress(0.2, f"stopping {params.container}")
            api.stop(found["Id"], timeout=params.timeout)
            found = api.inspect_container(found["Id"])
    return {
        "container_id": found["Id"],
        "container_name": found["Name"].lstrip("/"),
        "already_stopped": not running,
        "exit_code": found["State"].get("ExitCode"),
    }


@family.operation("docker_remove", timeout_seconds=600, guard=lambda params, permit: params.guard(permit))
def docker_remove(params: Remove, op: OperationContext) -> JSON:
    """Removes a container, or an image."""
    with engine(params, op) as api:
        if params.container is not None:
            found = _container(api, params.container, op)
            if found["State"]["Status"] in ("running", "paused", "restarting") and not params.force:
                raise OperationError(
                    TaskErrorCode.DOCKER_CONTAINER_ALREADY_RUNNING,
                    f"the container {params.container} is running: stop it first, or set force",
                )
            api.remove_container(found["Id"], force=params.force, v=params.volumes)
            return {"container_id": found["Id"], "container_name": found["Name"].lstrip("/"), "removed": True}
        name = full_name(params.image_name or "", params.tag)
        gone = api.remove_image(name, force=params.force)
    return {
        "image_name": params.image_name,
        "tag": params.tag,
        "full_image_name": name,
        "untagged": [item["Untagged"] for item in gone if "Untagged" in item],
        "deleted": [item["Deleted"] for item in gone if "Deleted" in item],
        "removed": True,
    }


def _container(api: Any, reference: str, op: OperationContext) -> JSON:
    """The container, by its own name allowed: an id says nothing about whose it is."""
    found: JSON = api.inspect_container(reference)
    op.permit.matches("containers", str(found["Name"]).lstrip("/"))
    return found
