"""What operations on images share: how an image is named, which daemon is asked, and whose account is used."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from avtomatika.operations.base import Params
from avtomatika.operations.context import OperationContext
from avtomatika.operations.policy import Permit

#: A repository as Docker names it: ``nginx``, ``registry.example.com:5000/team/app``.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = rf"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*$"
TAG = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
TAG_OR_DIGEST = r"^(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|sha256:[0-9a-f]{64})$"
#: The registry of names without one.
HUB = "docker.io"

ImageName = Annotated[str, StringConstraints(pattern=NAME, max_length=255)]
Tag = Annotated[str, StringConstraints(pattern=TAG)]
Platform = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:/[a-z0-9._-]+){0,2}$", max_length=64)]
ContainerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$")]


def full_name(name: str, tag: str) -> str:
    """``name:tag``, or ``name@sha256:…`` where the tag is a digest."""
    return f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}"


class Daemon(Params):
    """Which Docker Engine is asked: the worker's own, as DOCKER_HOST says, unless another one is named."""

    docker_host: str | None = Field(None, pattern=r"^(?:tcp|http|https|unix)://[^\s]+$", max_length=255)

    def guard(self, permit: Permit) -> None:
        """Raises PolicyError for anything that the policy does not allow."""
        if self.docker_host is not None:
            permit.matches("docker_hosts", self.docker_host)


class Image(Daemon):
    """An image by name and tag; the tag may be a digest."""

    image_name: ImageName
    tag: str = Field("latest", pattern=TAG_OR_DIGEST)

    @property
    def full_name(self) -> str:
        return full_name(self.image_name, self.tag)

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        permit.matches("images", self.full_name)


class RegistryImage(Image):
    """An image that a registry is asked for, with an account there where `credential` names one."""

    credential: str | None = None

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        check_credential(permit, self.credential, self.image_name)


def registry_of(name: str) -> str:
    """The registry that a name leads to."""
    first, slash, _ = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return HUB if first == "index.docker.io" else first
    return HUB


def check_credential(permit: Permit, name: str | None, *images: str) -> None:
    """A credential goes to its own registry alone: a client who may use it may not send it elsewhere.

    Raises:
        PolicyError: it may not be used at all, or not there.
    """
    entry = permit.credential(name)
    if entry is None:
        return
    own = entry.registry or HUB
    for image in images:
        if registry_of(image) != own:
            raise permit.refusal(
                f"the credential {name!r} at the registry {registry_of(image)}",
                f"it is for {own}: set registry of [credentials.{name}]",
            )


def auth_config(op: OperationContext, name: str | None, registry: str) -> dict[str, Any]:
    """What the Engine API sends to a registry; empty without a credential: the worker's own ~/.docker is never used."""
    if name is None:
        return {}
    found = op.credential(name)
    address = "https://index.docker.io/v1/" if registry == HUB else registry
    if found.username is None and found.token is not None:
        return {"identitytoken": found.token, "serveraddress": address}
    return {"username": found.username or "", "password": found.password or found.token or "", "serveraddress": address}
