"""The page on blueprints is one blueprint, written step by step: it loads, passes its check, and behaves as described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from avtomatika import Blueprint
from avtomatika.blueprint.context import JobContext
from avtomatika.blueprint.sites import Report
from avtomatika.jobs import Client

PAGE = Path(__file__).parents[3] / "docs" / "blueprints.md"


@pytest.fixture(name="page")
def load_page(tmp_path: Path) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "docs_blueprints"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    for number, block in enumerate(blocks):
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        exec(compile(block, str(file), "exec"), scope)
    return scope


def test_the_page_is_a_good_blueprint(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]
    assert bp.check() == Report()
    bp.freeze()
    assert bp.task_names == {"probe_video", "encode_video", "encode_part"}
    assert page["dot"].startswith("digraph")


def test_conditions_choose_as_described(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]

    def chosen(initial_data: dict[str, Any], plan: str = "free", duration: int = 10) -> str:
        return bp.select(
            JobContext("j", "encode", initial_data=initial_data, state_history={"duration": duration}, client=Client(plan=plan))
        ).name

    assert chosen({"urgent": False}, duration=4000) == "encode_long"
    assert chosen({"urgent": True}, duration=4000) == "encode"
    assert chosen({}, duration=4000) == "encode"
    assert chosen({}, plan="gold") == "encode_in_parts"
    assert chosen({"options": {"parts": 2}}) == "encode_in_parts"
    assert chosen({}) == "encode"


async def test_handlers_run_as_described(page: dict[str, Any]) -> None:
    bp: Blueprint = page["bp"]
    for expected in ("probe", "finished"):
        context = JobContext("j", "start", initial_data={"path": "/v.mp4"}, data_stores=bp.data_stores)
        await bp.select(context).call(context)
        assert context.actions.action is not None
        assert getattr(context.actions.action, "state", None) == expected
