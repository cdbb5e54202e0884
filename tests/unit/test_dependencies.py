"""What the package imports is among what it says it needs: an environment with nothing else in it runs it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.processes import REPOSITORY, clean_environment

IMPORTS = """
import importlib, pkgutil, sys

for name in sys.argv[1:]:
    sys.modules[name] = None  # as if it were not installed
import avtomatika

for module in pkgutil.walk_packages(avtomatika.__path__, "avtomatika."):
    if not module.name.startswith(("avtomatika.demo", "avtomatika._", "avtomatika.__main__")):
        importlib.import_module(module.name)
for name in ("kombu.transport.redis", "kombu.transport.pyamqp", "flower.command", "pynvml"):
    importlib.import_module(name)
"""


def _needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> None:
    """Adds what a distribution needs, with these extras, and what that needs."""
    name = canonicalize_name(name)
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            _needed(requirement.name, frozenset(requirement.extras), seen)


def test_the_package_needs_nothing_that_it_does_not_name() -> None:
    seen: set[tuple[str, frozenset[str]]] = set()
    _needed("avtomatika", frozenset({"flower", "gpu", "operations"}), seen)
    needed = {name for name, _ in seen}
    others = [
        module
        for module, owners in packages_distributions().items()
        if module.isidentifier() and not any(canonicalize_name(owner) in needed for owner in owners)
    ]
    assert "pytest" in others

    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *others],
        env=clean_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
