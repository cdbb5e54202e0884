"""Data operations over real files: what they read, write, count, refuse."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.data import reading
from avtomatika.operations.errors import OperationStopped
from tests.support.children import in_child, open_folder_for_all
from tests.support.local_operations import Bench, stop_at

EXISTS = TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
ROWS = [
    {"id": "1", "name": "Ada", "paid": "10.5", "day": "2026-01-31"},
    {"id": "2", "name": 'a "quoted", name', "paid": "7", "day": "2026-02-01"},
    {"id": "3", "name": "two\nlines ü", "paid": None, "day": "2026-02-02"},
]
CSV = 'id,name,paid,day\n1,Ada,10.5,2026-01-31\n2,"a ""quoted"", name",7,2026-02-01\n3,"two\nlines ü",,2026-02-02\n'


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "in.csv").write_text(CSV, encoding="utf-8")
    return Bench(tmp_path)


def convert(bench: Bench, source: Any, target: Any, *steps: Any) -> dict[str, Any]:
    source = {"path": source} if isinstance(source, str) else source
    target = {"path": target} if isinstance(target, str) else target
    return bench.run("data_process", {"source": source, "steps": list(steps), "target": target})


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def code_of(bench: Bench, source: dict[str, Any], *steps: Any, target: Any = None) -> TaskErrorCode:
    params = {"source": source, "steps": list(steps), "target": target or {"path": "out.jsonl"}}
    return bench.fails("data_process", params).code


@pytest.mark.parametrize("middle", ["m.csv", "m.json", "m.jsonl", "m.parquet", "m.tsv"])
def test_every_format_keeps_the_rows(bench: Bench, tmp_path: Path, middle: str) -> None:
    found = convert(bench, "in.csv", middle)
    assert (found["rows_read"], found["rows_written"], found["bad_rows"]) == (3, 3, 0)
    assert found["size"] == (tmp_path / middle).stat().st_size
    convert(bench, middle, "out.jsonl")
    convert(bench, middle, "out.csv")

    assert jsonl(tmp_path / "out.jsonl") == ROWS
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == CSV


def test_types_are_those_that_the_source_names(bench: Bench, tmp_path: Path) -> None:
    types = {"id": "integer", "paid": "decimal", "day": "date"}
    convert(bench, {"path": "in.csv", "types": types}, "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("id").type == pa.int64()
    assert table.schema.field("day").type == pa.date32()
    assert pa.types.is_decimal(table.schema.field("paid").type)
    assert table.column("id").to_pylist() == [1, 2, 3]


def test_encodings_and_a_mark_at_the_head(bench: Bench, tmp_path: Path) -> None:
    convert(bench, "in.csv", {"path": "latin.csv", "encoding": "latin-1", "delimiter": ";"})
    assert "ü".encode("latin-1") in (tmp_path / "latin.csv").read_bytes()
    convert(bench, {"path": "latin.csv", "encoding": "latin-1", "delimiter": ";"}, "out.jsonl")
    assert jsonl(tmp_path / "out.jsonl") == ROWS

    (tmp_path / "mark.csv").write_text("id\n1\n", encoding="utf-8-sig")
    convert(bench, "mark.csv", "out.jsonl")
    assert jsonl(tmp_path / "out.jsonl") == [{"id": "1"}]


def test_without_a_header(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("1,x\n2,NA\n")
    convert(bench, {"path": "bare.csv", "header": False, "columns": ["a", "b"], "null_values": ["NA"]}, "out.jsonl")
    assert jsonl(tmp_path / "out.jsonl") == [{"a": "1", "b": "x"}, {"a": "2", "b": None}]


@pytest.mark.parametrize(
    ("name", "text", "bad"),
    [
        ("bad.csv", "a,b\n1,2\n3\n4,5,6\n7,8\n", [{"line": 3}, {"line": 4}]),
        ("bad.csv", 'a,b\n1,2\n"x"y,2\n7,8\n', [{"line": 3}]),
        ("bad.jsonl", '{"a": "1"}\n{"a": \n[1]\n\n{"a": NaN}\n{"a": "7"}\n', [{"line": 2}, {"line": 3}, {"line": 5}]),
    ],
)
def test_malformed_rows_are_counted_with_their_lines(bench: Bench, tmp_path: Path, name: str, text: str, bad: Any) -> None:
    (tmp_path / name).write_text(text)
    source = {"path": name, "max_bad_rows": len(bad)}
    found = bench.run("data_process", {"source": source, "target": {"path": "out.jsonl"}})

    assert found["bad_rows"] == len(bad)
    assert [{"line": row["line"]} for row in found["bad_samples"]] == bad
    assert [row["a"] for row in jsonl(tmp_path / "out.jsonl")] == ["1", "7"]

    error = bench.fails("data_process", {"source": {**source, "max_bad_rows": len(bad) - 1}, "target": {"path": "no.jsonl"}})
    assert error.code is TaskErrorCode.DATA_PARSING_FAILED
    assert f"line {bad[0]['line']}" in str(error)
    assert not (tmp_path / "no.jsonl").exists()


def test_values_that_are_not_of_their_type_are_bad_rows(bench: Bench) -> None:
    error = bench.fails("data_process", {"source": {"path": "in.csv", "types": {"name": "integer"}}, "target": {"path": "x.csv"}})

    assert error.code is TaskErrorCode.DATA_PARSING_FAILED
    assert "line 2: a value is no integer, in the column 'name'" in str(error)
    assert "Ada" not in str(error)


@pytest.mark.parametrize(
    ("name", "content", "more", "code"),
    [
        ("gone.csv", None, {}, TaskErrorCode.DATA_FILE_NOT_FOUND),
        ("folder.csv", "folder", {}, TaskErrorCode.DATA_FILE_NOT_FOUND),
        ("x.parquet", b"PAR1 this is none PAR1", {}, TaskErrorCode.DATA_FILE_CORRUPTED),
        ("x.parquet", b"", {}, TaskErrorCode.DATA_FILE_CORRUPTED),
        ("x.csv", b"a\n\xff\xfe\n", {}, TaskErrorCode.DATA_ENCODING_ERROR),
        ("x.jsonl", b'{"a": "\xc3"}\n', {}, TaskErrorCode.DATA_ENCODING_ERROR),
        ("x.csv", b"a,a\n1,2\n", {}, TaskErrorCode.DATA_FORMAT_INVALID),
        ("x.csv", b"a,\n1,2\n", {}, TaskErrorCode.DATA_FORMAT_INVALID),
        ("x.csv", b"a,b\n1,2\n", {"types": {"c": "integer"}}, TaskErrorCode.DATA_FORMAT_INVALID),
        ("x.csv", b"a,b\n1\n", {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.csv", b'a\n"never closed\n', {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.json", b'{"a": 1}', {}, TaskErrorCode.DATA_FORMAT_INVALID),
        ("x.json", b"", {}, TaskErrorCode.DATA_FORMAT_INVALID),
        ("x.json", b'[{"a": 1}, {"a": 2}', {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.json", b'[{"a": 1} {"a": 2}]', {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.json", b'[{"a": 1}, 2]', {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.json", b'[{"a": 1}] and more', {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.json", b"[" * 100_000, {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.json", b'[{"a": ' + b"[" * 200_000, {}, TaskErrorCode.DATA_PARSING_FAILED),
        ("x.jsonl", b"[" * 200_000, {}, TaskErrorCode.DATA_PARSING_FAILED),
    ],
)
def test_files_that_cannot_be_read(
    bench: Bench, tmp_path: Path, name: str, content: bytes | str | None, more: dict[str, Any], code: TaskErrorCode
) -> None:
    if content == "folder":
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    assert code_of(bench, {"path": name, **more}) is code
    assert bench.fails("data_analyze", {"source": {"path": name, **more}}).code is code
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_a_parquet_file_with_a_damaged_middle(bench: Bench, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(50_000)), "b": ["x" * 20] * 50_000}), tmp_path / "x.parquet", compression="zstd")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    (tmp_path / "x.parquet").write_bytes(content)

    assert code_of(bench, {"path": "x.parquet"}) is TaskErrorCode.DATA_FILE_CORRUPTED
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_a_line_without_an_end_and_a_file_beyond_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_RECORD", 1 << 16)
    (tmp_path / "x.jsonl").write_text('{"a": "' + "x" * (1 << 17) + '"}')
    (tmp_path / "x.json").write_text('[{"a": "' + "x" * (1 << 18) + '"}]')
    (tmp_path / "x.csv").write_text("a\n" + "x" * (1 << 17))
    bench = Bench(tmp_path)

    assert code_of(bench, {"path": "x.jsonl"}) is TaskErrorCode.DATA_SIZE_TOO_LARGE
    assert code_of(bench, {"path": "x.csv"}) is TaskErrorCode.DATA_SIZE_TOO_LARGE
    assert code_of(bench, {"path": "x.json"}) is TaskErrorCode.DATA_PARSING_FAILED
    assert code_of(Bench(tmp_path, options={"max_file_bytes": 1000}), {"path": "x.csv"}) is TaskErrorCode.DATA_SIZE_TOO_LARGE


def test_a_big_json_array_is_read_in_parts(bench: Bench, tmp_path: Path) -> None:
    rows = [{"id": number, "text": '{["é' * (number % 50)} for number in range(20_000)]
    (tmp_path / "big.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    convert(bench, "big.json", "out.jsonl")

    assert jsonl(tmp_path / "out.jsonl") == rows


@pytest.mark.parametrize("path", ["../in.csv", "/etc/passwd", "out.csv/../../x.csv", "link.csv", "deep/x.csv"])
def test_paths_out_of_the_roots(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "in.csv").write_text("a\n1\n")
    (root / "ok.csv").write_text("a\n1\n")
    (root / "link.csv").symlink_to(tmp_path / "in.csv")
    (root / "deep").symlink_to(tmp_path)
    bench = Bench(root)
    for params in (
        {"source": {"path": path, "format": "csv"}, "target": {"path": "new.csv"}},
        {"source": {"path": "ok.csv"}, "target": {"path": path, "format": "csv"}},
        {
            "source": {"path": "ok.csv"},
            "steps": [{"step": "join", "source": {"path": path, "format": "csv"}, "on": {"a": "a"}}],
            "target": {"path": "new.csv"},
        },
    ):
        assert bench.fails("data_process", params).code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
    assert (tmp_path / "in.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_stop_leaves_the_old_target(bench: Bench, tmp_path: Path, kind: str, count: int) -> None:
    (tmp_path / "many.jsonl").write_text('{"a": 1}\n' * 5000)
    (tmp_path / f"out.{kind}").write_text("old")
    with pytest.raises(OperationStopped):
        bench.run("data_process", {"source": {"path": "many.jsonl"}, "target": {"path": f"out.{kind}"}}, before=stop_at(count))

    assert (tmp_path / f"out.{kind}").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "many.jsonl", f"out.{kind}"}


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_a_file_that_may_not_grow(bench: Bench, tmp_path: Path, kind: str) -> None:
    (tmp_path / "many.jsonl").write_text("".join(f'{{"a": "{os.urandom(50).hex()}"}}\n' for _ in range(3000)))

    def body() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        return code_of(bench, {"path": "many.jsonl"}, target={"path": f"out.{kind}"})

    assert in_child(body) == "SYSTEM_RESOURCE_LIMIT"
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "many.jsonl"}


def test_without_permission() -> None:
    with open_folder_for_all() as folder:
        (folder / "secret.csv").write_text("a\n1\n")
        (folder / "secret.csv").chmod(0)
        (folder / "open.csv").write_text("a\n1\n")
        (folder / "open.csv").chmod(0o644)
        (folder / "closed").mkdir(mode=0o755)

        def body() -> list[str]:
            bench = Bench(folder)
            return [
                code_of(bench, {"path": "secret.csv"}),
                code_of(bench, {"path": "open.csv"}, target={"path": "closed/x.csv"}),
                str(convert(bench, "open.csv", "fine.csv")["rows_written"]),
            ]

        assert in_child(body, nobody=True) == ["SYSTEM_PERMISSION_DENIED", "SYSTEM_PERMISSION_DENIED", "1"]


def test_a_device_is_no_file() -> None:
    bench = Bench(Path("/dev"))
    assert code_of(bench, {"path": "/dev/zero", "format": "csv"}) is TaskErrorCode.DATA_FILE_NOT_FOUND


def test_overwrite_false(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    assert code_of(bench, {"path": "in.csv"}, target={"path": "out.csv", "overwrite": False}) is EXISTS
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_character_that_the_target_lacks(bench: Bench, tmp_path: Path) -> None:
    code = code_of(bench, {"path": "in.csv"}, target={"path": "out.csv", "encoding": "ascii"})
    assert code is TaskErrorCode.DATA_ENCODING_ERROR
    assert not (tmp_path / "out.csv").exists()


def test_rows_of_other_columns_need_a_select(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n' * 1000 + '{"b": 2}\n')
    assert code_of(bench, {"path": "odd.jsonl"}, target={"path": "x.csv"}) is TaskErrorCode.DATA_FORMAT_INVALID
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    convert(bench, "odd.jsonl", "x.csv")
    assert (tmp_path / "x.csv").read_text() == "a,b\n1,\n,2\n"


def test_values_that_do_not_fit_a_parquet_column(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n{"a": "x"}\n')
    assert code_of(bench, {"path": "odd.jsonl"}, target={"path": "x.parquet"}) is TaskErrorCode.DATA_FORMAT_INVALID
    convert(bench, "odd.jsonl", "x.parquet", {"step": "cast", "columns": {"a": "string"}})
    assert pq.read_table(tmp_path / "x.parquet").column("a").to_pylist() == ["1", "x"]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_no_rows(bench: Bench, tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty.csv").write_text("a,b\n")
    assert convert(bench, "empty.csv", f"x.{kind}")["rows_written"] == 0
    assert convert(bench, f"x.{kind}", "y.json")["rows_read"] == 0
    assert json.loads((tmp_path / "y.json").read_text()) == []


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"target": {"path": "x.csv"}}, TaskErrorCode.VALIDATION_MISSING_REQUIRED),
        ({"source": {"path": "in.csv"}}, TaskErrorCode.VALIDATION_MISSING_REQUIRED),
        ({"source": {"path": "in.xls"}, "target": {"path": "x.csv"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        (
            {"source": {"path": "in.csv", "encoding": "rot13"}, "target": {"path": "x.csv"}},
            TaskErrorCode.VALIDATION_INVALID_PARAMS,
        ),
        ({"source": {"path": "in.csv", "encoding": "klingon"}, "target": {"path": "x"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"source": {"path": "in.csv", "header": False}, "target": {"path": "x.csv"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        ({"source": {"path": "in.csv", "max_bad_rows": -1}, "target": {"path": "x.csv"}}, TaskErrorCode.VALIDATION_OUT_OF_RANGE),
        ({"source": {"path": "in.csv", "typo": 1}, "target": {"path": "x.csv"}}, TaskErrorCode.VALIDATION_INVALID_PARAMS),
        (
            {"source": {"path": "in.csv"}, "target": {"path": "x.csv"}, "steps": [{"step": "eval"}]},
            TaskErrorCode.VALIDATION_INVALID_PARAMS,
        ),
    ],
)
def test_params_that_do_not_fit(bench: Bench, params: dict[str, Any], code: TaskErrorCode) -> None:
    assert bench.fails("data_process", params).code is code
