"""The demo: a real process on real photographs, from one command."""

from __future__ import annotations

from pathlib import Path

from avtomatika.errors import ConfigurationError


def examples_dir() -> Path:
    """The folder that holds the example `blueprints/` and `workers/`: the checkout's, else the copy in the wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent, package / "_examples"):
        if (folder / "blueprints" / "photos.py").is_file() and (folder / "workers" / "images.py").is_file():
            return folder
    raise ConfigurationError(
        "the example blueprints and workers are not part of this installation; install avtomatika from its wheel"
    )
