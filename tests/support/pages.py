"""The pages of `docs/`: what a test compares with what there is."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.processes import REPOSITORY


def json_examples(page: str) -> list[Any]:
    """The JSON blocks of a page, in their order."""
    text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


def shape(value: Any) -> Any:
    """The keys of an object, of the objects in it too."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None
