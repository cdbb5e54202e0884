"""Vast.ai: machines with GPUs are looked for, rented, listed and given back, by its REST API."""

from __future__ import annotations

from avtomatika.operations.vast import create, destroy, listing
from avtomatika.operations.vast.base import family

__all__ = ["create", "destroy", "family", "listing"]
