"""Small rules of transfers: names, patterns, links, rates."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avtomatika.operations.errors import OperationError
from avtomatika.operations.ssh.meter import Meter, size_text
from avtomatika.operations.ssh.places import Entry, Kind, component, is_part, part_name, printable
from avtomatika.operations.ssh.tar import Item, batches
from avtomatika.operations.ssh.transfer import How
from avtomatika.operations.ssh.tree import Filter, leads_out
from avtomatika.operations.throttle import Throttle
from avtomatika.operations.types import TaskStatus

KEY = "0123456789abcdef"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "nul\0", "../.."])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(OperationError):
        component(name)


@pytest.mark.parametrize("name", ["a", "...", "-rf", "a b", "a\nb", os.fsdecode(b"\xff")])
def test_what_is_a_name(name: str) -> None:
    assert component(name) == name


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=255))
def test_part_files_have_names_of_their_own(name: str) -> None:
    part = part_name(name, KEY)
    assert part != name
    assert is_part(part)
    assert len(part.encode()) <= 255
    assert component(part) == part


@pytest.mark.parametrize("name", ["a", ".a.part", ".a.part-123", "a.part-0123456789abcdef", ".a.part-0123456789abcdeX"])
def test_other_names_are_no_part_files(name: str) -> None:
    assert not is_part(name)


def test_names_are_shown_without_control_characters() -> None:
    assert printable("a\x1b[31m\n" + os.fsdecode(b"\xff") + "é") == "a\\x1b[31m\\n\\xffé"


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        (("a",), "b", False),
        (("a",), "b/c", False),
        (("a",), "./b", False),
        (("a",), "..", True),
        (("d", "a"), "..", False),
        (("d", "a"), "../b", False),
        (("d", "a"), "../../b", True),
        (("a",), "b/..", True),  # b may be a link
        (("a",), "/etc", True),
        (("a",), "", True),
    ],
)
def test_where_links_lead(path: tuple[str, ...], target: str, out: bool) -> None:
    assert leads_out(path, target) is out


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), {"a.txt", "sub", "sub/b.txt", "sub/c.log"}),
        (("*.txt",), (), {"a.txt", "sub", "sub/b.txt"}),
        ((), ("*.txt",), {"sub", "sub/c.log"}),
        ((), ("sub/",), {"a.txt", "sub/b.txt", "sub/c.log"}),  # what is in it is never asked
        ((), ("sub/*.log",), {"a.txt", "sub", "sub/b.txt"}),
        (("sub/*",), (), {"sub", "sub/b.txt", "sub/c.log"}),
        ((), ("a.txt/",), {"a.txt", "sub", "sub/b.txt", "sub/c.log"}),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], taken: set[str]) -> None:
    entries = [
        Entry(tuple(path.split("/")), Kind.DIRECTORY if path == "sub" else Kind.FILE)
        for path in ("a.txt", "sub", "sub/b.txt", "sub/c.log")
    ]
    chosen = Filter(include, exclude)
    assert {"/".join(entry.path) for entry in entries if chosen.takes(entry)} == taken


def test_permissions_that_are_kept() -> None:
    source = Entry(("a",), Kind.FILE, mode=0o6777)
    assert How().mode_of(source) == 0o775
    assert How(preserve=False).mode_of(source) == 0o644
    assert How(preserve=False).mode_of(source, Entry(("a",), Kind.FILE, mode=0o600)) == 0o600
    assert How(mode=0o640).mode_of(source) == 0o640


def test_the_throttle_waits_for_what_goes_beyond_the_rate() -> None:
    waits: list[float] = []
    throttle = Throttle(1000, waits.append)
    for _ in range(10):
        throttle.take(1000)
    assert sum(waits) == pytest.approx(sum(range(1, 11)), rel=0.2)  # nobody slept: each has to wait for all before it, too
    Throttle(None, waits.append).take(1 << 40)
    assert len(waits) <= 10


class _Op:
    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []

    def progress(self, value: float, step: str, status: TaskStatus) -> None:
        self.said.append((value, step))


def test_the_meter_tells_bytes_files_rate_and_what_is_left() -> None:
    now = [100.0]
    op = _Op()
    meter = Meter(op, TaskStatus.UPLOADING, 100 << 20, 4, clock=lambda: now[0])  # type: ignore[arg-type]
    meter.there(20 << 20, 1)
    for _ in range(4):
        now[0] += 1
        meter.add(10 << 20)
    meter.file_done()
    now[0] += 1
    meter.add(0)
    assert op.said[-2] == (0.6, "60.0 MiB of 100.0 MiB, 1 of 4 files, 10.0 MiB/s, 4 s left")
    assert [value for value, _ in op.said] == sorted(value for value, _ in op.said)
    assert op.said[-1][1].startswith("60.0 MiB of 100.0 MiB, 2 of 4 files")


def test_sizes() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 5 << 20, 3 << 40)] == ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 TiB"]


def test_batches_keep_all_in_order_and_none_is_too_large() -> None:
    items = [Item(Entry((f"{number}",), Kind.FILE, size=size)) for number, size in enumerate([1 << 20] * 100 + [10] * 5000)]
    found = list(batches(items))
    assert [item for batch in found for item in batch] == items
    assert all(len(batch) <= 2000 and sum(item.entry.size for item in batch) <= 64 << 20 for batch in found)
