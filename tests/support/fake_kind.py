"""The program kind, as far as its command line goes: clusters are lines of a file. Installed on PATH by `install`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = """#!{python}
import json, os, pathlib, subprocess, sys, time

folder = pathlib.Path({folder!r})
state = json.loads((folder / "state.json").read_text())
argv = sys.argv[1:]
called = {{"argv": argv, "env": dict(os.environ), "pid": os.getpid(), "stdin": None}}
if "-" in argv:
    called["stdin"] = sys.stdin.read()
with (folder / "calls").open("a") as file:
    file.write(json.dumps(called) + "\\n")
verb = " ".join(argv[:2])
for name, failure in state["failures"].items():
    if verb == name:
        print(failure["text"], file=sys.stderr)
        sys.exit(failure["code"])

def option(name):
    return argv[argv.index(name) + 1]

def save():
    (folder / "state.json").write_text(json.dumps(state))

clusters = state["clusters"]
if verb == "get clusters":
    print("\\n".join(clusters)) if clusters else print("No kind clusters found.", file=sys.stderr)
elif verb == "get nodes":
    print("\\n".join(clusters.get(option("--name"), [])))
elif verb == "create cluster":
    name = option("--name")
    roles = [node.get("role", "control-plane") for node in json.loads(called["stdin"]).get("nodes", [{{}}])]
    clusters[name] = [name + "-" + role for role in roles]
    save()
    pathlib.Path(option("--kubeconfig")).write_text(state["kubeconfig"])
    print(f'Creating cluster "{{name}}" ...', file=sys.stderr)
    if state["slow"]:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "child").write_text(str(child.pid))
        time.sleep(600)
    print("You can now use your cluster")
elif verb == "delete cluster":
    clusters.pop(option("--name"), None)
    save()
elif verb == "load docker-image":
    print(f'Image: "{{argv[2]}}" loaded', file=sys.stderr)
else:
    print(f"unknown command {{argv}}", file=sys.stderr)
    sys.exit(1)
"""


@dataclass
class FakeKind:
    """
    Attributes:
        folder: where it keeps its state, and what it was called with.
    """

    folder: Path

    def install(self) -> Path:
        """A folder for PATH."""
        path = self.folder / "bin" / "kind"
        path.parent.mkdir(parents=True)
        path.write_text(SCRIPT.format(python=sys.executable, folder=str(self.folder)))
        path.chmod(0o755)
        self.set(clusters={}, failures={}, slow=False, kubeconfig="apiVersion: v1")
        return path.parent

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    def set(self, **values: Any) -> None:
        """Its `clusters` (name -> nodes), `failures` (command -> code, text), whether creating is `slow`, its `kubeconfig`."""
        old = self.state if (self.folder / "state.json").exists() else {}
        (self.folder / "state.json").write_text(json.dumps({**old, **values}))

    def calls(self, verb: str) -> list[dict[str, Any]]:
        """Those whose first two words are these."""
        file = self.folder / "calls"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in found if " ".join(call["argv"][:2]) == verb]
