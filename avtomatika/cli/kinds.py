"""Kinds of values that options take."""

from __future__ import annotations

import json
import re
from typing import Any

import click

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Seconds, from ``90``, ``90s``, ``30m``, ``2h`` or ``7d``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no length of time; write 90s, 30m, 2h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise click.BadParameter(f"it is not JSON: {exc}") from None
    if not isinstance(found, dict):
        raise click.BadParameter('it must be a JSON object, e.g. \'{"name": "value"}\'')
    return found
