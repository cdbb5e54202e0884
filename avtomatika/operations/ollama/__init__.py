"""Ollama: models are pulled, run and listed on the server of this worker, or on one of the inventory."""

from __future__ import annotations

from avtomatika.operations.ollama import models, pull, run
from avtomatika.operations.ollama.base import family

__all__ = ["family", "models", "pull", "run"]
