"""Sample photographs: the real ones that lie inside the scikit-image wheel. Nothing is downloaded."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from avtomatika.errors import ConfigurationError

#: File in skimage/data -> the name it gets. All of them are photographs (or what a camera on a microscope or telescope saw).
PHOTOGRAPHS = {
    "astronaut.png": "astronaut.png",
    "camera.png": "cameraman.png",
    "chelsea.png": "cat.png",
    "clock_motion.png": "clock.png",
    "coffee.png": "coffee.png",
    "coins.png": "coins.png",
    "grass.png": "grass.png",
    "gravel.png": "gravel.png",
    "brick.png": "bricks.png",
    "hubble_deep_field.jpg": "deep-field.jpg",
    "ihc.png": "tissue.png",
    "moon.png": "moon.png",
    "motorcycle_left.png": "motorcycle-left.png",
    "motorcycle_right.png": "motorcycle-right.png",
    "retina.jpg": "retina.jpg",
    "rocket.jpg": "rocket.jpg",
}
ENOUGH = 8

EXTRA = "pip install 'avtomatika[demo]'"


def require_extra() -> None:
    """Raises ConfigurationError, naming what to install, where the packages of the demo are not there."""
    missing = [name for name in ("PIL", "numpy", "imagehash", "jinja2") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"the demo needs {', '.join(missing)}, not installed here; install it with: {EXTRA}")


def photographs() -> dict[str, Path]:
    """{name: file} of the sample photographs on this machine. Raises ConfigurationError where there are too few."""
    spec = find_spec("skimage")
    folders = [Path(place) / "data" for place in (spec.submodule_search_locations or [])] if spec else []
    found = {name: folder / file for folder in folders for file, name in PHOTOGRAPHS.items() if (folder / file).is_file()}
    if len(found) < ENOUGH:
        why = (
            "scikit-image, whose sample photographs the demo uses, is not installed"
            if not folders
            else "scikit-image has no samples"
        )
        raise ConfigurationError(f"{why}; install it with: {EXTRA}, or name a folder of your own: avtomatika demo --input DIR")
    return found


def copy_samples(target: Path) -> list[Path]:
    """Copies the sample photographs into a folder and answers the copies, sorted by name."""
    target.mkdir(parents=True, exist_ok=True)
    return sorted(Path(shutil.copyfile(source, target / name)) for name, source in photographs().items())
