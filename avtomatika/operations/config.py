"""OPERATIONS_CONFIG_PATH: credentials by name, the inventory of hosts, and who may do what."""

from __future__ import annotations

from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

from avtomatika.book import Book
from avtomatika.operations.names import HOST_NAME, check_address, check_username
from avtomatika.settings import Settings

SETTING = "OPERATIONS_CONFIG_PATH"

Address = Annotated[str, BeforeValidator(check_address)]
Username = Annotated[str, BeforeValidator(check_username)]
#: Of registries and services, too, which have names such as ``robot$ci`` and ``ada@example.com``.
Login = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]{0,254}$")]
Flag = Annotated[bool, Strict()]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
#: What a client may do with the queue itself.
QueueAction = Literal["push", "status", "cancel", "manage", "logs"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CredentialEntry(_Table):
    """``[credentials.<name>]``: where a secret is found; never the secret itself.

    Attributes:
        keyring: ``service/user``: the password is in the system's keyring.
        provider: an entry point of the group ``avtomatika.credentials``, which is given `options`.
        registry: the only registry of images that username and password are sent to; docker.io without it.
        kubeconfig: a file that leads to a cluster, by its `context` where it has several.
        agent: keys of the SSH agent of the worker's user may be used.
        service: where the service is that it is for, such as ``api_url``, where that is not the one that its family knows.
    """

    name: str = ""
    username: Login | None = None
    key_file: Path | None = None
    certificate_file: Path | None = None
    passphrase_env: EnvName | None = None
    passphrase_file: Path | None = None
    password_env: EnvName | None = None
    password_file: Path | None = None
    token_env: EnvName | None = None
    token_file: Path | None = None
    keyring: str | None = Field(None, pattern=r"^[^/]+/.+$")
    registry: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")
    kubeconfig: Path | None = None
    context: str | None = None
    agent: Flag = False
    provider: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    service: dict[str, str] = Field(default_factory=dict)

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The files that nobody else may read."""
        named = (self.key_file, self.passphrase_file, self.password_file, self.token_file, self.kubeconfig)
        return tuple(path for path in named if path is not None)


class HostEntry(_Table):
    """``[hosts.<name>]``: a machine of the inventory. `name` is what tasks call it by.

    Attributes:
        ca_file: authorities that its TLS certificate is checked with.
        ssh_config: a file of OpenSSH's kind that says more about it.
    """

    name: str = ""
    address: Address = ""
    port: Annotated[int, Strict()] | None = Field(None, ge=1, le=65535)
    username: Username | None = None
    credential: str | None = None
    host_keys: tuple[str, ...] = ()
    fingerprint: str | None = None
    known_hosts: Path | None = None
    ca_file: Path | None = None
    ssh_config: Path | None = None
    groups: tuple[Annotated[str, Field(pattern=HOST_NAME)], ...] = ()
    jump: str | None = None


class PolicyEntry(_Table):
    """``[policy.<role>]``: what clients of a role may do. Nothing is allowed that is not named."""

    name: str = ""
    operations: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    any_host: Flag = False
    commands: tuple[str, ...] = ()
    free_text: Flag = False
    local_roots: tuple[Path, ...] = ()
    remote_roots: tuple[str, ...] = ()
    credentials: tuple[str, ...] | None = None
    queue: tuple[QueueAction, ...] = ("push", "status", "cancel", "manage", "logs")
    options: dict[str, Any] = Field(default_factory=dict)


class OperationsConfig(_Table):
    """The whole file, checked. Without a file it is empty, and allows nothing.

    Attributes:
        path: the file itself.
        audit_file: where the audit is written, beside the log.
    """

    credentials: dict[str, CredentialEntry] = Field(default_factory=dict)
    hosts: dict[str, HostEntry] = Field(default_factory=dict)
    policy: dict[str, PolicyEntry] = Field(default_factory=dict)
    audit_file: Path | None = None
    path: Path | None = None

    @cached_property
    def own_files(self) -> frozenset[Path]:
        """The files that belong to the configuration: no operation touches them, wherever they lie."""
        named = [self.path, self.audit_file]
        for entry in self.credentials.values():
            named += [*entry.secret_files, entry.certificate_file]
        return frozenset(path.resolve() for path in named if path is not None)

    def group(self, name: str) -> tuple[HostEntry, ...]:
        """The hosts of a group, in the order of the file; ``*`` is every host of the inventory."""
        return tuple(host for host in self.hosts.values() if name == "*" or name in host.groups)


def read_config(path: Path | None) -> OperationsConfig:
    """Raises ConfigurationError with the file, its line and the fix."""
    from avtomatika.operations.configfile import read

    return OperationsConfig() if path is None else read(path)


@lru_cache(maxsize=8)
def config_book(path: Path | None) -> Book[OperationsConfig]:
    """The one book of a file in this process."""
    return Book(path, partial(read_config, path))


def operations_config(settings: Settings) -> OperationsConfig:
    """The configuration as its file says now; where a changed file is wrong, the old one stays and the log says so.

    Raises:
        ConfigurationError: the file was wrong from the beginning.
    """
    book = config_book(settings.operations_config_path)
    book.refresh()
    return book.current
