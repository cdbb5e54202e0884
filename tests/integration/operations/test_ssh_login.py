"""Who logs in, and to whom: keys, certificates, agents, passwords, jump hosts, host keys."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from avtomatika.errors import ErrorCode
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.pool import pool
from tests.support.polling import eventually
from tests.support.ssh_server import Door, serving
from tests.support.sshd import POLICY, Sshd, config_of, context, keygen, perform, public_key, running

TRUE = {"host": "box", "command": ["true"]}


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    yield
    pool().close()


def refused(text: str, tmp_path: Path, **params: object) -> OperationError:
    """How a command fails under this configuration."""
    with pytest.raises(OperationError) as raised:
        perform(context(config_of(text, tmp_path)), **{**TRUE, **params})
    return raised.value


def test_a_key_with_a_passphrase(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keygen(tmp_path / "locked", passphrase="open it")
    with (sshd.directory / "authorized_keys").open("a") as file:
        file.write(f"{public_key(key)}\n")
    text = sshd.credential(key=key, passphrase_env="KEY_PASSPHRASE") + sshd.host() + POLICY
    monkeypatch.setenv("KEY_PASSPHRASE", "open it")
    op = context(config_of(text, tmp_path))
    result = perform(op, host="box", command=["echo", "the phrase is: open it"])
    assert result["username"] == sshd.username
    assert "open it" not in str(result)  # a secret is masked even where it comes from elsewhere

    monkeypatch.setenv("KEY_PASSPHRASE", "wrong")
    assert refused(text, tmp_path).code is TaskErrorCode.SSH_AUTHENTICATION_FAILED
    bare = sshd.credential(key=key) + sshd.host() + POLICY
    assert "passphrase_env" in str(refused(bare, tmp_path))


def test_a_certificate(tmp_path: Path) -> None:
    authority = keygen(tmp_path / "authority")
    options = {"TrustedUserCAKeys": f"{authority}.pub", "AuthorizedKeysFile": "none"}
    with running(Sshd(tmp_path / "sshd", options)) as server:
        key = server.client_key
        assert refused(server.config(), tmp_path).code is TaskErrorCode.SSH_AUTHENTICATION_FAILED
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "tester", "-n", server.username, f"{key}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        text = server.credential(certificate_file=f"{key}-cert.pub") + server.host() + POLICY
        assert perform(context(config_of(text, tmp_path)), **TRUE)["exit_code"] == 0


def test_another_key_is_refused_and_not_tried_again_at_once(tmp_path: Path) -> None:
    with running(Sshd(tmp_path / "sshd")) as server:
        text = server.credential(key=keygen(tmp_path / "stranger")) + server.host() + POLICY
        first = refused(text, tmp_path)
        assert first.code is TaskErrorCode.SSH_AUTHENTICATION_FAILED
        assert first.kind is ErrorCode.PERMANENT
        assert "the next attempt is made in" in str(refused(text, tmp_path))
        assert len(re.findall("Connection from", server.log())) == 2  # the first is the look whether it listens


def test_a_missing_key_file_is_no_missing_remote_file(sshd: Sshd, tmp_path: Path) -> None:
    text = sshd.credential(key=tmp_path / "nowhere") + sshd.host() + POLICY
    assert refused(text, tmp_path).code is TaskErrorCode.CONFIGURATION_ERROR


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent of this test alone."""
    path = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        eventually(path.exists, what="the agent's socket")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield path
        process.terminate()


def test_an_agent_is_asked_only_where_the_credential_says_so(sshd: Sshd, agent: Path, tmp_path: Path) -> None:
    stranger = keygen(tmp_path / "stranger")
    for key in (stranger, sshd.client_key):
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
    asks = f'[credentials.key]\nusername = "{sshd.username}"\nagent = true\n' + sshd.host() + POLICY
    assert perform(context(config_of(asks, tmp_path)), **TRUE)["exit_code"] == 0

    named = asks.replace("agent = true", f'agent = true\nkey_file = "{sshd.client_key}"')
    assert perform(context(config_of(named, tmp_path)), **TRUE)["exit_code"] == 0
    other = asks.replace("agent = true", f'agent = true\nkey_file = "{stranger}"')
    assert refused(other, tmp_path).code is TaskErrorCode.SSH_AUTHENTICATION_FAILED

    # The agent holds the right key, and the credential names another one.
    alone = sshd.credential(key=keygen(tmp_path / "alone")) + sshd.host() + POLICY
    assert refused(alone, tmp_path).code is TaskErrorCode.SSH_AUTHENTICATION_FAILED


def test_a_host_that_wants_two_steps(agent: Path, tmp_path: Path) -> None:
    second = keygen(tmp_path / "second")
    with running(Sshd(tmp_path / "sshd", {"AuthenticationMethods": "publickey,publickey"})) as server:
        text = f'[credentials.key]\nusername = "{server.username}"\nagent = true\n' + server.host() + POLICY
        subprocess.run(["ssh-add", "-q", str(server.client_key)], check=True, capture_output=True)
        assert "the peer wants publickey besides" in str(refused(text, tmp_path))

        with (server.directory / "authorized_keys").open("a") as file:
            file.write(f"{public_key(second)}\n")
        subprocess.run(["ssh-add", "-q", str(second)], check=True, capture_output=True)
        renamed = text.replace("credentials.key", "credentials.both").replace('"key"', '"both"')
        assert perform(context(config_of(renamed, tmp_path)), **TRUE)["exit_code"] == 0


@pytest.mark.parametrize("questions", [False, True], ids=["password", "keyboard-interactive"])
def test_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, questions: bool) -> None:
    credential = '[credentials.password]\nusername = "somebody"\npassword_env = "BOX_PASSWORD"\n'
    with serving(tmp_path, Door("sesame", questions)) as server:
        text = credential + server.host() + POLICY
        monkeypatch.setenv("BOX_PASSWORD", "sesame")
        assert perform(context(config_of(text, tmp_path)), host="box", command="hello")["stdout"] == "hello\n"
        assert server.door.logins == [("somebody", "sesame")]

        monkeypatch.setenv("BOX_PASSWORD", "guess")
        failed = refused(text, tmp_path)
        assert failed.code is TaskErrorCode.SSH_AUTHENTICATION_FAILED
        assert "guess" not in str(failed)


def test_a_jump_host_has_a_credential_and_a_key_of_its_own(sshd: Sshd, tmp_path: Path) -> None:
    def config(credential: str = "", bastion: str = "") -> str:
        first = bastion or jump.host("bastion", credential="jump")
        return sshd.credential() + (credential or jump.credential("jump")) + first + sshd.host(jump="bastion") + POLICY

    with running(Sshd(tmp_path / "jump")) as jump:
        result = perform(context(config_of(config(), tmp_path)), host="box", command="echo $SSH_CONNECTION")
        assert result["stdout"].split()[3] == str(sshd.port)
        assert re.search(r"Accepted publickey", jump.log())

        wrong_key = config(bastion=jump.host("bastion", credential="jump", fingerprint="SHA256:" + "A" * 43))
        assert refused(wrong_key, tmp_path).code is TaskErrorCode.SSH_HOST_KEY_MISMATCH
        stranger = config(credential=jump.credential("jump", keygen(tmp_path / "stranger")))
        failed = refused(stranger, tmp_path)
        assert failed.code is TaskErrorCode.SSH_AUTHENTICATION_FAILED
        assert f":{jump.port}" in str(failed)

        (tmp_path / "ssh_config").write_text("Host 127.0.0.1\n  ProxyJump bastion\n")
        read = config().replace('jump = "bastion"', f'ssh_config = "{tmp_path}/ssh_config"')
        closed = jump.log().count("Accepted publickey")
        assert perform(context(config_of(read, tmp_path)), **TRUE)["exit_code"] == 0
        assert jump.log().count("Accepted publickey") == closed + 1
        ring = read.replace("[hosts.bastion]", '[hosts.bastion]\njump = "box"')
        assert refused(ring, tmp_path).code is TaskErrorCode.CONFIGURATION_ERROR

    with running(Sshd(tmp_path / "closed", {"AllowTcpForwarding": "no"})) as jump:
        failed = refused(config(), tmp_path)
        assert failed.code is TaskErrorCode.SSH_CONNECTION_FAILED
        assert "through its jump host" in str(failed)


def test_an_unknown_host_key_is_not_taken_on_trust(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:1 {public_key(sshd.host_key)}\n")
    text = sshd.credential() + sshd.host(known_hosts=str(tmp_path / "known_hosts")) + POLICY
    failed = refused(text, tmp_path)
    assert failed.code is TaskErrorCode.SSH_HOST_KEY_MISMATCH
    assert failed.kind is ErrorCode.PERMANENT

    (tmp_path / "known_hosts").write_text(sshd.known_hosts)
    assert perform(context(config_of(text, tmp_path)), **TRUE)["exit_code"] == 0

    # A connection that stands already is not used any more, either.
    assert pool().idle
    (tmp_path / "known_hosts").write_text(f"{sshd.known_hosts}\n@revoked * {public_key(sshd.host_key)}\n")
    assert refused(text, tmp_path).code is TaskErrorCode.SSH_HOST_KEY_MISMATCH


def test_a_changed_host_key_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    server = Sshd(tmp_path / "sshd")
    with running(server):
        text = server.config()
        assert perform(context(config_of(text, tmp_path)), **TRUE)["exit_code"] == 0
        pool().close()
        server.terminate()
        server.change_host_key()
        server.restart()
        failed = refused(text, tmp_path)
        assert failed.code is TaskErrorCode.SSH_HOST_KEY_MISMATCH
        assert failed.details["shown"] not in failed.details["expected"]
        assert "userauth" not in server.log()
        assert "Accepted" not in server.log()


def test_the_type_of_key_that_is_known_is_asked_for(tmp_path: Path) -> None:
    second = keygen(tmp_path / "host_rsa", type_="rsa")
    with running(Sshd(tmp_path / "sshd")) as server:
        server.terminate()
        server.options["HostKey"] = f"{server.host_key}\nHostKey {second}"
        server.restart()
        text = server.credential() + server.host(fingerprint="x").replace(
            'fingerprint = "x"', f'host_keys = ["{public_key(second)}"]'
        )
        assert perform(context(config_of(text + POLICY, tmp_path)), **TRUE)["host_key_type"] == "rsa-sha2-512"


def test_weak_algorithms_are_refused_for_good(tmp_path: Path) -> None:
    with running(Sshd(tmp_path / "sshd", {"Ciphers": "aes128-cbc,aes256-cbc"})) as server:
        failed = refused(server.config(), tmp_path)
    assert failed.code is TaskErrorCode.SSH_CONNECTION_FAILED
    assert failed.kind is ErrorCode.PERMANENT
    assert "no algorithm in common" in str(failed)


def test_a_host_outside_of_the_inventory_is_not_on_this_machine(sshd: Sshd, tmp_path: Path) -> None:
    hosts = ("127.0.0.1", "localhost", "169.254.169.254", "::1")
    lines = [f"[{host}]:{sshd.port} {public_key(sshd.host_key)}\n" for host in hosts]
    (tmp_path / "known_hosts").write_text("".join(lines))
    policy = POLICY + f'any_host = true\ncredentials = ["key"]\noptions = {{known_hosts = "{tmp_path}/known_hosts"}}\n'
    text = sshd.credential() + policy
    for host in hosts:
        failed = refused(text, tmp_path, host=host, port=sshd.port, credential="key")
        assert failed.code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION, host
