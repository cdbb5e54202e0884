"""Something done in a child process: under limits, or as somebody else."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NOBODY = 65534


@contextmanager
def open_folder_for_all() -> Iterator[Path]:
    """A folder that everybody may read and write: pytest's own ones are for their owner alone."""
    with TemporaryDirectory(prefix="avtomatika-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def in_child(body: Callable[[], Any], *, nobody: bool = False) -> Any:
    """What `body` returns in a forked child, as JSON. With `nobody`, the child is not root, whom no permission stops."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receiving)
            if nobody and os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            said = json.dumps({"value": body()})
        except BaseException:
            said = json.dumps({"error": traceback.format_exc()})
        os.write(sending, said.encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as file:
        said = file.read()
    os.waitpid(child, 0)
    found = json.loads(said)
    if "error" in found:
        pytest.fail(found["error"])
    return found["value"]
