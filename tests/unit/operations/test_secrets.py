"""Secrets: masked in every form and across chunks, and refused in parameters."""

from __future__ import annotations

import base64
import json
import shlex
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.secrets import HIDDEN, Mask, StreamMask, printable, redacted, refuse_secrets
from tests.unit.operations.test_permit import permit

SECRET = "pä ss/wörd+'\"\\&=1"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nQyNTUxOQAAACDabcdefghi\n-----END OPENSSH PRIVATE KEY-----\n"


def mask(*secrets: str) -> Mask:
    made = Mask()
    for secret in secrets:
        made.add(secret)
    return made


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        urlencode({"password": SECRET}).partition("=")[2],
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        shlex.quote(SECRET)[1:-1],
        repr(SECRET)[1:-1],
        SECRET.encode().hex(),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
    ],
)
def test_every_form_is_masked(form: str) -> None:
    hidden = mask(SECRET)(f"before {form} after")
    assert form not in hidden
    assert hidden.startswith("before ***")
    assert hidden.endswith(" after")


@pytest.mark.parametrize("user", ["u", "us", "use", "user"])
def test_it_is_masked_inside_base64_wherever_it_stands(user: str) -> None:
    coded = base64.b64encode(f"{user}:{SECRET}/x".encode()).decode()
    hidden = mask(SECRET)(f"Authorization: Basic {coded}")
    assert HIDDEN in hidden
    for size in (4, 8):
        left = hidden.partition("Basic ")[2].replace(HIDDEN, "")
        for part in (left[:size], left[-size:]):
            padded = part[: len(part) // 4 * 4]
            assert SECRET[:4].encode() not in base64.b64decode(padded + "=" * (-len(padded) % 4), validate=False)


def test_lines_of_a_key_are_secrets_of_their_own() -> None:
    hidden = mask(KEY)
    assert hidden("x b3BlbnNzaC1rZXktdjEAAAAA y") == "x *** y"
    assert hidden("-----END OPENSSH PRIVATE KEY-----") == "-----END OPENSSH PRIVATE KEY-----"


def test_short_words_and_json() -> None:
    assert mask("abc")("abc") == "abc"
    assert mask("abcd", "abcdef").json({"abcdef": [{"x": "abcd"}, 5, None, ("abcdef",)]}) == {
        HIDDEN: [{"x": HIDDEN}, 5, None, [HIDDEN]]
    }


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab%2", min_size=4, max_size=6), min_size=1, max_size=3),
    st.text("ab%2c", max_size=60),
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
)
def test_chunks_are_masked_as_the_whole_is(secrets: list[str], text: str, sizes: list[int]) -> None:
    whole = mask(*secrets)
    stream, shown, at, turn = StreamMask(whole), "", 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        shown += stream.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    assert shown + stream.end() == whole(text)


def test_a_secret_added_between_two_chunks_is_masked_from_then_on() -> None:
    hidden = Mask()
    stream = StreamMask(hidden)
    assert stream.feed("plain ") == "plain "
    hidden.add("hunter2-hunter2")
    assert stream.feed("hunter2-") == ""
    assert stream.feed("hunter2 x") == "*** x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tä\n", "plain\tä\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]52;c;aGk=\x1b\\y", "xy"),
        ("a\x1b]0;never closed\nb", "a\nb"),
        ("a\rb\r\nc", "ab\nc"),
        ("bell\x07 back\x08 del\x7f c1\x9b31m nul\0", "bell back del c131m nul"),
        ("\u202egpj.exe", "gpj.exe"),
        ("\x1b", ""),
        ("\x1b(Bx\x1bcy", "xy"),
    ],
)
def test_what_is_shown_acts_on_no_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_log_masks_what_control_characters_hide() -> None:
    op = OperationContext("x", {}, permit())
    op.hide("hunter2-hunter2")
    op.log("one hunt\x00er2-hun\x1b[0mter2\ntwo")
    op.progress(0.5, "at \x1b[2Jhunter2-hunter2")
    report = op.take_report()
    assert report is not None
    assert [line for _, line in report.lines] == ["one ***", "two"]
    assert report.step == "at ***"


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({"password": "hunter2"}, "password"),
        ({"password": 123456}, "password"),
        ({"host": "a", "options": {"apiKey": "hunter2"}}, "options.apiKey"),
        ({"steps": [{"x": 1}, {"Private-Key": "hunter2"}]}, "steps.1.Private-Key"),
        ({"env": {"DB_PASSWORD": "hunter2"}}, "env.DB_PASSWORD"),
        ({"headers": {"Authorization": "Bearer hunter2"}}, "headers.Authorization"),
        ({"env": ["A=b", "AWS_SECRET_ACCESS_KEY=hunter2"]}, "env.1"),
        ({"command": ["tool", "--token=hunter2"]}, "command.1"),
        ({"env": [{"name": "API_TOKEN", "value": "hunter2"}]}, "env.0.value"),
        ({"url": "https://me:hunter2@example.com/x"}, "url"),
        ({"content": "-----BEGIN RSA PRIVATE KEY-----\nhunter2"}, "content"),
        ({"github_token": ["hunter2"]}, "github_token"),
        ({"client_secret": "hunter2"}, "client_secret"),
    ],
)
def test_secrets_in_params_are_refused(params: dict[str, Any], where: str) -> None:
    with pytest.raises(OperationError, match="credential") as caught:
        refuse_secrets(params)
    assert caught.value.code is TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION
    assert caught.value.details == {"field": where}
    assert f"at {where}:" in str(caught.value)
    assert "hunter2" not in str(caught.value) + json.dumps(redacted(params))


@pytest.mark.parametrize(
    "params",
    [
        {"credential": "deploy", "password": None, "token": "", "private_key": False, "token_count": 5},
        {
            "max_tokens": 100,
            "password_file": "x",
            "token_env": "T",
            "next_page_token": "abc",
            "tokens": ["a"],
            "secret": {"name": "x"},
        },
        {
            "env": ["PATH=/bin", "-v"],
            "command": "echo a=b",
            "url": "https://example.com:8443/a@b",
            "key": "x",
            "at": "me@example.com",
        },
        {"spec": {"secretName": "tls", "automountServiceAccountToken": False, "secretKeyRef": {"name": "a", "key": "password"}}},
    ],
)
def test_what_only_looks_like_secrets_is_taken(params: dict[str, Any]) -> None:
    refuse_secrets(params)
    assert redacted(params) == params


def test_long_texts_are_cut_in_an_audit() -> None:
    assert redacted({"x": "a" * 600}) == {"x": "a" * 500 + "… (600 characters)"}
