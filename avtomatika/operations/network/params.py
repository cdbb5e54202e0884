"""What is looked at, and what the guard asks the policy."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from avtomatika.addresses import UrlRefusedError, check_url
from avtomatika.operations.base import Params
from avtomatika.operations.policy import Permit

Kind = Literal["dns", "tcp", "tls", "http"]


class Target(Params):
    """
    Attributes:
        host: its name in the inventory; not needed beside a `url`.
        port: for ``tcp``; for ``tls``, else 443.
        url: for ``http``.
        server_name: that a certificate has to be for; else the host's address.
        min_days: that a certificate must still be good for.
        expected_status: of HTTP; else anything from 200 to 399.
        redirect_hosts: to which a redirect may lead, besides its own.
        timeout: seconds, of each check.
    """

    host: str | None = Field(None, min_length=1, max_length=253)
    port: int | None = Field(None, ge=1, le=65535)
    url: str | None = Field(None, max_length=2000)
    method: Literal["GET", "HEAD"] = "GET"
    server_name: str | None = Field(None, min_length=1, max_length=253)
    min_days: int = Field(0, ge=0, le=3650)
    expected_status: list[int] = Field(default_factory=list, max_length=20)
    redirect_hosts: list[str] = Field(default_factory=list, max_length=20)
    max_redirects: int = Field(5, ge=0, le=20)
    timeout: float = Field(5, gt=0, le=300)

    @model_validator(mode="after")
    def _fits(self) -> Target:
        if self.url is not None:
            try:
                check_url(self.url, allow_private=True)
            except UrlRefusedError as exc:
                raise ValueError(str(exc)) from None
        elif self.host is None:
            raise ValueError("name a host or a url")
        return self

    @property
    def host_of_url(self) -> str:
        return urlsplit(self.url or "").hostname or ""

    def default_kind(self) -> Kind:
        """What is looked at where nothing is named."""
        return "http" if self.url is not None else "dns" if self.port is None else "tcp"

    def check_kind(self, kind: Kind) -> None:
        """Raises ValueError where a check lacks what it needs."""
        if kind == "http" and self.url is None:
            raise ValueError("the check http needs a url")
        if kind == "tcp" and self.port is None:
            raise ValueError("the check tcp needs a port")
        if kind != "http" and self.host is None:
            raise ValueError(f"the check {kind} needs a host")


class NetworkTest(Target):
    """
    Attributes:
        checks: what is looked at, in this order; else ``http`` with a url, ``tcp`` with a port, ``dns`` without both.
        report_only: a check that fails is part of the result, and no failure of the task.
    """

    checks: list[Kind] = Field(default_factory=list, max_length=4)
    report_only: bool = False

    @model_validator(mode="after")
    def _checks_fit(self) -> NetworkTest:
        for kind in self.kinds:
            self.check_kind(kind)
        return self

    @property
    def kinds(self) -> list[Kind]:
        return self.checks or [self.default_kind()]


class NetworkMonitor(Target):
    """
    Attributes:
        check: what is looked at, as of `NetworkTest`.
        interval, duration: seconds, from one look to the next and in all.
        max_loss: percent of looks that may fail; with more the task fails.
    """

    check: Kind | None = None
    interval: float = Field(5, ge=0.1, le=3600)
    duration: float = Field(60, gt=0, le=86_400)
    max_loss: float | None = Field(None, ge=0, le=100)

    @model_validator(mode="after")
    def _check_fits(self) -> NetworkMonitor:
        self.check_kind(self.kind)
        if self.duration / self.interval > 100_000:
            raise ValueError("these are more than 100000 looks: make the interval longer")
        return self

    @property
    def kind(self) -> Kind:
        return self.check or self.default_kind()


def guard(params: Target, permit: Permit) -> None:
    """Every host that is spoken to, that of the url and those of redirects included."""
    if params.host is not None:
        permit.host(params.host)
    if params.url is not None:
        permit.host(params.host_of_url)
    for host in params.redirect_hosts:
        permit.host(host)
