"""What every operation over SSH takes: where to, as whom, and how long to wait."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from avtomatika.operations.base import Params

#: A host's name in the inventory, or an address. No option of a program, no shell syntax, ever.
HostName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:\-]*$")]
Username = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+\-]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class ConnectionParams(Params):
    """How a connection is made and kept. All times are seconds.

    Attributes:
        port: the inventory's own, else 22.
        username: the inventory's own, else that of the credential.
        credential: the name of a table in OPERATIONS_CONFIG_PATH, where it is not the host's own.
        connect_timeout: for the name and for TCP.
        banner_timeout: for the peer's first line and the key exchange.
        auth_timeout: for each step of the authentication.
        channel_timeout: for the peer to open a channel.
        keepalive: a peer that has been silent as long is asked whether it is there; 0 never asks.
        keepalive_count: as many silent times `keepalive`, and the connection is given up.
        compression: zlib@openssh.com; worth it on slow lines only.
    """

    port: Port | None = None
    username: Username | None = None
    credential: str | None = Field(None, min_length=1, max_length=128)
    connect_timeout: float = Field(10, gt=0, le=300)
    banner_timeout: float = Field(15, gt=0, le=300)
    auth_timeout: float = Field(30, gt=0, le=300)
    channel_timeout: float = Field(30, gt=0, le=300)
    keepalive: float = Field(15, ge=0, le=3600)
    keepalive_count: int = Field(3, ge=1, le=100)
    compression: bool = False


class SshParams(ConnectionParams):
    """The same, with the host: a name of the inventory, or an address where the policy allows any."""

    host: HostName
