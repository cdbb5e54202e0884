"""operations.toml: what it grants, and that what does not fit is refused at its line, with the fix."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from avtomatika.errors import ConfigurationError
from avtomatika.operations.config import operations_config, read_config
from avtomatika.settings import read_settings

WHOLE = """\
audit_file = "audit.jsonl"

[credentials.deploy]
username = "deploy"
key_file = "keys/deploy"
passphrase_env = "DEPLOY_PASSPHRASE"

[credentials.registry]
username = "robot$ci@example.com"
provider = "vault"
options = {url = "https://vault.example.com", path = "registry", token_file = "vault-token", fields = {password = "pw"}}

[credentials.token]
keyring = "avtomatika/registry"

[hosts.bastion]
address = "bastion.example.com"

[hosts.gpu-1]
address = "fd00::5"
port = 2222
credential = "deploy"
groups = ["gpu"]
jump = "bastion"

[hosts."db.example.com"]
known_hosts = "known"

[policy.operators]
operations = ["network_*", "ssh_execute", "of_another_package"]
hosts = ["@gpu", "db.example.com"]
commands = ["nvidia-smi *"]
local_roots = ["data", "/srv/data"]
remote_roots = ["/srv"]
credentials = ["deploy", "web-*"]
queue = ["push", "status"]
options = {images = ["registry.example.com/*"]}

[policy."blueprint:nightly"]
operations = ["network_test"]
hosts = ["*"]
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "operations.toml"
    path.write_text(text)
    return read_config(path)


def test_a_whole_file(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE)

    assert found.audit_file == tmp_path / "audit.jsonl"
    assert found.credentials["deploy"].key_file == tmp_path / "keys" / "deploy"
    assert found.credentials["registry"].options["token_file"] == str(tmp_path / "vault-token")
    assert found.hosts["gpu-1"].jump == "bastion"
    assert found.hosts["db.example.com"].known_hosts == tmp_path / "known"
    assert found.policy["operators"].local_roots == (tmp_path / "data", Path("/srv/data"))
    assert [host.name for host in found.group("gpu")] == ["gpu-1"]
    assert found.policy["blueprint:nightly"].queue == ("push", "status", "cancel", "manage", "logs")
    assert found.path in found.own_files


def test_no_file_allows_nothing() -> None:
    assert read_config(None).policy == {}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[credential.x]\nagent = true\n", 1, "'credential' (did you mean 'credentials'?)"),
        ("credentials = 5\n", 1, "[credentials.<name>]"),
        ('[hosts]\nbox = "10.0.0.5"\n', 2, "write it under [hosts.<name>]"),
        ('[hosts.a]\n\n[hosts.b]\nadress = "x"\n', 4, "no key 'adress' (did you mean 'address'?)"),
        ('[credentials.x]\nusername = "-oX"\n', 2, "username: "),
        ('[credentials.x]\nusername = "a b"\n', 2, "username: "),
        ("[hosts.b]\nport = 70000\n", 2, "port: "),
        ('[hosts.b]\nport = "22"\n', 2, "port: "),
        ('[hosts.b]\naddress = "-oProxyCommand=id"\n', 2, "neither a host name nor an IP address"),
        ('[hosts.b]\naddress = "b.example.com:22"\n', 2, "neither a host name"),
        ('[hosts.b]\naddress = "b`id`"\n', 2, "neither a host name"),
        ('[hosts.b]\nusername = "-l root"\n', 2, "a user's name"),
        ('[hosts.b]\nusername = "a;b"\n', 2, "a user's name"),
        ('[hosts.b]\ncredential = "deploi"\n[credentials.deploy]\nagent = true\n', 2, "(did you mean 'deploy'?)"),
        ('[hosts.b]\njump = "c"\n', 2, "there is no host 'c'"),
        ('[hosts.b]\njump = "b"\n', 2, "b -> b is a ring"),
        ('[hosts.a]\njump = "b"\n[hosts.b]\njump = "c"\n[hosts.c]\njump = "a"\n', 6, "a -> b -> c -> a is a ring"),
        ('[hosts."a\\nb"]\nport = 1\n', 1, "printable"),
        ('[credentials.x]\npassword = "hunter2-hunter2"\n', 2, "password_file = …), or name an environment variable"),
        ('[credentials.x]\nAPI_KEY = "hunter2-hunter2"\n', 2, "token_env = …"),
        ('[credentials.x]\nkey_file = """-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"""\n', 2, "a private key stands here"),
        ('[credentials.x]\nprovider = "vault"\n\n[credentials.x.options]\ntoken = "hunter2-x"\n', 5, "stands here in plain"),
        ('[policy.x]\n\n[policy.x.options]\ndb = [{dsn = 1, password = "hunter2-hunter2"}]\n', 4, "stands here in plain"),
        ('[credentials.x]\npassword_env = "A B"\n', 2, "password_env: "),
        ('[credentials.x]\nagent = "yes"\n', 2, "agent: "),
        ('[credentials.x]\nkeyring = "service"\n', 2, "keyring: "),
        ('[credentials.x]\npassword_env = "A"\npassword_file = "b"\n', 3, "one place for each secret"),
        ('[credentials.x]\npassword_file = "b"\nkeyring = "a/b"\n', 3, "one place for each secret"),
        ('[credentials.x]\nprovider = "valt"\n', 2, "no provider 'valt' (did you mean 'vault'?)"),
        ('[credentials.x]\noptions = {a = 1}\n', 2, "options without a provider"),
        ('[policy.x]\noperations = ["network_tset"]\n', 2, "(did you mean 'network_test'?)"),
        ('[policy.x]\nhosts = ["gpu"]\n[hosts.gpu-1]\ngroups = ["gpu"]\n', 2, "there is no host 'gpu'"),
        ('[policy.x]\nhosts = ["@gpus"]\n[hosts.gpu-1]\ngroups = ["gpu"]\n', 2, "(did you mean '@gpu'?)"),
        ('[policy.x]\ncredentials = ["deploy"]\n', 2, "there is no credential 'deploy'"),
        ("[policy.x]\ncommands = [\"echo 'a\"]\n", 2, "check its quotes"),
        ('[policy.x]\nremote_roots = ["srv"]\n', 2, "must begin with /"),
        ('[policy.x]\nqueue = ["all"]\n', 2, "queue: "),
        ('[policy.x]\nany_host = "false"\n', 2, "any_host: "),
        ('[policy.x]\nfree_text = 1\n', 2, "free_text: "),
        ('[policy.x]\noperations = "network_test"\n', 2, "operations: "),
        ('[policy."blueprint:operation"]\noperations = []\n', 1, "client's role"),
        ("audit_file = 3\n", 1, "audit_file must be the path"),
        ("[policy.x\n", 1, "this is not TOML"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'operations.toml'}:{line}: "), said
    assert words in said
    assert "hunter2" not in said
    assert "hunter2" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("key", ["key_file", "password_file", "token_file", "passphrase_file"])
def test_files_that_others_may_read_are_refused(tmp_path: Path, key: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o640)
    text = f'[credentials.x]\n{key} = "secret"\n'
    with pytest.raises(ConfigurationError, match=rf":2: .*mode 640.*chmod 600 {secret}"):
        read(tmp_path, text)
    secret.chmod(0o600)
    assert read(tmp_path, text).credentials["x"].secret_files == (secret,)
    secret.unlink()  # it need not be on this machine
    assert read(tmp_path, text)


def test_a_file_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operations.toml"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="chmod o-w"):
        read_config(path)


def test_a_changed_file_is_read_again_and_a_wrong_one_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "operations.toml"
    settings = read_settings(operations_config_path=path)
    path.write_text("[policy.x]\nopertions = []\n")
    with pytest.raises(ConfigurationError, match="did you mean 'operations'"):
        operations_config(settings)
    path.write_text('[policy.x]\noperations = ["network_test"]\n')
    assert operations_config(settings).policy["x"].operations == ("network_test",)

    path.write_text("[policy.x]\nopertions = []\n")
    os.utime(path, ns=(1, 1))
    with caplog.at_level(logging.ERROR):
        assert operations_config(settings).policy["x"].operations == ("network_test",)
    assert "operations.toml:2: [policy.x] has no key 'opertions'" in caplog.text

    path.write_text("[policy.x]\noperations = []\n")
    assert operations_config(settings).policy["x"].operations == ()
