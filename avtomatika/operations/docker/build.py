"""docker_build: an image out of a folder of the worker."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import AliasChoices, Field, StringConstraints

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.docker.engine import engine, family
from avtomatika.operations.docker.references import (
    Daemon,
    ImageName,
    Platform,
    Tag,
    auth_config,
    check_credential,
    full_name,
    registry_of,
)
from avtomatika.operations.docker.streams import BuildLog, StreamError, entries
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON

#: Bytes of a build context, unless the policy's option ``max_context_bytes`` says otherwise.
MAX_CONTEXT = 2 * 1024**3
_BLOCK = 256 * 1024


class Build(Daemon):
    """
    Attributes:
        context_path: a folder of the worker, beneath the policy's local_roots.
        dockerfile: inside it.
        credential: an account for base images, and `credential_registry` says where: the image's own registry without that.
        build_args: they stay in the image's history: no place for secrets.
    """

    image_name: ImageName
    tag: Tag = "latest"
    context_path: str = Field(".", min_length=1)
    dockerfile: str = Field(
        "Dockerfile", min_length=1, max_length=1024, validation_alias=AliasChoices("dockerfile", "dockerfile_path")
    )
    no_cache: bool = False
    pull: bool = False
    build_args: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        default_factory=dict, max_length=100
    )
    labels: dict[str, str] = Field(default_factory=dict, max_length=100)
    platform: Platform | None = None
    target: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)
    network: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    credential: str | None = None
    credential_registry: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")

    @property
    def full_name(self) -> str:
        return full_name(self.image_name, self.tag)

    @property
    def registry(self) -> str:
        return self.credential_registry or registry_of(self.image_name)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("images", self.full_name)
        permit.local_path(self.context_path)
        check_credential(permit, self.credential, f"{self.registry}/image")
        if self.network not in ("default", "none"):
            permit.matches("docker_options", f"network:{self.network}")


@family.operation("docker_build", timeout_seconds=3600, max_retries=1, guard=lambda params, permit: params.guard(permit))
def docker_build(params: Build, op: OperationContext) -> JSON:
    """Builds an image out of a folder with a Dockerfile."""
    context, dockerfile = _places(params, op)
    limit = int(op.permit.option("max_context_bytes", MAX_CONTEXT))
    with engine(params, op) as api, tempfile.TemporaryFile() as archive:
        op.progress(0.0, "packing the build context", TaskStatus.PREPARING)
        pack(context, dockerfile, archive, op, limit)
        if params.credential is not None:
            account = auth_config(op, params.credential, params.registry)
            api.registries = {account["serveraddress"]: account}
        log = BuildLog(op)
        upload = _Upload(archive, op)
        op.log(f"the build context has {len(upload)} bytes")
        try:
            for entry in entries(_start(api, params, dockerfile, upload), op):
                log.take(entry)
        except StreamError as exc:
            details = {"build_info": log.lines, **({"exit_code": exc.code} if isinstance(exc.code, int) else {})}
            raise OperationError(TaskErrorCode.DOCKER_BUILD_FAILED, f"the build failed: {exc}", details=details) from None
        image = api.inspect_image(log.image_id or params.full_name)
    return {
        "image_name": params.image_name,
        "tag": params.tag,
        "full_image_name": params.full_name,
        "image_id": image["Id"],
        "size": image.get("Size"),
        "context_path": str(context),
        "dockerfile": dockerfile,
        "build_info": log.lines,
        "command": _command(params, context, dockerfile),
    }


def _places(params: Build, op: OperationContext) -> tuple[Path, str]:
    """The folder, and the Dockerfile relative to it. Raises OperationError where one is not there."""
    context = op.permit.local_path(params.context_path)
    if not context.is_dir():
        raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, f"context_path: {context} is no folder on this worker")
    path = (context / params.dockerfile).resolve()
    if not path.is_relative_to(context):
        raise OperationError(TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, "dockerfile: it has to be inside context_path")
    if not path.is_file():
        raise OperationError(TaskErrorCode.VALIDATION_INVALID_PARAMS, f"dockerfile: {path} is no file on this worker")
    return context, str(path.relative_to(context))


def pack(context: Path, dockerfile: str, archive: IO[bytes], op: OperationContext, limit: int) -> None:
    """Writes the context as a tar file, without what .dockerignore leaves out. Symbolic links stay links: none is followed."""
    from docker.utils.build import create_archive, exclude_paths

    ignore = context / ".dockerignore"
    lines = ignore.read_text().splitlines() if ignore.is_file() and not ignore.is_symlink() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    def counted() -> Iterator[str]:
        size = 0
        for name in sorted(exclude_paths(str(context), patterns, dockerfile=dockerfile)):
            op.checkpoint()
            size += 512 + os.lstat(context / name).st_size
            if size > limit:
                raise OperationError(
                    TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                    f"the build context is larger than {limit} bytes: leave files out in .dockerignore",
                )
            yield name

    create_archive(str(context), files=counted(), fileobj=archive)


class _Upload:
    """The archive as a request's body; a stop ends it at the next block."""

    def __init__(self, file: IO[bytes], op: OperationContext) -> None:
        self._file = file
        self._op = op
        self._sent = 0
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(_BLOCK), b"")

    def read(self, size: int = -1) -> bytes:
        self._op.checkpoint()
        block = self._file.read(size)
        self._sent += len(block)
        self._op.progress(0.2 * self._sent / max(1, self._size), "sending the build context", TaskStatus.UPLOADING)
        return block


def _start(api: Any, params: Build, dockerfile: str, upload: _Upload) -> Iterator[Any]:
    stream: Iterator[Any] = api.build(
        fileobj=upload,
        custom_context=True,
        dockerfile=dockerfile,
        tag=params.full_name,
        nocache=params.no_cache,
        pull=params.pull,
        rm=True,
        forcerm=True,
        buildargs=dict(params.build_args),
        labels=dict(params.labels) or None,
        platform=params.platform,
        target=params.target,
        network_mode=None if params.network == "default" else params.network,
        decode=True,
    )
    return stream


def _command(params: Build, context: Path, dockerfile: str) -> str:
    """The same as a command line, for people."""
    argv = ["docker", "build", "-t", params.full_name, "-f", str(context / dockerfile)]
    argv += ["--no-cache"] * params.no_cache + ["--pull"] * params.pull
    for name in params.build_args:
        argv += ["--build-arg", name]
    for option, value in (("--platform", params.platform), ("--target", params.target)):
        argv += [option, value] if value else []
    return shlex.join([*argv, str(context)])
