"""The family."""

from __future__ import annotations

from avtomatika.operations.base import Family

family = Family("custom")
