"""The steps of data_process, and data_analyze."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avtomatika.errors import ConditionError
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.data.aggregation import Distinct
from avtomatika.operations.data.expressions import parse_expression
from avtomatika.operations.data.values import Misfit, cast, plain
from tests.support.local_operations import Bench

SALES = [
    {"id": 1, "city": "Rome", "amount": 10, "day": "2026-01-05"},
    {"id": 2, "city": "Oslo", "amount": 5, "day": "2026-02-05"},
    {"id": 3, "city": "Rome", "amount": None, "day": "2026-03-05"},
    {"id": 4, "city": None, "amount": 7, "day": "2026-04-05"},
    {"id": 5, "city": "Oslo", "amount": 5, "day": "2026-05-05"},
]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "sales.json").write_text(json.dumps(SALES))
    (tmp_path / "cities.csv").write_text("name,country\nRome,IT\nOslo,NO\nOslo,XX\n")
    return Bench(tmp_path)


def through(bench: Bench, *steps: dict[str, Any], source: str = "sales.json") -> list[dict[str, Any]]:
    bench.run("data_process", {"source": {"path": source}, "steps": list(steps), "target": {"path": "out.json"}})
    found: list[dict[str, Any]] = json.loads((bench.permit.local_path("out.json")).read_text())
    return found


def ids(bench: Bench, *steps: dict[str, Any]) -> list[int]:
    return [row["id"] for row in through(bench, *steps)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("amount > 5", [1, 4]),
        ("city == 'Rome' or city is None", [1, 3, 4]),
        ("not (amount > 5)", [2, 5]),  # a null answers nothing, as in SQL
        ("row['city'] in ['Oslo'] and id != 2", [5]),
        ("5 <= amount < 8", [2, 4, 5]),
        ("nowhere == 1", []),
    ],
)
def test_filter(bench: Bench, where: str, expected: list[int]) -> None:
    assert ids(bench, {"step": "filter", "where": where}) == expected


def test_filter_by_a_date(bench: Bench) -> None:
    steps = [{"step": "cast", "columns": {"day": "date"}}, {"step": "filter", "where": "day >= '2026-04-01'"}]
    assert ids(bench, *steps) == [4, 5]


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os')",
        "amount.__class__",
        "amount + 1 > 2",
        "[x for x in row]",
        "row",
        "true",
        "amount >",
        "x" * 2000,
        "(" * 99,
    ],
)
def test_what_is_no_condition(bench: Bench, where: str) -> None:
    params = {"source": {"path": "sales.json"}, "steps": [{"step": "filter", "where": where}], "target": {"path": "out.json"}}
    assert bench.fails("data_process", params).code is TaskErrorCode.VALIDATION_INVALID_PARAMS


def test_columns(bench: Bench) -> None:
    found = through(
        bench,
        {"step": "select", "columns": ["id", "amount", "city"]},
        {"step": "rename", "columns": {"amount": "euros"}},
        {"step": "drop", "columns": ["city"]},
        {"step": "limit", "rows": 2, "offset": 1},
    )
    assert found == [{"id": 2, "euros": 5}, {"id": 3, "euros": None}]
    assert list(found[0]) == ["id", "euros"]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (["amount"], [2, 5, 4, 1, 3]),
        (["-amount"], [1, 4, 2, 5, 3]),
        (["city", "-id"], [5, 2, 3, 1, 4]),
        (["-city", "id"], [1, 3, 2, 5, 4]),
    ],
)
def test_sort(bench: Bench, by: list[str], expected: list[int]) -> None:
    assert ids(bench, {"step": "sort", "by": by}) == expected


def test_deduplicate(bench: Bench) -> None:
    assert ids(bench, {"step": "deduplicate", "columns": ["city"]}) == [1, 2, 4]
    assert ids(bench, {"step": "deduplicate"}) == [1, 2, 3, 4, 5]


def test_aggregate(bench: Bench) -> None:
    measures = {
        "rows": {"function": "count"},
        "known": {"function": "count", "column": "amount"},
        "total": {"function": "sum", "column": "amount"},
        "mean": {"function": "avg", "column": "amount"},
        "first": {"function": "min", "column": "day"},
        "last": {"function": "max", "column": "day"},
        "different": {"function": "count_distinct", "column": "amount"},
    }
    found = {row["city"]: row for row in through(bench, {"step": "aggregate", "group_by": ["city"], "measures": measures})}

    assert found["Rome"] | {"city": 0} == {
        "city": 0, "rows": 2, "known": 1, "total": 10, "mean": 10, "first": "2026-01-05", "last": "2026-03-05", "different": 1,
    }  # fmt: skip
    assert (found["Oslo"]["total"], found["Oslo"]["different"], found[None]["rows"]) == (10, 1, 1)
    [whole] = through(bench, {"step": "filter", "where": "id > 99"}, {"step": "aggregate", "measures": measures})
    assert (whole["rows"], whole["total"], whole["mean"]) == (0, None, None)


def test_join(bench: Bench) -> None:
    join = {"step": "join", "source": {"path": "cities.csv"}, "on": {"city": "name"}}
    assert [(row["id"], row["country"]) for row in through(bench, join)] == [
        (1, "IT"), (2, "NO"), (2, "XX"), (3, "IT"), (5, "NO"), (5, "XX"),
    ]  # fmt: skip
    left = through(bench, {**join, "how": "left"}, {"step": "filter", "where": "country is None"})
    assert [row["id"] for row in left] == [4]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("amount * 2", [20, 10, None, 14, 10]),
        ("(amount + id) / 2", [5.5, 3.5, None, 5.5, 5.0]),
        ("-amount % 3", [2, 1, None, 2, 1]),
        ("day + '!'", [f"{row['day']}!" for row in SALES]),
        ("row['id'] // 2", [0, 1, 1, 2, 2]),
    ],
)
def test_derive(bench: Bench, expression: str, expected: list[Any]) -> None:
    assert [row["new"] for row in through(bench, {"step": "derive", "column": "new", "expression": expression})] == expected


@pytest.mark.parametrize(
    "expression", ["amount ** 9", "f(amount)", "amount.real", "amount if id else 1", "lambda: 1", "row", "[1]", "True", "", "1 +"]
)
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(ConditionError):
        parse_expression(expression)


@pytest.mark.parametrize(("on_error", "expected"), [("null", [None, None, 3.5, 5 / 3]), ("drop", [None, 3.5, 5 / 3])])
def test_what_cannot_be_computed(bench: Bench, on_error: str, expected: list[Any]) -> None:
    steps = [
        {"step": "filter", "where": "id > 1"},
        {"step": "derive", "column": "ratio", "expression": "amount / (id - 2)", "on_error": on_error},
    ]
    assert [row["ratio"] for row in through(bench, *steps)] == expected
    steps[-1]["on_error"] = "fail"
    error = bench.fails("data_process", {"source": {"path": "sales.json"}, "steps": steps, "target": {"path": "o.json"}})
    assert error.code is TaskErrorCode.DATA_PARSING_FAILED


def test_strings_cannot_be_made_huge(bench: Bench) -> None:
    steps = [{"step": "derive", "column": "x", "expression": "day * 1000000000"}]
    error = bench.fails("data_process", {"source": {"path": "sales.json"}, "steps": steps, "target": {"path": "o.json"}})
    assert error.code is TaskErrorCode.DATA_PARSING_FAILED


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([{"step": "select", "columns": ["nowhere"]}], TaskErrorCode.DATA_FORMAT_INVALID),
        ([{"step": "sort", "by": ["nowhere"]}], TaskErrorCode.DATA_FORMAT_INVALID),
        ([{"step": "rename", "columns": {"id": "city"}}], TaskErrorCode.DATA_FORMAT_INVALID),
        ([{"step": "cast", "columns": {"city": "integer"}}], TaskErrorCode.DATA_PARSING_FAILED),
        ([{"step": "aggregate", "measures": {"x": {"function": "sum", "column": "city"}}}], TaskErrorCode.DATA_FORMAT_INVALID),
        ([{"step": "aggregate", "measures": {"x": {"function": "sum"}}}], TaskErrorCode.VALIDATION_INVALID_PARAMS),
        (
            [{"step": "join", "source": {"path": "sales.json"}, "on": {"id": "id"}}],
            TaskErrorCode.DATA_FORMAT_INVALID,  # both sides have the same columns
        ),
        ([{"step": "join", "source": {"path": "gone.csv"}, "on": {"id": "id"}}], TaskErrorCode.DATA_FILE_NOT_FOUND),
    ],
)
def test_steps_that_do_not_fit_the_rows(bench: Bench, steps: list[Any], code: TaskErrorCode) -> None:
    params = {"source": {"path": "sales.json"}, "steps": steps, "target": {"path": "o.json"}}
    assert bench.fails("data_process", params).code is code
    assert not bench.permit.local_path("o.json").exists()


@pytest.mark.parametrize(
    "step",
    [
        {"step": "sort", "by": ["a"]},
        {"step": "deduplicate"},
        {"step": "aggregate", "group_by": ["a"], "measures": {"n": {"function": "count"}}},
        {"step": "aggregate", "measures": {"n": {"function": "count_distinct", "column": "a"}}},
        {"step": "join", "source": {"path": "many.jsonl"}, "on": {"a": "a"}},
    ],
)
def test_steps_that_keep_rows_have_a_bound(tmp_path: Path, step: dict[str, Any]) -> None:
    (tmp_path / "many.jsonl").write_text("".join(f'{{"a": {number}, "text": "{"x" * 500}"}}\n' for number in range(12_000)))
    params = {"source": {"path": "many.jsonl"}, "steps": [step], "target": {"path": "o.jsonl"}}
    error = Bench(tmp_path, options={"max_memory_mb": 1}).fails("data_process", params)

    assert error.code is TaskErrorCode.DATA_SIZE_TOO_LARGE
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("7", "integer", 7), (" -7 ", "integer", -7), (7.0, "integer", 7), (True, "integer", 1),
        ("1.5e3", "number", 1500.0), (3, "number", 3.0), ("0.1", "decimal", Decimal("0.1")), (0.1, "decimal", Decimal("0.1")),
        ("Yes", "boolean", True), ("0", "boolean", False), (1, "boolean", True), ("2026-01-31", "date", date(2026, 1, 31)),
        (1.5, "string", "1.5"), (True, "string", "true"), (date(2026, 1, 31), "string", "2026-01-31"), (None, "integer", None),
    ],
)  # fmt: skip
def test_casts(value: Any, type_: Any, expected: Any) -> None:
    found = cast(value, type_)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("7.5", "integer"), ("1_000", "integer"), ("", "integer"), (7.5, "integer"), ("٣", "integer"), ("x", "number"),
        ("nan", "number"), ("inf", "number"), (float("nan"), "number"), ("1e9999", "number"), ("NaN", "decimal"),
        ("maybe", "boolean"),
        (2, "boolean"), ([1], "boolean"), ("31.1.2026", "date"), (5, "date"), ("noon", "datetime"), ({"a": 1}, "number"),
    ],
)  # fmt: skip
def test_values_that_are_not_of_a_type(value: Any, type_: Any) -> None:
    with pytest.raises(Misfit):
        cast(value, type_)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.decimals()


@settings(max_examples=30, deadline=None)
@given(st.recursive(VALUES, st.lists, max_leaves=10))
def test_everything_has_a_form_as_json(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)


def test_analyze(bench: Bench) -> None:
    found = bench.run("data_analyze", {"source": {"path": "sales.json"}})

    assert (found["rows"], found["complete"], found["bad_rows"]) == (5, True, 0)
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["amount"] == {
        "name": "amount", "types": {"integer": 4}, "nulls": 1, "distinct": 3, "distinct_exact": True, "min": 5, "max": 10,
        "mean": 27 / 4,
    }  # fmt: skip
    assert (columns["city"]["nulls"], columns["city"]["min"], columns["city"]["max_length"]) == (1, "Oslo", 4)
    part = bench.run("data_analyze", {"source": {"path": "sales.json"}, "max_rows": 2})
    assert (part["rows"], part["complete"]) == (2, False)


def test_analyze_columns_that_come_and_go_and_are_of_many_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": "x"}\n{"b": [1]}\n')
    found = Bench(tmp_path).run("data_analyze", {"source": {"path": "x.jsonl"}})

    a, b = found["columns"]
    assert (a["types"], a["nulls"], a["min"]) == ({"integer": 1, "string": 1}, 1, None)
    assert (b["types"], b["nulls"], b["distinct"]) == ({"array": 1}, 2, 1)


@pytest.mark.parametrize("count", [10, 2048, 2049, 20_000])
def test_distinct_values_are_estimated(count: int) -> None:
    distinct = Distinct()
    for number in range(count):
        distinct.add(number)
        distinct.add(float(number))
    assert Distinct().estimate() == 0
    assert distinct.exact is (count <= 2048)
    assert abs(distinct.estimate() - count) <= (0 if distinct.exact else 0.1 * count)


def test_different_values_are_told_apart() -> None:
    distinct = Distinct()
    for value in (-1, -2, 1, "1", 1.5, True, None, [1], {"a": 1}, Decimal("1.5"), Decimal(1), b"1"):
        distinct.add(value)
    # 1 and Decimal(1) are equal; 1.5 and Decimal("1.5") are told apart by how they are written.
    assert distinct.estimate() == 11
