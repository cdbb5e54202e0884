"""docs/operations-scp.md: its tasks run as they stand there, and it names every parameter with its default."""

from __future__ import annotations

import json
import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from avtomatika.operations.ssh.params import SshParams
from avtomatika.operations.ssh.scp_list import ScpList
from avtomatika.operations.ssh.scp_params import ScpUpload, SshCopy
from avtomatika.operations.ssh.scp_sync import ScpSync
from tests.support.processes import REPOSITORY
from tests.support.sshd import Sshd, config_of, running
from tests.support.transfers import Bed, make_tree

PAGE = (REPOSITORY / "docs" / "operations-scp.md").read_text(encoding="utf-8")


def test_the_tasks_of_the_page_run(tmp_path: Path) -> None:
    (toml,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    tasks = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
    assert set(tomllib.loads(toml)) == {"credentials", "hosts", "policy"}
    with running(Sshd(tmp_path / "sshd")) as server:
        key = re.search(r"host_keys = .*", server.host())
        assert key is not None
        changes = {
            '"deploy"\nkey_file': f'"{server.username}"\nkey_file',
            "/etc/avtomatika/deploy_ed25519": str(server.client_key),
            'address = "192.0.2.10"': f'address = "127.0.0.1"\nport = {server.port}',
            'host_keys = ["ssh-ed25519 AAAA..."]': key[0],
            "/srv/data": f"{tmp_path}/bed/here",
            "/var/www": f"{tmp_path}/bed/there",
        }
        for old, new in changes.items():
            assert old in toml
            toml = toml.replace(old, new)
        (tmp_path / "bed").mkdir()
        bed = Bed(tmp_path / "bed", config_of(toml, tmp_path))
        make_tree(bed.here / "site", {"index.html": "hello", "style.css": "x"})
        results = []
        for task in tasks:
            text = json.dumps(task["params"]).replace("/srv/data", str(bed.here)).replace("/var/www", str(bed.there))
            results.append(bed.run(task["task_type"], **json.loads(text)))
    assert {task["task_type"] for task in tasks} == {"scp_upload", "scp_download", "scp_sync", "scp_list", "ssh_copy"}
    assert (bed.here / "copy.html").read_text() == (bed.there / "backup/index.html").read_text() == "hello"
    assert results[2]["plan"] == []
    assert [entry["path"] for entry in results[4]["entries"]] == ["site/index.html"]


def _rows() -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\| ", PAGE, re.MULTILINE))


def _written(default: Any) -> str:
    if default is PydanticUndefined:
        return ""
    if default is None:
        return "not set"
    if isinstance(default, Enum):
        return f"`{default.value}`"
    return f"`{json.dumps(default)}`"


@pytest.mark.parametrize("model", [ScpUpload, ScpSync, ScpList, SshCopy])
def test_every_parameter_is_named_with_its_default(model: type[SshParams]) -> None:
    rows = _rows()
    in_words = {"include": "all", "exclude": "none", "max_bytes": "1 TiB"}
    for name, field in model.model_fields.items():
        if name in SshParams.model_fields or (model is SshCopy and name in ("source", "destination")):
            continue
        assert rows.get(name) == in_words.get(name, _written(field.default)), name
