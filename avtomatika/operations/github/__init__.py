"""GitHub, and GitHub Enterprise: repositories by its API, and what is cloned from them and pushed to them by git."""

from __future__ import annotations

from avtomatika.operations.github import clone, push, repositories
from avtomatika.operations.github.base import family

__all__ = ["clone", "family", "push", "repositories"]
