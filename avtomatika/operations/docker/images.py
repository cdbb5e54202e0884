"""docker_push, docker_pull and docker_tag."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.docker.engine import by_code, engine, family, judge
from avtomatika.operations.docker.references import (
    ImageName,
    Platform,
    RegistryImage,
    Tag,
    auth_config,
    full_name,
    registry_of,
)
from avtomatika.operations.docker.streams import Layers, StreamError, entries
from avtomatika.operations.errors import OperationError
from avtomatika.operations.policy import Permit
from avtomatika.operations.types import TaskStatus
from avtomatika.results import JSON


class Transfer(RegistryImage):
    """What a push and a pull have in common.

    Attributes:
        all_tags: every tag of the image; `tag` is then the one that is reported.
        disable_content_trust: the Engine API checks no signatures. Where DOCKER_CONTENT_TRUST=1 asks for them, set it.
        quiet: no line for each step of each layer in the task's log.
    """

    all_tags: bool = False
    disable_content_trust: bool = False
    quiet: bool = False

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        if self.all_tags:
            permit.matches("images", f"{self.image_name}:*")


class Push(Transfer):
    tag: Tag = "latest"


class Pull(Transfer):
    platform: Platform | None = None


class TagImage(RegistryImage):
    """The image gets a further name: `target_name`:`target_tag`."""

    target_name: ImageName
    target_tag: Tag = "latest"
    force: bool = Field(False, description="moves the name, where another image has it")

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("images", full_name(self.target_name, self.target_tag))


def _guard(params: RegistryImage, permit: Permit) -> None:
    params.guard(permit)


def _check_trust(params: Transfer) -> None:
    if os.environ.get("DOCKER_CONTENT_TRUST") == "1" and not params.disable_content_trust:
        raise OperationError(
            TaskErrorCode.CONFIGURATION_ERROR,
            "DOCKER_CONTENT_TRUST=1 is set on the worker, and the Engine API signs and checks nothing: "
            "set disable_content_trust, or push and pull by digest",
        )


@family.operation("docker_push", timeout_seconds=3600, guard=_guard)
def docker_push(params: Push, op: OperationContext) -> JSON:
    """Pushes an image to its registry."""
    _check_trust(params)
    auth = auth_config(op, params.credential, registry_of(params.image_name))
    with engine(params, op) as api:
        op.progress(0.0, f"looking for {params.full_name}", TaskStatus.PREPARING)
        image = api.inspect_image(params.full_name)
        op.progress(0.05, f"pushing {params.full_name}", TaskStatus.UPLOADING)
        layers, pushed = Layers(op, TaskStatus.UPLOADING, quiet=params.quiet), {}
        api.timeout = None
        tag = None if params.all_tags else params.tag
        try:
            for entry in entries(api.push(params.image_name, tag, stream=True, decode=True, auth_config=auth), op):
                layers.take(entry)
                aux = entry.get("aux") or {}
                if "Digest" in aux:
                    pushed[str(aux.get("Tag") or params.tag)] = str(aux["Digest"])
        except StreamError as exc:
            raise _push_error(api, exc, auth) from None
        digest = pushed.get(params.tag)
        op.log(f"pushed {params.full_name}: {digest}")
    return {
        "image_name": params.image_name,
        "tag": params.tag,
        "full_image_name": params.full_name,
        "digest": digest,
        "tags": pushed,
        "image_id": image["Id"],
        "size_info": layers.size_info,
    }


@family.operation("docker_pull", timeout_seconds=3600, guard=_guard)
def docker_pull(params: Pull, op: OperationContext) -> JSON:
    """Pulls an image from its registry; one that is up to date already is a success."""
    _check_trust(params)
    with engine(params, op) as api:
        before = image_id(api, params.full_name)
        layers = pull(api, params, op, platform=params.platform, all_tags=params.all_tags, quiet=params.quiet)
        image = api.inspect_image(params.full_name)
    return {
        "image_name": params.image_name,
        "tag": params.tag,
        "full_image_name": params.full_name,
        "digest": digest_of(image, params.image_name),
        "image_id": image["Id"],
        "size": image.get("Size"),
        "size_info": layers.size_info,
        "updated": before != image["Id"],
    }


@family.operation("docker_tag", timeout_seconds=120, guard=_guard)
def docker_tag(params: TagImage, op: OperationContext) -> JSON:
    """Gives an image a further name."""
    target = full_name(params.target_name, params.target_tag)
    with engine(params, op) as api:
        image, other = api.inspect_image(params.full_name), image_id(api, target)
        if other not in (None, image["Id"]) and not params.force:
            raise OperationError(
                TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
                f"{target} is the name of another image: set force to move it",
                details={"image_id": other},
            )
        api.tag(params.full_name, params.target_name, params.target_tag)
    return {
        "image_name": params.image_name,
        "tag": params.tag,
        "full_image_name": params.full_name,
        "target_name": params.target_name,
        "target_tag": params.target_tag,
        "full_target_name": target,
        "image_id": image["Id"],
    }


def image_id(api: Any, name: str) -> str | None:
    """The id of a local image; None where there is none."""
    from docker.errors import NotFound

    try:
        return str(api.inspect_image(name)["Id"])
    except NotFound:
        return None


def pull(
    api: Any,
    params: RegistryImage,
    op: OperationContext,
    *,
    platform: str | None = None,
    all_tags: bool = False,
    quiet: bool = False,
) -> Layers:
    """Pulls an image, with progress. Raises OperationError with what the daemon says, and what the registry says then."""
    auth = auth_config(op, params.credential, registry_of(params.image_name))
    op.progress(0.05, f"pulling {params.full_name}", TaskStatus.PULLING)
    layers = Layers(op, TaskStatus.PULLING, quiet=quiet)
    seconds, api.timeout = api.timeout, None
    stream = api.pull(
        params.image_name,
        tag=None if all_tags else params.tag,
        stream=True,
        decode=True,
        auth_config=auth,
        platform=platform,
        all_tags=all_tags,
    )
    try:
        for entry in entries(stream, op):
            layers.take(entry)
    except StreamError as exc:
        raise _pull_error(api, exc, params.full_name, auth) from None
    finally:
        api.timeout = seconds
    return layers


def digest_of(image: JSON, name: str) -> str | None:
    """The digest that a registry knows an image by, under this name; the only one where names differ by their registry."""
    digests = [str(item).partition("@") for item in image.get("RepoDigests") or ()]
    of_name = [digest for repository, _, digest in digests if repository == name]
    return next(iter(of_name or [digest for _, _, digest in digests]), None)


def _pull_error(api: Any, exc: StreamError, name: str, auth: JSON) -> OperationError:
    """A stream's error is often a text without a number; the registry is then asked for the image, and its status decides."""
    if isinstance(exc.code, int):
        return by_code(exc.code, f"the pull failed: {exc}", TaskErrorCode.DOCKER_PULL_FAILED)
    api.timeout = 60
    return _asked(lambda: api.inspect_distribution(name, auth_config=auth), exc, TaskErrorCode.DOCKER_PULL_FAILED)


def _push_error(api: Any, exc: StreamError, auth: JSON) -> OperationError:
    """The same for a push: the registry is asked whether it takes the account."""
    if isinstance(exc.code, int):
        return by_code(exc.code, f"the push failed: {exc}", TaskErrorCode.DOCKER_PUSH_FAILED)
    if "username" not in auth:
        return OperationError(TaskErrorCode.DOCKER_PUSH_FAILED, f"the push failed: {exc}")
    api.timeout = 60
    login = {"username": auth["username"], "password": auth["password"], "registry": auth["serveraddress"], "reauth": True}
    return _asked(lambda: api.login(**login), exc, TaskErrorCode.DOCKER_PUSH_FAILED)


def _asked(ask: Any, exc: StreamError, otherwise: TaskErrorCode) -> OperationError:
    from docker.errors import DockerException
    from requests import RequestException

    try:
        ask()
    except (DockerException, RequestException) as answer:
        why = judge(answer)
        if why is not None and why.code is not TaskErrorCode.EXTERNAL_SERVICE_ERROR:
            return OperationError(why.code, f"{exc}; asked again, {why}", details=why.details, kind=why.kind)
    return OperationError(otherwise, f"the transfer failed: {exc}")
