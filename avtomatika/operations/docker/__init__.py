"""Docker: images and containers of a Docker Engine. See docs/operations-docker.md."""

from avtomatika.operations.docker import build, images, remove, run
from avtomatika.operations.docker.engine import family

__all__ = ["build", "family", "images", "remove", "run"]
