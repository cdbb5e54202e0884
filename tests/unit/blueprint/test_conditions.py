from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avtomatika.blueprint.conditions import MAX_DEPTH, MAX_LENGTH, parse_condition
from avtomatika.blueprint.context import JobContext
from avtomatika.errors import ConditionError
from avtomatika.jobs import Client

CONTEXT = JobContext(
    job_id="job-1",
    current_state="process",
    initial_data={
        "quality": "low",
        "size": 12,
        "ratio": -1.5,
        "tags": ["a", "b"],
        "deep": {"er": {"est": [{"x": 1}, {"x": 2}]}},
        "none": None,
        "yes": True,
        "empty": [],
        "my-key": "v",
        "_private": 1,
        "items": "a key, not a method",
    },
    state_history={"width": 640, "model": "m1"},
    client=Client(name="acme", plan="gold", role="default", params={"region": "eu"}),
    tracing_context={"trace": "t"},
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("context.initial_data.quality == 'low'", True),
        ('context.initial_data.quality == "high"', False),
        ("initial_data.quality == 'low'", True),
        ("context.initial_data.size != 12", False),
        ("context.initial_data.size < 13", True),
        ("context.initial_data.size <= 12", True),
        ("context.initial_data.size > 12", False),
        ("context.initial_data.size >= 12.0", True),
        ("context.initial_data.ratio == -1.5", True),
        ("0 < context.initial_data.size < 20", True),
        ("0 < context.initial_data.size < 5", False),
        ("context.initial_data.deep.er.est[1].x == 2", True),
        ("context.initial_data.deep.er.est[-1].x == 2", True),
        ("context.initial_data['deep']['er'].est[0]['x'] == 1", True),
        ("context.initial_data['my-key'] == 'v'", True),
        ("context.initial_data['_private'] == 1", True),
        ("context.initial_data.items == 'a key, not a method'", True),
        ("'a' in context.initial_data.tags", True),
        ("'c' not in context.initial_data.tags", True),
        ("'quality' in context.initial_data", True),
        ("context.initial_data.quality in ['low', 'medium']", True),
        ("context.initial_data.quality in ('high',)", False),
        ("context.initial_data.tags == ['a', 'b']", True),
        ("context.initial_data.tags == ('a', 'b')", True),
        ("context.initial_data.none == None", True),
        ("context.initial_data.none is None", True),
        ("context.initial_data.yes is True", True),
        ("context.initial_data.yes is not False", True),
        ("context.initial_data.yes", True),
        ("context.initial_data.empty", False),
        ("not context.initial_data.empty", True),
        ("context.client.plan == 'gold' and context.client.params.region == 'eu'", True),
        ("client.role == 'admin' or state_history.width > 600", True),
        ("not (client.role == 'admin' or state_history.width > 600)", False),
        ("(state_history.width > 600) == True", True),
        ("job_id == 'job-1' and current_state == 'process'", True),
        ("context.tracing_context.trace == 't'", True),
        ("True", True),
        ("False or True and not False", True),
        ("  context.initial_data.size\n  ==\t12  ", True),
        ("'é' == 'é'", True),
    ],
)
def test_holds(text: str, holds: bool) -> None:
    assert parse_condition(text)(CONTEXT) is holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("context.initial_data.gone == 1", False),
        ("context.initial_data.gone != 1", False),
        ("context.initial_data.gone", False),
        ("not context.initial_data.gone", False),
        ("not (context.initial_data.gone == 1)", False),
        ("context.initial_data.gone.deeper.still == 1", False),
        ("context.initial_data.tags[7] == 'a'", False),
        ("context.initial_data.gone == 1 or context.initial_data.size == 12", True),
        ("context.initial_data.size == 12 or context.initial_data.gone == 1", True),
        ("context.initial_data.gone == 1 and context.initial_data.size == 12", False),
        ("not (context.initial_data.gone == 1 and context.initial_data.size == 0)", True),
        ("context.initial_data.none < 3", False),
        ("context.initial_data.none > 3", False),
        ("context.initial_data.quality < 3", False),
        ("not (context.initial_data.none < 3)", False),
        ("3 in context.initial_data.size", False),
        ("[1] in context.initial_data", False),
        ("context.initial_data.quality.upper == 'LOW'", False),
        ("context.client.replace", False),
        ("context.aggregation_results.x == 1", False),
    ],
)
def test_what_cannot_be_answered_does_not_hold(text: str, holds: bool) -> None:
    assert parse_condition(text)(CONTEXT) is holds


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "empty"),
        ("context.initial_data.a ==", 26, "invalid syntax"),
        ("context.initial_data.a == len('x')", 27, "a call"),
        ("context.initial_data.a.get('b') == 1", 1, "a call"),
        ("__import__('os').system('true')", 1, "a call"),
        ("context.initial_data.a + 1 == 2", 1, "arithmetic"),
        ("'é' == context.initial_data.a * 2", 8, "arithmetic"),
        ("  context.initial_data.a == 2 ** 8", 29, "arithmetic"),
        ("[x for x in context.initial_data.a]", 1, "a comprehension"),
        ("context.initial_data.a in [context.job_id]", 28, "literal"),
        ("lambda: 1", 1, "a lambda"),
        ("1 if True else 2", 1, "an if expression"),
        ("f'{context.job_id}' == 'x'", 1, "an f-string"),
        ("context.__class__ == 1", 1, "private"),
        ("context.initial_data.__class__.x == 1", 1, "private"),
        ("context.initial_data._a == 1", 1, "['_a']"),
        ("context == 1", 1, "needs a field"),
        ("context.actions == 1", 1, "no field actions"),
        ("context.data_stores.x == 1", 1, "no field data_stores"),
        ("quality == 'low'", 1, "context.initial_data.quality"),
        ("context.initial_data.a == low", 27, "'low'"),
        ("context.initial_data.a == true", 27, "True"),
        ("context.initial_data.a == null", 27, "None"),
        ("context.initial_data.a is 'x'", 27, "write =="),
        ("context.initial_data[context.job_id] == 1", 22, "literal"),
        ("context.initial_data[True] == 1", 22, "whole number"),
        ("context.initial_data.a[1:2] == 1", 24, "a slice"),
        ("context.initial_data.a == {1: 2}", 27, "a dict"),
        ("context.initial_data.a == b'x'", 27, "not allowed"),
        ("context.initial_data.a == 1j", 27, "not allowed"),
        ("context.initial_data.a == ...", 27, "not allowed"),
        ("~context.initial_data.a", 1, "not allowed"),
        ("a; b", 2, "invalid syntax"),
        ("a = 1", 3, "syntax"),
    ],
)
def test_bad_conditions_name_column_and_what_is_allowed(text: str, column: int, says: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse_condition(text)
    message = str(caught.value)
    assert says in message
    assert "allowed are paths" in message
    assert f"column {column}:" in message or not text


def test_limits() -> None:
    parse_condition("True or " * 100 + "True")
    with pytest.raises(ConditionError, match=f"at most {MAX_LENGTH}"):
        parse_condition("True or " * 200 + "True")
    parse_condition("not " * (MAX_DEPTH - 5) + "True")
    with pytest.raises(ConditionError, match="levels deep"):
        parse_condition("not " * (MAX_DEPTH + 1) + "True")
    with pytest.raises(ConditionError):
        parse_condition("(" * 400 + "True" + ")" * 400)
    with pytest.raises(ConditionError, match="levels deep"):
        parse_condition("context.initial_data" + ".a" * 100)


@pytest.mark.parametrize("value", [None, 1, b"x", lambda context: True])
def test_a_condition_is_a_string(value: Any) -> None:
    with pytest.raises(ConditionError, match="is a string"):
        parse_condition(value)


_TOKENS = """context . initial_data state_history client a b 'x' 1 -1 0.5 == != < <= > >= in not is and or ( ) [ ] , None True
False lambda : if else for * ** + __class__ get {} f'' \\ é"""
_WORDS = st.sampled_from([*_TOKENS.split(), "\x00", "\ud800"])
_TEXTS = st.text(max_size=80) | st.lists(_WORDS, max_size=25).map(" ".join) | st.lists(_WORDS, max_size=25).map("".join)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
_DATA = st.dictionaries(st.sampled_from("ab"), _JSON, max_size=2)


@given(text=_TEXTS, initial_data=_DATA, state_history=_DATA)
def test_any_text_parses_or_is_refused_and_never_raises_later(
    text: str, initial_data: dict[str, Any], state_history: dict[str, Any]
) -> None:
    try:
        condition = parse_condition(text)
    except ConditionError:
        return
    assert condition(JobContext("j", "s", initial_data=initial_data, state_history=state_history)) in (True, False)


_PATH = st.sampled_from(
    ["context.initial_data.a", "context.state_history.b", "initial_data['a'][0]", "initial_data.a.b", "client.params.a", "client"]
)
_OPERAND = _PATH | st.sampled_from(["1", "-2.5", "'x'", "None", "True", "[1, 'x']", "()"])
_OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")
_COMPARISON = st.builds(lambda left, op, right: f"{left} {op} {right}", _OPERAND, st.sampled_from(_OPERATORS), _OPERAND)
_CONDITION = st.recursive(
    _COMPARISON | _PATH,
    lambda inner: (
        st.builds(lambda a, op, b: f"({a}) {op} ({b})", inner, st.sampled_from(["and", "or"]), inner)
        | inner.map(lambda a: f"not ({a})")
    ),
    max_leaves=5,
)


@given(text=_CONDITION, initial_data=_DATA, state_history=_DATA)
def test_good_conditions_never_raise_on_any_data(text: str, initial_data: dict[str, Any], state_history: dict[str, Any]) -> None:
    condition = parse_condition(text)
    assert condition(JobContext("j", "s", initial_data=initial_data, state_history=state_history)) in (True, False)
