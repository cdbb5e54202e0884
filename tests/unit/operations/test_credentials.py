"""Credentials: found where their entry says, refused with the fix, and shown nowhere."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.config import CredentialEntry
from avtomatika.operations.credentials import Credential, resolve
from avtomatika.operations.errors import OperationError
from tests.support.certificates import Authority

SECRET = "s3cret-of-the-canary"


def entry(**fields: Any) -> CredentialEntry:
    return CredentialEntry(name="deploy", **fields)


def refused(**fields: Any) -> OperationError:
    with pytest.raises(OperationError, match="credential 'deploy': ") as caught:
        resolve(entry(**fields))
    assert caught.value.code is TaskErrorCode.CONFIGURATION_ERROR
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def test_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", SECRET)
    for name in ("secret", "key"):
        (tmp_path / name).write_text(f"{SECRET}\n")
        (tmp_path / name).chmod(0o600)
    found = resolve(
        entry(
            username="me",
            password_env="CANARY",
            token_file=tmp_path / "secret",
            passphrase_env="CANARY",
            key_file=tmp_path / "key",
        )
    )
    assert (found.username, found.password, found.token, found.passphrase) == ("me", SECRET, SECRET, SECRET)
    assert found.key_file == tmp_path / "key"
    assert SECRET not in repr(found)
    assert SECRET not in str(found)
    assert set(found.secrets) == {SECRET}
    assert resolve(entry(agent=True)) == Credential("deploy", agent=True)


def test_what_is_missing_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANARY", raising=False)
    path = tmp_path / "secret"
    assert "CANARY is not set on this worker" in str(refused(password_env="CANARY"))
    assert "cannot be read on this worker: No such file" in str(refused(token_file=path))
    assert "put the key there" in str(refused(key_file=path))
    path.write_text(SECRET)
    path.chmod(0o604)
    for name in ("password_file", "token_file", "passphrase_file", "key_file"):
        assert f"chmod 600 {path}" in str(refused(**{name: path}))
    path.chmod(0o600)
    for content in (b"", b"\n", b"\xff\xfe", b"x" * 100_000):
        path.write_bytes(content)
        refused(password_file=path)


class Ring(KeyringBackend):
    """The system's keyring, as a backend of the keyring library."""

    priority = 1.0  # type: ignore[assignment]
    locked = False

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked(SECRET)
        return {("avtomatika", "me/too"): SECRET}.get((service, username))


def test_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        assert resolve(entry(keyring="avtomatika/me/too")).password == SECRET
        assert "keyring set avtomatika you" in str(refused(keyring="avtomatika/you"))
        monkeypatch.setattr(Ring, "locked", True)
        assert "KeyringLocked" in str(refused(keyring="avtomatika/me/too"))
    finally:
        keyring.set_keyring(before)


class Vault(BaseHTTPRequestHandler):
    """The key/value engine of version 2, as its HTTP API is documented."""

    seen: ClassVar[list[str]] = []
    sealed = False

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.sealed:
            return self.answer(503, {"errors": ["Vault is sealed"]})
        if self.headers.get("X-Vault-Token") != "vault-token" or self.headers.get("X-Vault-Request") != "true":
            return self.answer(403, {"errors": ["permission denied"]})
        if self.headers.get("X-Vault-Namespace") not in (None, "team"):
            return self.answer(404, {"errors": []})
        metadata = {"created_time": "2026-11-01T00:00:00Z", "deletion_time": "", "destroyed": False, "version": 2}
        match self.path.partition("?")[0]:
            case "/v1/secret/data/avtomatika/deploy":
                version = "old-" if "version=1" in self.path else ""
                data = {"username": "deploy", "password": version + SECRET, "note": "x", "pw": "other", "number": 5}
                return self.answer(200, {"data": {"data": data, "metadata": metadata}})
            case "/v1/secret/data/empty":
                return self.answer(200, {"data": {"data": {"note": "x"}, "metadata": metadata}})
            case "/v1/secret/data/deleted":
                return self.answer(
                    404, {"data": {"data": None, "metadata": {**metadata, "deletion_time": "2026-11-02T00:00:00Z"}}}
                )
            case "/v1/kv1/data/x":
                return self.answer(200, {"data": {"password": SECRET}})
            case "/v1/secret/data/moved":
                self.send_response(307)
                self.send_header("Location", "/v1/secret/data/avtomatika/deploy")
                self.end_headers()
                return None
        return self.answer(404, {"errors": []})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Vault)
    monkeypatch.setenv("VAULT_TOKEN", "vault-token")
    Vault.seen.clear()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_vault(vault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def options(**more: Any) -> dict[str, Any]:
        return {"provider": "vault", "options": {"url": vault, "path": "avtomatika/deploy", **more}}

    found = resolve(entry(**options()))
    assert (found.username, found.password, found.token) == ("deploy", SECRET, None)
    assert SECRET not in repr(found)
    assert resolve(entry(**options(version=1))).password == f"old-{SECRET}"
    assert Vault.seen[-1].endswith("?version=1")
    assert resolve(entry(**options(fields={"token": "pw"}, namespace="team"))).token == "other"
    assert resolve(entry(**options(), username="root")).username == "root"

    (tmp_path / "token").write_text("vault-token\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("VAULT_TOKEN", "wrong")
    assert resolve(entry(**options(token_file=str(tmp_path / "token")))).password == SECRET
    assert "renew the token" in str(refused(**options()))
    monkeypatch.setenv("VAULT_TOKEN", "wro\nng")
    assert "header" in str(refused(**options()))
    monkeypatch.delenv("VAULT_TOKEN")
    assert "VAULT_TOKEN is not set" in str(refused(**options()))
    monkeypatch.setenv("VAULT_TOKEN", "vault-token")
    for path, words in (
        ("empty", "options.fields"),
        ("deleted", "deleted"),
        ("nothing", "has no secret"),
        ("moved", "answered 307"),
        ("../../sys/health", "has no secret"),
    ):
        assert words in str(refused(**options(path=path)))
    assert "version 2" in str(refused(**options(path="x", mount="kv1")))
    assert "options.fields name for password" in str(refused(**options(fields={"password": "number"})))
    assert "options.pth" in str(refused(**options(pth="x")))
    assert "ca_file" in str(refused(**options(ca_file=str(tmp_path / "none"))))


def test_a_vault_that_is_away_is_asked_again(vault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vault, "sealed", True)
    assert refused(provider="vault", options={"url": vault, "path": "x"}).kind is ErrorCode.TRANSIENT
    gone = refused(provider="vault", options={"url": "https://127.0.0.1:1", "path": "x"})
    assert gone.kind is ErrorCode.TRANSIENT
    assert refused(provider="vault", options={"url": "http://vault.example.com", "path": "x"}).kind is not ErrorCode.TRANSIENT


def test_a_vault_over_tls_has_to_be_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("vault")
    monkeypatch.setenv("VAULT_TOKEN", "vault-token")
    server = HTTPServer(("127.0.0.1", 0), Vault)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        options = {"url": f"https://127.0.0.1:{server.server_port}", "path": "avtomatika/deploy"}
        known = entry(provider="vault", options={**options, "ca_file": str(authority.path)})
        assert resolve(known).password == SECRET
        before = len(Vault.seen)
        other = Authority(tmp_path, "other").path
        assert "certificate" in str(refused(provider="vault", options=options))
        assert "certificate" in str(refused(provider="vault", options={**options, "ca_file": str(other)}))
        assert len(Vault.seen) == before  # nobody else is shown the token
    finally:
        server.shutdown()
        server.server_close()
