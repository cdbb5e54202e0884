"""The report's drawing and words; the whole page is tested with the blueprint."""

from __future__ import annotations

import pytest


def graph(states: str, edges: str) -> dict:
    names = states.split()
    return {
        "name": "g",
        "states": [{"name": n, "is_end": n in ("end", "failed")} for n in names],
        "transitions": [dict(zip(("source", "target"), edge.split(">"), strict=True)) for edge in edges.split()],
    }


def test_the_longest_way_lies_in_one_row(report) -> None:
    drawn = report.drawing(graph("a b c end failed", "a>b b>c c>end a>failed b>failed c>failed"))
    rows = {box["name"]: box["y"] for box in drawn["boxes"]}
    assert rows["a"] == rows["b"] == rows["c"] == rows["end"] < rows["failed"]
    columns = [box["x"] for box in drawn["boxes"] if not box["aside"]]
    assert columns == sorted(columns)
    assert len(drawn["curves"]) == 6
    assert all(box["x"] + report.NODE_WIDTH <= drawn["width"] for box in drawn["boxes"])
    assert all(box["y"] + report.NODE_HEIGHT <= drawn["height"] for box in drawn["boxes"])


@pytest.mark.parametrize(
    ("states", "edges"),
    [
        ("only", ""),
        ("a b", "a>b b>a a>a"),
        ("a x y z end", "a>x a>y a>z x>end y>end z>end"),
        ("a end", "a>end a>unknown"),
        ("a alone", ""),
    ],
)
def test_any_graph_can_be_drawn_without_boxes_on_each_other(report, states, edges) -> None:
    drawn = report.drawing(graph(states, edges))
    places = [(box["x"], box["y"]) for box in drawn["boxes"]]
    assert len(set(places)) == len(places) == len(states.split())


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (2_345_678, "2.3 MB"), (5e9, "5.0 GB")])
def test_sizes_in_words(report, count, words) -> None:
    assert report.size_in_words(count) == words


def test_a_long_name_loses_its_middle(report) -> None:
    assert report.middle("short.jpg", 20) == "short.jpg"
    short = report.middle("a-very-long-name-of-a-photograph.jpg", 20)
    assert len(short) == 20
    assert short.endswith("ograph.jpg")
