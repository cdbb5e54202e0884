"""A family is known where its library is not installed: it says what is missing, and the others go on."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points

from avtomatika.operations.registry import GROUP
from tests.support.processes import REPOSITORY, clean_environment

BLOCKED = (
    "paramiko",
    "fabric",
    "invoke",
    "docker",
    "kubernetes",
    "github",
    "ollama",
    "pyarrow",
    "psutil",
    "keyring",
    "cryptography",
)
LOOK = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
from avtomatika.operations import base
base.find_spec = lambda name, *rest: None if name in sys.argv[1:] else find(name, *rest)
from avtomatika.operations.registry import registry

found = registry()
print(json.dumps({"families": {n: f.lacks() for n, f in found.families.items()}, "broken": found.broken}))
"""


def test_every_family_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *BLOCKED],
        env=clean_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["broken"] == {}
    assert set(said["families"]) == {point.name for point in entry_points(group=GROUP)}
    for name in ("ssh", "docker", "k8s", "github", "ollama"):
        assert f"avtomatika[{name}]" in said["families"][name]
