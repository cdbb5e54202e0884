"""The plan of a synchronisation against a model: a tree is a dict of paths, and carrying a plan out is changing a dict."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from avtomatika.operations.ssh.places import Entry, Kind, Parts
from avtomatika.operations.ssh.sync_plan import Action, make_plan
from avtomatika.operations.ssh.tree import Tree

# A file of the model: (kind, content, mtime).
Model = dict[Parts, tuple[Kind, str, int]]

_NAMES = st.sampled_from("abc")
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(tuple)
_KINDS = st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.LINK])
_ITEMS = st.tuples(_KINDS, st.sampled_from(["", "x", "y", "longer"]), st.integers(1, 3))


def _closed(items: Model) -> Model:
    """As a file system has it: what is above something is a directory."""
    found: Model = {}
    for path in sorted(items):
        if all(found.get(path[:depth], (Kind.DIRECTORY,))[0] is Kind.DIRECTORY for depth in range(1, len(path))):
            for depth in range(1, len(path)):
                found.setdefault(path[:depth], (Kind.DIRECTORY, "", 1))
            kind, content, mtime = items[path]
            found[path] = (kind, "", 1) if kind is Kind.DIRECTORY else (kind, content, mtime)
    return found


MODELS = st.dictionaries(_PATHS, _ITEMS, max_size=12).map(_closed)


def _tree(model: Model, excluded: frozenset[Parts] = frozenset()) -> Tree:
    tree = Tree()
    for path in sorted(model):
        if any(path[:depth] in excluded for depth in range(1, len(path) + 1)):
            tree.excluded.add(path)
            continue
        kind, content, mtime = model[path]
        tree.entries[path] = Entry(path, kind, len(content), mtime=mtime, target=content if kind is Kind.LINK else None)
    return tree


def _carried_out(target: Model, source: Model, plan: object) -> Model:
    """Step by step, with the rules of a file system: nothing is made in what is not there, only empty directories are removed."""
    found = dict(target)
    for step in plan.steps:  # type: ignore[attr-defined]
        path = step.entry.path
        match step.action:
            case Action.DELETE:
                assert path in found
                assert not any(other[: len(path)] == path for other in found if other != path), f"{path} is not empty"
                del found[path]
            case Action.CREATE | Action.UPDATE:
                assert all(found.get(path[:depth], ("",))[0] is Kind.DIRECTORY for depth in range(1, len(path)))
                if step.action is Action.CREATE:
                    assert path not in found
                elif step.found.kind is Kind.DIRECTORY:
                    assert not any(other[: len(path)] == path for other in found if other != path)
                found[path] = source[path]
    return found


def _sum(model: Model, path: Parts) -> str:
    return hashlib.sha256(model[path][1].encode()).hexdigest()


@settings(deadline=None)
@given(MODELS, MODELS, st.booleans())
def test_with_delete_the_destination_becomes_the_source(source: Model, target: Model, by_sum: bool) -> None:
    def same(a: Entry, b: Entry) -> bool:
        return _sum(source, a.path) == _sum(target, b.path)

    plan = make_plan(_tree(source), _tree(target), delete=True, window=0, same=same if by_sum else None)
    made = _carried_out(target, source, plan)

    assert set(made) == set(source)
    for path, (kind, content, mtime) in source.items():
        assert made[path][0] is kind
        if kind is Kind.LINK or (kind is Kind.FILE and by_sum):
            assert made[path][1] == content
        elif kind is Kind.FILE:  # what has the same size and time is taken for the same
            assert (len(made[path][1]), made[path][2]) == (len(content), mtime)
    again = make_plan(_tree(source), _tree(made), delete=True, window=0, same=None if not by_sum else lambda a, b: True)
    assert again.of(Action.CREATE, Action.UPDATE, Action.DELETE, Action.FAIL) == []


@settings(deadline=None)
@given(MODELS, MODELS)
def test_without_delete_nothing_is_lost(source: Model, target: Model) -> None:
    plan = make_plan(_tree(source), _tree(target), delete=False, window=0, same=None)
    failed = {step.entry.path for step in plan.of(Action.FAIL)}
    assert all(target[path][0] is Kind.DIRECTORY and source[path][0] is not Kind.DIRECTORY for path in failed)
    assert plan.of(Action.DELETE) == []
    made = _carried_out(target, source, plan)
    replaced = {path for path in source if path in target}
    assert {path: made[path] for path in target if path not in replaced} == {
        path: target[path] for path in target if path not in replaced
    }


@settings(deadline=None)
@given(MODELS, MODELS, st.frozensets(_PATHS, max_size=2))
def test_what_is_excluded_is_left_alone(source: Model, target: Model, excluded: frozenset[Parts]) -> None:
    plan = make_plan(_tree(source, excluded), _tree(target, excluded), delete=True, window=0, same=None)
    made = _carried_out(target, source, plan)
    hidden = {path for path in target if any(path[:depth] in excluded for depth in range(1, len(path) + 1))}
    assert {path: made.get(path) for path in hidden} == {path: target[path] for path in hidden}


def test_a_source_that_cannot_be_read_deletes_nothing() -> None:
    source = _tree({("a",): (Kind.FILE, "x", 1)})
    source.failed[("dark",)] = object()  # type: ignore[assignment]
    plan = make_plan(source, _tree({("b",): (Kind.FILE, "x", 1)}), delete=True, window=0, same=None)
    assert [step.action for step in plan.steps] == [Action.CREATE]
    assert plan.keeps


def test_times_may_differ_by_the_window() -> None:
    here, there = {("a",): (Kind.FILE, "x", 10)}, {("a",): (Kind.FILE, "x", 12)}
    for window, action in ((1, Action.UPDATE), (2, Action.SKIP)):
        plan = make_plan(_tree(here), _tree(there), delete=False, window=window, same=None)
        assert [step.action for step in plan.steps] == [action]
