"""What a container may be given, and which of it the policy has to allow by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from avtomatika.operations.base import Params
from avtomatika.operations.docker.references import ContainerName, Platform, RegistryImage
from avtomatika.operations.policy import Permit

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
#: Bytes, or a number with a unit: ``512m``.
Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[bkmgBKMG]?$")]
_INSIDE = r"^/[^\x00:]*$"
_CAPABILITY = Annotated[str, StringConstraints(pattern=r"^(?:CAP_)?[A-Z][A-Z0-9_]*$")]
LOOPBACK = "127.0.0.1"


class Mount(Params):
    """A folder or file of the worker, seen in the container as `target`. It has to lie beneath the policy's local_roots."""

    source: str = Field(min_length=1)
    target: str = Field(pattern=_INSIDE)
    read_only: bool = True


class Port(Params):
    """A port of the container, reachable at the worker's `host_ip`:`host_port`; on the loopback interface alone by default."""

    container_port: int = Field(ge=1, le=65535)
    host_port: int | None = Field(None, ge=1, le=65535)
    host_ip: str = Field(LOOPBACK, pattern=r"^[0-9a-fA-F.:]+$")
    protocol: Literal["tcp", "udp"] = "tcp"


class Device(Params):
    path: str = Field(pattern=r"^/dev/[^\x00:]+$")
    permissions: str = Field("rwm", pattern=r"^[rwm]{1,3}$")


class SecretVariable(Params):
    variable: Variable
    credential: str


class Run(RegistryImage):
    """
    Attributes:
        command: the arguments as a list; what the image says without it.
        name: of the container; one made of the task's key without it, so that a second attempt finds the first one's container.
        env_from_credentials: variables whose value is a credential's password or token: it goes into the container alone.
        timeout: seconds that the container may run.
        ok_codes: exit codes that are a success.
        detach: it goes on running; the task ends when it has begun.
        remove: the container is removed at the end.
        max_output: bytes kept of stdout and of stderr, the last ones.
    """

    command: list[str] | None = Field(None, max_length=1000)
    entrypoint: list[str] | None = Field(None, max_length=100)
    name: ContainerName | None = None
    env: dict[Variable, str] = Field(default_factory=dict, max_length=1000)
    env_from_credentials: list[SecretVariable] = Field(default_factory=list, max_length=100)
    working_dir: str | None = Field(None, pattern=_INSIDE)
    user: str | None = Field(None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_.-]+)?$")
    hostname: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$")
    labels: dict[str, str] = Field(default_factory=dict, max_length=100)
    platform: Platform | None = None
    pull: Literal["missing", "always", "never"] = "missing"
    # Limits
    memory: Memory | None = None
    cpus: float | None = Field(None, gt=0, le=4096)
    pids_limit: int = Field(4096, ge=1, le=4_000_000)
    shm_size: Memory | None = None
    gpus: Literal["all"] | Annotated[int, Field(ge=1, le=64)] | list[str] | None = None
    timeout: float | None = Field(None, gt=0)
    stop_timeout: int = Field(10, ge=0, le=3600)
    max_output: int = Field(262_144, ge=0, le=4_194_304)
    ok_codes: list[int] = Field(default_factory=lambda: [0], max_length=256)
    detach: bool = False
    remove: bool = True
    # What it may reach
    network: str = Field("bridge", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", max_length=255)
    ports: list[Port] = Field(default_factory=list, max_length=100)
    mounts: list[Mount] = Field(default_factory=list, max_length=100)
    tmpfs: dict[str, str] = Field(default_factory=dict, max_length=100)
    read_only: bool = False
    init: bool = True
    privileged: bool = False
    no_new_privileges: bool = True
    cap_add: list[_CAPABILITY] = Field(default_factory=list, max_length=64)
    cap_drop: list[_CAPABILITY] = Field(default_factory=list, max_length=64)
    devices: list[Device] = Field(default_factory=list, max_length=64)

    @field_validator("mounts")
    @classmethod
    def _targets_differ(cls, mounts: list[Mount]) -> list[Mount]:
        if len({mount.target for mount in mounts}) != len(mounts):
            raise ValueError("two mounts have the same target")
        return mounts

    def guard(self, permit: Permit) -> None:
        super().guard(permit)
        for name in self.named_options():
            permit.matches("docker_options", name)
        for mount in self.mounts:
            permit.local_path(mount.source)
        for secret in self.env_from_credentials:
            permit.credential(secret.credential)

    def named_options(self) -> Iterator[str]:
        """What leads out of the container, as the policy's ``docker_options`` names it."""
        if self.privileged:
            yield "privileged"
        if not self.no_new_privileges:
            yield "new_privileges"
        if self.network not in ("bridge", "none"):
            yield f"network:{self.network}"
        if self.gpus is not None:
            yield "gpus"
        yield from (f"cap_add:{name.removeprefix('CAP_')}" for name in self.cap_add)
        yield from (f"device:{device.path}" for device in self.devices)
        yield from (f"publish:{port.host_ip}" for port in self.ports if port.host_ip != LOOPBACK)

    def host_config(self, api: Any, permit: Permit) -> dict[str, Any]:
        """The Engine's HostConfig."""
        from docker.types import DeviceRequest, LogConfig
        from docker.types import Mount as Bind

        ports: dict[str, Any] = {}
        for port in self.ports:
            ports.setdefault(f"{port.container_port}/{port.protocol}", []).append((port.host_ip, port.host_port))
        binds = [
            Bind(mount.target, str(permit.local_path(mount.source)), type="bind", read_only=mount.read_only)
            for mount in self.mounts
        ]
        gpus = None
        if self.gpus is not None:
            ids = self.gpus if isinstance(self.gpus, list) else None
            count = None if ids else -1 if self.gpus == "all" else self.gpus
            gpus = [DeviceRequest(count=count, device_ids=ids, capabilities=[["gpu"]])]
        config: dict[str, Any] = api.create_host_config(
            mem_limit=self.memory,
            memswap_limit=self.memory,  # no swap on top
            nano_cpus=None if self.cpus is None else int(self.cpus * 1e9),
            pids_limit=self.pids_limit,
            shm_size=self.shm_size,
            network_mode=self.network,
            port_bindings=ports or None,
            mounts=binds or None,
            tmpfs=dict(self.tmpfs) or None,
            read_only=self.read_only,
            init=self.init,
            auto_remove=self.detach and self.remove,  # else the task removes it, after it has read what is left of it
            privileged=self.privileged,
            security_opt=["no-new-privileges"] if self.no_new_privileges and not self.privileged else None,
            cap_add=self.cap_add or None,
            cap_drop=self.cap_drop or None,
            devices=[f"{device.path}:{device.path}:{device.permissions}" for device in self.devices] or None,
            device_requests=gpus,
            # What a container writes must not fill the worker's disk.
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
        )
        return config
