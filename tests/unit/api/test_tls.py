"""The facade's certificate files, and clients with certificates in clients.toml."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from avtomatika.api.clients import read_accounts
from avtomatika.api.tls import open_tls
from avtomatika.errors import ConfigurationError
from avtomatika.settings import read_settings
from tests.support.certificates import Authority

FINGERPRINT = "ab" * 32


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refused(**settings: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_tls(read_settings(**settings))
    return str(caught.value)


def test_files_that_fit(authority: Authority, tmp_path: Path) -> None:
    one = authority.issue("server")
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(one.cert.read_bytes() + one.key.read_bytes())
    assert open_tls(read_settings()) is None
    for settings in (read_settings(api_tls_cert=one.cert, api_tls_key=one.key), read_settings(api_tls_cert=both)):
        book = open_tls(settings)
        assert book is not None
        assert book.current.verify_mode is ssl.CERT_NONE
        assert book.current.minimum_version is ssl.TLSVersion.TLSv1_2
        assert settings.public_base.startswith("https://")
    for auth, mode in (("optional", ssl.CERT_OPTIONAL), ("required", ssl.CERT_REQUIRED)):
        book = open_tls(read_settings(api_tls_cert=both, api_tls_client_ca=authority.path, api_tls_client_auth=auth))
        assert book is not None
        assert book.current.verify_mode is mode


def test_files_that_do_not_fit(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    empty = tmp_path / "empty"
    empty.touch(0o600)
    fits = {"api_tls_cert": one.cert, "api_tls_key": one.key}
    assert "KEY_VALUES_MISMATCH" in refused(**{**fits, "api_tls_key": other.key})
    assert "do not fit" in refused(**{**fits, "api_tls_cert": empty})
    assert "API_TLS_KEY names" in refused(**{**fits, "api_tls_key": tmp_path / "none"})
    assert "API_TLS_CLIENT_CA names" in refused(**fits, api_tls_client_ca=tmp_path / "none")
    assert "holds no certificates" in refused(**fits, api_tls_client_ca=empty)
    assert "API_TLS_CERT is not" in refused(api_tls_key=one.key)
    assert "API_TLS_CERT is not" in refused(api_tls_client_ca=authority.path)
    one.key.chmod(0o640)
    assert f"chmod 600 {one.key}" in refused(**fits)
    key = serialization.load_pem_private_key(other.key.read_bytes(), None)
    other.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
        )
    )
    assert "has a passphrase" in refused(api_tls_cert=other.cert, api_tls_key=other.key)


def test_a_client_with_a_certificate_needs_no_token(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    colons = ":".join(FINGERPRINT.upper()[i : i + 2] for i in range(0, 64, 2))
    path.write_text(f'[acme]\ncertificate = "CN=acme"\nrole = "ops"\n[pinned]\ncertificate = "sha256:{colons}"\n')
    accounts = read_accounts(read_settings(client_token=None, clients_config_path=path, api_tls_client_ca=authority.path))

    acme = accounts.account_of_certificate(frozenset({"CN=acme", "sha256:" + "00" * 32}))
    pinned = accounts.account_of_certificate(frozenset({"CN=acme", f"sha256:{FINGERPRINT}"}))

    assert acme is not None
    assert (acme.client.name, acme.client.role) == ("acme", "ops")
    assert pinned is not None
    assert pinned.client.name == "pinned"
    assert accounts.account_of_certificate(frozenset({"CN=Acme"})) is None
    assert accounts.account_of("CN=acme") is None
    assert accounts.account_of("") is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[acme]\ncertificate = "acme"\n', 2, "must be"),
        ("[acme]\ncertificate = 5\n", 2, "must be"),
        ('[acme]\ncertificate = "sha256:12"\n', 2, "must be"),
        ('[acme]\ncertificate = "CN="\n', 2, "must be"),
        ('[a]\ncertificate = "CN=acme"\n[b]\ncertificate = "CN=acme"\n', 4, "certificate of [a], too"),
        ('[acme]\nCertificate = "CN=acme"\ntoken = "one-long-enough-token"\n', 2, "misspelt"),
    ],
)
def test_certificates_that_do_not_fit(authority: Authority, tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "clients.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f":{line}: ") as caught:
        read_accounts(read_settings(client_token=None, clients_config_path=path, api_tls_client_ca=authority.path))
    assert words in str(caught.value)


def test_a_certificate_needs_an_authority(tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    path.write_text('[acme]\ncertificate = "CN=acme"\n')
    with pytest.raises(ConfigurationError, match=r":2: .*API_TLS_CLIENT_CA"):
        read_accounts(read_settings(client_token=None, clients_config_path=path))
