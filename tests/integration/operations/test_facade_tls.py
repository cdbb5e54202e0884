"""A real facade over TLS: its certificate, clients that come with theirs, and files that are renewed while it serves."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from avtomatika.client import Client
from avtomatika.tokens import stored_form
from tests.support.certificates import Authority, Certificate
from tests.support.polling import DEADLINE, eventually
from tests.support.processes import Facade, Processes, Up, clean_environment
from tests.support.servers import Broker

TOKEN = "client-token"


class TLSUp(Up):
    def wait_ready(self, deadline: float = 2 * DEADLINE) -> None:
        self.wait_for_log("ready https://", deadline)


class TLSFacade(Facade):
    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


def context(ca: Path, certificate: Certificate | None = None, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca))
    for name, version in versions.items():
        setattr(made, name, version)
    if certificate is not None:
        made.load_cert_chain(certificate.cert, certificate.key)
    return made


def get(
    facade: Facade, verify: ssl.SSLContext, path: str = "/api/v1/jobs", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    with httpx.Client(verify=verify, trust_env=False) as client:
        return client.get(f"{facade.url}{path}", headers=headers)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def env(redis_broker: Broker, tmp_path: Path, authority: Authority) -> dict[str, str]:
    (tmp_path / "blueprints").mkdir()
    server = authority.issue("server")
    (tmp_path / "operations.toml").write_text("[policy.ops]\noperations = []\n")
    return {
        **redis_broker.env,
        "BLUEPRINTS_DIR": str(tmp_path / "blueprints"),
        "OPERATIONS_CONFIG_PATH": str(tmp_path / "operations.toml"),
        "API_TLS_CERT": str(server.cert),
        "API_TLS_KEY": str(server.key),
    }


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_it_speaks_tls_alone(processes: Processes, env: dict[str, str], authority: Authority, tmp_path: Path) -> None:
    facade = processes.make(TLSFacade, env=env, token=TOKEN)
    assert get(facade, context(authority.path), headers={"X-Avtomatika-Token": TOKEN}).status_code == 200
    assert get(facade, context(authority.path)).status_code == 401
    with pytest.raises(httpx.ConnectError, match="verify failed"):
        get(facade, context(Authority(tmp_path, "another").path))
    old = context(authority.path, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError, match=r"(?i)version|protocol"):
        get(facade, old)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{facade.port}/api/v1/jobs", headers={"X-Avtomatika-Token": TOKEN})
    # The command line and the Python client.
    done = subprocess.run(
        [sys.executable, "-m", "avtomatika", "job", "ls", "--json", "--url", facade.url, "--ca", str(authority.path)],
        env={**clean_environment(), "CLIENT_TOKEN": TOKEN}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["jobs"]) == (0, []), done.stderr


def test_clients_come_with_certificates(
    processes: Processes, env: dict[str, str], authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, pinned, stranger = (authority.issue(name) for name in ("acme", "pinned", "stranger"))
    other = Authority(tmp_path, "other").issue("acme", file="forged")
    clients = tmp_path / "clients.toml"
    clients.write_text(
        f'[acme]\ncertificate = "CN=acme"\nrole = "ops"\nadmin = true\n[pinned]\ncertificate = "SHA256:{pinned.sha256}"\n'
        f'[both]\ntoken = "{stored_form("another-client-token")}"\ncertificate = "CN=both"\n'
    )
    facade = processes.make(
        TLSFacade, env={**env, "API_TLS_CLIENT_CA": str(authority.path), "CLIENTS_CONFIG_PATH": str(clients)}, token=TOKEN
    )
    assert get(facade, context(authority.path, named)).status_code == 200
    assert get(facade, context(authority.path, named), "/api/v1/workers").status_code == 200  # as the admin that it is
    assert get(facade, context(authority.path, pinned)).status_code == 200
    answer = get(facade, context(authority.path, stranger))
    assert (answer.status_code, "clients.toml" in answer.text) == (401, True)
    with pytest.raises(httpx.HTTPError):  # of an authority that is not ours
        get(facade, context(authority.path, other))
    # A token works as ever, and decides where there is one.
    assert get(facade, context(authority.path), headers={"X-Avtomatika-Token": "another-client-token"}).status_code == 200
    assert get(facade, context(authority.path, named), headers={"X-Avtomatika-Token": "wrong"}).status_code == 401
    assert get(facade, context(authority.path), headers={"X-Avtomatika-Token": "CN=acme"}).status_code == 401
    # A worker's calls need a worker's token.
    assert get(facade, context(authority.path, named), "/_worker/workers/x/tasks/next").status_code in (401, 404, 405)
    # Another site's page cannot use a browser's certificate.
    assert get(facade, context(authority.path, named), headers={"Origin": "https://evil.example.com"}).status_code == 403
    assert get(facade, context(authority.path, named), headers={"Origin": facade.url}).status_code == 200

    for name, value in (("CA", authority.path), ("CERT", named.cert), ("KEY", named.key)):
        monkeypatch.setenv(f"AVTOMATIKA_{name}", str(value))
    monkeypatch.delenv("CLIENT_TOKEN", raising=False)
    with Client(facade.url) as client:
        assert list(client.list()) == []

    # What is taken out of the file does not come in any more; what is wrong in it changes nothing.
    clients.write_text('[acme]\ncertificate = "acme"\n')
    facade.signal(signal.SIGHUP)
    facade.wait_for_log("certificate must be")
    assert get(facade, context(authority.path, named)).status_code == 200
    clients.write_text('[pinned]\ncertificate = "CN=acme-2"\n')
    facade.signal(signal.SIGHUP)
    eventually(lambda: get(facade, context(authority.path, named)).status_code == 401, what="the client is gone")


def test_files_are_renewed_while_it_serves(
    processes: Processes, env: dict[str, str], authority: Authority, tmp_path: Path
) -> None:
    old = authority.issue("acme")
    (tmp_path / "clients.toml").write_text('[acme]\ncertificate = "CN=acme"\n')
    ca = tmp_path / "clients-ca.pem"
    ca.write_bytes(authority.path.read_bytes())
    env |= {
        "API_TLS_CLIENT_CA": str(ca),
        "API_TLS_CLIENT_AUTH": "required",
        "CLIENTS_CONFIG_PATH": str(tmp_path / "clients.toml"),
    }
    facade = processes.make(TLSFacade, env=env, token=TOKEN)
    assert get(facade, context(authority.path, old)).status_code == 200
    with pytest.raises(httpx.HTTPError):  # whatever it asks for
        get(facade, context(authority.path), "/_public/status")

    Path(env["API_TLS_CERT"]).write_text("no certificate")
    facade.signal(signal.SIGHUP)
    facade.wait_for_log("do not fit")
    assert get(facade, context(authority.path, old)).status_code == 200

    renewed = Authority(tmp_path, "renewed")
    ca.write_bytes(renewed.path.read_bytes())  # the old authority is trusted no longer
    renewed_server = renewed.issue("renewed server", file="server")
    assert str(renewed_server.cert) == env["API_TLS_CERT"]
    facade.signal(signal.SIGHUP)
    new = renewed.issue("acme", file="acme-2")
    eventually(lambda: _works(facade, context(renewed.path, new)), what="the renewed certificate")
    with pytest.raises(httpx.HTTPError):
        get(facade, context(renewed.path, old))

    (tmp_path / "operations.toml").write_text("[policy.ops]\nopertions = []\n")
    facade.signal(signal.SIGHUP)
    facade.wait_for_log("operations.toml:2: [policy.ops] has no key 'opertions' (did you mean 'operations'?)")
    assert facade.running


def _works(facade: Facade, verify: ssl.SSLContext) -> bool:
    try:
        return get(facade, verify).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_wrong_file_of_operations_refuses_the_start(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "operations.toml").write_text("[polcy.x]\n")
    env |= {**clean_environment(), "CLIENT_TOKEN": TOKEN, "API_PORT": "0", "WORKERS_DIR": str(tmp_path)}
    for words in ("avtomatika server", "avtomatika doctor", "celery -A avtomatika worker -Q orchestrator -n x@y"):
        done = subprocess.run(
            [sys.executable, "-m", *words.split()], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert "operations.toml:1: there is no table or key 'polcy'" in " ".join((done.stdout + done.stderr).split())
        assert "Traceback" not in done.stderr


@pytest.mark.xdist_group("up")
def test_up_serves_tls(processes: Processes, authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("server")
    for folder in ("blueprints", "workers"):
        (tmp_path / folder).mkdir()
    env = {"API_TLS_CERT": str(server.cert), "API_TLS_KEY": str(server.key)}
    env |= {"API_TLS_CLIENT_CA": str(authority.path), "API_TLS_CLIENT_AUTH": "required"}
    up = processes.make(
        TLSUp, blueprints=tmp_path / "blueprints", workers=tmp_path / "workers", env=env, options=["--no-workers"], token=TOKEN
    )
    own = context(authority.path, server)
    url = f"https://127.0.0.1:{up.port}/api/v1/jobs"
    assert httpx.get(url, verify=own, headers={"X-Avtomatika-Token": TOKEN}, trust_env=False).status_code == 200
