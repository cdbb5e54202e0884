"""The credentials' provider ``vault``: secrets of a HashiCorp Vault, or of what speaks its API (OpenBao), key/value version 2.

```toml
[credentials.deploy]
provider = "vault"
options = {url = "https://vault.example.com:8200", path = "avtomatika/deploy", token_file = "/run/vault/token"}
```
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.credentials import read_secret
from avtomatika.operations.errors import OperationError

_MOST_BYTES = 1024 * 1024
_KNOWN = ("username", "password", "token", "passphrase", "private_key")


class VaultOptions(BaseModel):
    """
    Attributes:
        url: of the server; plain HTTP only to this very machine.
        path: of the secret, below `mount`.
        version: of the secret; the newest without one.
        token_env, token_file: where this worker's own token for the server is; VAULT_TOKEN without either.
        ca_file: the authority that the server's certificate is checked with; else the system's ones.
        fields: what is called differently there: ``{password = "pw"}``.
        timeout: seconds for the answer.
    """

    model_config = ConfigDict(extra="forbid")

    url: str = Field(pattern=r"^https://|^http://(127\.0\.0\.1|\[::1\]|localhost)([:/]|$)")
    path: str = Field(min_length=1)
    mount: str = Field("secret", pattern=r"^[A-Za-z0-9_/.-]+$")
    version: int | None = Field(None, ge=1)
    namespace: str | None = Field(None, pattern=r"^[A-Za-z0-9_/.-]+$")
    token_env: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    timeout: float = Field(10, gt=0, le=60)


def provide(options: Mapping[str, Any]) -> dict[str, str]:
    """The fields of one secret that a credential knows. Raises OperationError."""
    try:
        wanted = VaultOptions.model_validate(dict(options))
    except ValidationError as exc:
        misfit = exc.errors(include_url=False, include_input=False)[0]
        raise _error(f"options.{'.'.join(map(str, misfit['loc']))}: {misfit['msg']}") from None
    token = _token(wanted)
    answer = _ask(wanted, token)
    data = answer.get("data")
    held = data.get("data") if isinstance(data, dict) else None
    if not isinstance(held, dict):
        raise _error(f"{wanted.mount}/{wanted.path} is no secret of the key/value engine, version 2: check mount and path")
    found = {}
    for name in _KNOWN:
        value = held.get(wanted.fields.get(name, name))
        if isinstance(value, str) and value:
            found[name] = value
        elif name in wanted.fields:
            raise _error(
                f"{wanted.mount}/{wanted.path} has no text {wanted.fields[name]!r}, which options.fields name for {name}"
            )
    if not found:
        raise _error(f"{wanted.mount}/{wanted.path} has none of {', '.join(_KNOWN)}: name its own keys in options.fields")
    return found


def _token(wanted: VaultOptions) -> str:
    try:
        env = wanted.token_env or ("VAULT_TOKEN" if wanted.token_file is None else None)
        token = read_secret(env, wanted.token_file)
    except ValueError as exc:
        raise _error(f"the token for the vault: {exc}") from None
    if not re.fullmatch(r"[!-~]+", token or ""):
        raise _error("the token for the vault holds blanks or letters that no header can carry")
    return token or ""


def _ask(wanted: VaultOptions, token: str) -> dict[str, Any]:
    url = f"{wanted.url.rstrip('/')}/v1/{quote(wanted.mount.strip('/'))}/data/{quote(wanted.path.strip('/'))}"
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
    if wanted.namespace is not None:
        headers["X-Vault-Namespace"] = wanted.namespace
    query = {} if wanted.version is None else {"version": str(wanted.version)}
    try:
        verify = ssl.create_default_context(cafile=None if wanted.ca_file is None else str(wanted.ca_file))
    except OSError as exc:
        raise _error(f"options.ca_file: {wanted.ca_file} cannot be used: {exc.strerror or 'it is no certificate'}") from None
    try:
        # A redirect would carry the token elsewhere, and so might a proxy of the environment.
        with httpx.Client(verify=verify, timeout=wanted.timeout, follow_redirects=False, trust_env=False) as client:
            answer = client.get(url, headers=headers, params=query)
            return _read(wanted, answer)
    except httpx.TransportError as exc:
        raise _error(f"{wanted.url} does not answer ({type(exc).__name__}): is it up, and its certificate known?", True) from None


def _read(wanted: VaultOptions, answer: httpx.Response) -> dict[str, Any]:
    place, status = f"{wanted.mount}/{wanted.path}", answer.status_code
    if status == 200 and len(answer.content) <= _MOST_BYTES:
        try:
            body = answer.json()
        except ValueError:
            body = None
        if isinstance(body, dict):
            return body
    match status:
        case 403:
            raise _error(f"{wanted.url} does not let this worker's token read {place}: renew the token, or extend its policy")
        case 404:
            raise _error(f"{wanted.url} has no secret {place}, or that version of it is deleted")
        case 429 | 500 | 502 | 503 | 504:
            raise _error(f"{wanted.url} answered {status} (sealed, in standby, or busy)", True)
    raise _error(f"{wanted.url} answered {status}, and no secret: check options.url")


def _error(why: str, again: bool = False) -> OperationError:
    return OperationError(TaskErrorCode.CONFIGURATION_ERROR, why, kind=ErrorCode.TRANSIENT if again else None)
