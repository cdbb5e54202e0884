"""Clusters of kind: made, deleted, listed, and given images."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_state_path
from pydantic import Field, StringConstraints, model_validator

from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.kind import config as cluster_config
from avtomatika.operations.kind.program import Done, family, kind, names_in
from avtomatika.operations.kind.ready import nodes_ready
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=50)]
NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=253)]
ImageRef = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=512)]
#: Seconds for what is answered at once.
_QUICK = 60.0
#: Seconds to take a cluster back.
_UNDO = 120.0


class OfCluster(Params):
    cluster_name: ClusterName = "kind"

    def guard(self, permit: Permit) -> None:
        """Raises PolicyError for anything that the policy does not allow."""
        permit.matches("clusters", self.cluster_name)


class Create(OfCluster):
    """
    Attributes:
        cluster_type: kind's own; others are not served.
        config: kind's configuration as an object, or `config_file`, a file of the worker beneath the policy's local_roots.
        image: of the nodes; kind's own choice without it.
        wait: seconds that kind waits for the control plane.
        port: of the API server, on the loopback interface; a free one without it.
        timeout: seconds for all of it.
    """

    cluster_type: Literal["kind"] = "kind"
    config: dict[str, Any] | None = None
    config_file: str | None = Field(None, min_length=1)
    image: ImageRef | None = None
    wait: int = Field(60, ge=0, le=3600)
    port: int | None = Field(None, ge=1, le=65_535)
    timeout: float = Field(600, gt=0, le=7200)

    @model_validator(mode="after")
    def _one(self) -> Create:
        if self.config is not None and self.config_file is not None:
            raise ValueError("give either a config or a config_file")
        return self

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if self.image is not None:
            permit.matches("images", self.image)
        if self.config is not None:
            cluster_config.allowed(self.config, permit)
        if self.config_file is not None:
            permit.local_path(self.config_file)


class Delete(OfCluster):
    missing_ok: bool = False
    timeout: float = Field(300, gt=0, le=3600)


class List(Params):
    """Without parameters: every cluster that the policy's `clusters` allow."""


class Nodes(OfCluster):
    pass


class LoadImage(OfCluster):
    """`image` is one of the worker's Docker Engine; `nodes` are all without any named."""

    image: ImageRef
    nodes: list[NodeName] = Field(default_factory=list, max_length=100)
    timeout: float = Field(600, gt=0, le=7200)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("images", self.image)


# A cluster's nodes are privileged containers: whoever makes one has the machine. So the policy has to name it in full.
@family.operation(
    "kind_cluster_create",
    timeout_seconds=1200,
    max_retries=0,
    privileged=True,
    guard=lambda params, permit: params.guard(permit),
)
async def kind_cluster_create(params: Create, op: OperationContext) -> JSON:
    """Creates a cluster. Where that fails, or is cancelled, nothing of it is left."""
    op.progress(0.0, "checking the configuration", TaskStatus.PREPARING)
    given = params.config or {}
    if params.config_file is not None:
        given = await asyncio.to_thread(cluster_config.read, params.config_file, op.permit)
    config = cluster_config.allowed(given, op.permit, port=params.port)
    if params.cluster_name in await _clusters(op):
        raise OperationError(
            TaskErrorCode.KIND_CLUSTER_CREATE_FAILED,
            f"there is a cluster {params.cluster_name!r} already: choose another name, or delete it",
            details={"exists": True},
        )
    kubeconfig = kubeconfig_of(params.cluster_name, op.permit)
    await asyncio.to_thread(kubeconfig.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
    argv = ["create", "cluster", "--name", params.cluster_name, "--config", "-", "--wait", f"{params.wait}s"]
    argv += ["--kubeconfig", str(kubeconfig), *(["--image", params.image] if params.image else [])]
    op.progress(0.1, f"creating the cluster {params.cluster_name}", TaskStatus.RUNNING)
    try:
        done = await kind(argv, op, stdin=json.dumps(config).encode(), seconds=params.timeout)
        if done.exit_code != 0:
            raise _failure(TaskErrorCode.KIND_CLUSTER_CREATE_FAILED, "the cluster could not be created", done)
        nodes = await _nodes(params.cluster_name, op)
        ready = await asyncio.to_thread(nodes_ready, kubeconfig, op) if params.wait else None
    except BaseException as exc:
        await _undo(params.cluster_name, kubeconfig, op)
        raise _timely(exc, f"the cluster was not there after {params.timeout:g} s") from None
    return {
        "cluster_name": params.cluster_name,
        "cluster_type": params.cluster_type,
        "nodes": nodes,
        "count": len(nodes),
        "ready": ready,
        "kubeconfig": str(kubeconfig),
        "stdout": done.stdout,
    }


@family.operation("kind_cluster_delete", timeout_seconds=600, guard=lambda params, permit: params.guard(permit))
async def kind_cluster_delete(params: Delete, op: OperationContext) -> JSON:
    """Deletes a cluster."""
    deleted = params.cluster_name in await _clusters(op)
    # After a first attempt that was interrupted it may be gone.
    if not deleted and not params.missing_ok and op.attempt == 1:
        raise _missing(params.cluster_name)
    kubeconfig = kubeconfig_of(params.cluster_name, op.permit)
    try:
        done = await kind(_deletion(params.cluster_name, kubeconfig), op, seconds=params.timeout)
    except TimeoutError as exc:
        raise _timely(exc, f"the cluster was not gone after {params.timeout:g} s") from None
    if done.exit_code != 0 or params.cluster_name in await _clusters(op):
        raise _failure(TaskErrorCode.KIND_CLUSTER_DELETE_FAILED, "the cluster could not be deleted", done)
    await asyncio.to_thread(kubeconfig.unlink, missing_ok=True)
    return {"cluster_name": params.cluster_name, "deleted": deleted, "stdout": done.stdout}


@family.operation("kind_cluster_list", timeout_seconds=120)
async def kind_cluster_list(params: List, op: OperationContext) -> JSON:
    """The names of the clusters of this worker that its client may use."""
    found = [name for name in await _clusters(op) if _may_use(name, op.permit)]
    return {"clusters": found, "count": len(found)}


@family.operation("kind_get_nodes", timeout_seconds=120, guard=lambda params, permit: params.guard(permit))
async def kind_get_nodes(params: Nodes, op: OperationContext) -> JSON:
    """The names of a cluster's nodes."""
    if params.cluster_name not in await _clusters(op):
        raise _missing(params.cluster_name)
    nodes = await _nodes(params.cluster_name, op)
    return {"cluster_name": params.cluster_name, "nodes": nodes, "count": len(nodes)}


@family.operation("kind_load_image", timeout_seconds=1200, guard=lambda params, permit: params.guard(permit))
async def kind_load_image(params: LoadImage, op: OperationContext) -> JSON:
    """Gives a cluster's nodes an image of the worker."""
    if params.cluster_name not in await _clusters(op):
        raise _missing(params.cluster_name)
    argv = ["load", "docker-image", params.image, "--name", params.cluster_name]
    argv += ["--nodes", ",".join(params.nodes)] if params.nodes else []
    op.progress(0.2, f"loading {params.image}", TaskStatus.UPLOADING)
    try:
        done = await kind(argv, op, seconds=params.timeout)
    except TimeoutError as exc:
        raise _timely(exc, f"the image was not loaded after {params.timeout:g} s") from None
    if done.exit_code != 0:
        raise _failure(TaskErrorCode.KIND_LOAD_IMAGE_FAILED, f"{params.image} could not be loaded", done)
    nodes = params.nodes or await _nodes(params.cluster_name, op)
    return {
        "cluster_name": params.cluster_name,
        "image": params.image,
        "nodes": nodes,
        "count": len(nodes),
        "stdout": done.stdout,
    }


def kubeconfig_of(cluster: str, permit: Permit) -> Path:
    """The file that leads to a cluster: not the user's own, which other programs use."""
    folder = permit.option("kubeconfig_folder")
    return (Path(folder) if folder else user_state_path("avtomatika") / "kind") / f"{cluster}.kubeconfig"


async def _clusters(op: OperationContext) -> list[str]:
    return await _listed(["get", "clusters"], op)


async def _nodes(cluster: str, op: OperationContext) -> list[str]:
    return await _listed(["get", "nodes", "--name", cluster], op)


async def _listed(argv: list[str], op: OperationContext) -> list[str]:
    try:
        done = await kind(argv, op, seconds=_QUICK, quiet=True)
    except TimeoutError as exc:
        raise _timely(exc, "kind does not answer: look whether the Docker Engine does") from None
    if done.exit_code != 0:
        raise _failure(TaskErrorCode.SYSTEM_SERVICE_UNAVAILABLE, f"kind {' '.join(argv[:2])} fails: is Docker there?", done)
    return names_in(done.stdout)


def _deletion(cluster: str, kubeconfig: Path) -> list[str]:
    return ["delete", "cluster", "--name", cluster, "--kubeconfig", str(kubeconfig)]


async def _undo(cluster: str, kubeconfig: Path, op: OperationContext) -> None:
    """Takes back what there is of a cluster; it was not there before."""
    try:
        done = await kind(_deletion(cluster, kubeconfig), op, seconds=_UNDO)
    except (TimeoutError, OSError):
        done = Done(-1, "", "")
    if done.exit_code != 0:
        op.log(f"parts of the cluster {cluster} may still be there: kind delete cluster --name {cluster}")
    await asyncio.to_thread(kubeconfig.unlink, missing_ok=True)


def _may_use(cluster: str, permit: Permit) -> bool:
    try:
        return permit.matches("clusters", cluster)
    except OperationError:
        return False


def _missing(cluster: str) -> OperationError:
    return OperationError(TaskErrorCode.KIND_CLUSTER_NOT_FOUND, f"there is no cluster {cluster!r} on this worker")


def _failure(code: TaskErrorCode, text: str, done: Done) -> OperationError:
    return OperationError(
        code, f"{text}: kind ended with exit code {done.exit_code}", details={"exit_code": done.exit_code, "stderr": done.stderr}
    )


def _timely(exc: BaseException, text: str) -> BaseException:
    return OperationError(TaskErrorCode.KIND_TIMEOUT, text) if isinstance(exc, TimeoutError) else exc
