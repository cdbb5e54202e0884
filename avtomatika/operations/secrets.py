"""Secrets: masked by their value wherever an operation is shown, however they are written; and refused in parameters."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.errors import OperationError
from avtomatika.operations.names import is_numeric_secret_name, is_secret_name

HIDDEN = "***"
#: Shorter ones would mask words of every day.
_SHORTEST = 4
#: Of a secret of several lines, such as a key, each line of this length is one of its own: logs are read by lines.
_SHORTEST_LINE = 12
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\n]*?(?:\x07|\x1b\\|(?=\n)|\Z)"  # OSC and the like: titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
#: They turn the order of what is shown: one text would look like another.
_TURNS = dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
_ASSIGNED = re.compile(r"-{0,2}([A-Za-z_][A-Za-z0-9_.-]*)=(.+)", re.DOTALL)
_URL_PASSWORD = re.compile(r"://[^/?#\s:@]*:[^/?#\s@]+@")


def printable(text: str) -> str:
    """A remote text without what would act on a terminal: escape sequences, control characters (but tab and line end)."""
    return _ESCAPES.sub("", text.replace("\r\n", "\n")).translate(_CONTROLS | _TURNS)


class Mask:
    """Replaces secrets in texts and in JSON: as they are, quoted for URLs and shells, escaped for JSON, in base64."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """Hides this text from now on; one of fewer than 4 characters is not hidden."""
        found = set(forms_of(secret)) - self._forms
        if found:
            self._forms |= found
            by_length = sorted(self._forms, key=lambda form: (-len(form), form))  # of two, one inside the other, the longer first
            self._pattern = re.compile("|".join(map(re.escape, by_length)))

    @property
    def forms(self) -> frozenset[str]:
        """All texts that are hidden."""
        return frozenset(self._forms)

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """What finds them; None while there are none."""
        return self._pattern

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def json(self, value: Any) -> Any:
        """The same in every text of a JSON value, keys included."""
        match value:
            case str():
                return self(value)
            case dict():
                return {self(str(key)): self.json(item) for key, item in value.items()}
            case list() | tuple():
                return [self.json(item) for item in value]
        return value


def forms_of(secret: str) -> Iterator[str]:
    """Every form of a secret that is masked."""
    lines = [line.strip() for line in secret.splitlines()]
    whole = [secret, *(line for line in lines if len(lines) > 1 and len(line) >= _SHORTEST_LINE and "-----" not in line)]
    for text in whole:
        for form in _written(text):
            if len(form) >= _SHORTEST:
                yield form


def _written(text: str) -> Iterator[str]:
    yield text
    for quoted in (quote(text, safe=""), quote(text), quote_plus(text), quote(text, safe="!$&'()*+,;=:@")):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]
    yield html.escape(text)
    yield shlex.quote(text).removeprefix("'").removesuffix("'")
    raw = text.encode("utf-8", "surrogateescape")
    yield raw.hex()
    if len(raw) < _SHORTEST:
        return
    yield base64.b64encode(raw).decode()
    for begin in range(3):  # wherever in a longer text it stands, such as after "user:"
        coded = base64.b64encode(b"\0" * begin + raw).rstrip(b"=").decode()
        inner = coded[(begin * 8 + 5) // 6 : len(coded) - (1 if (begin + len(raw)) % 3 else 0)]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")


class StreamMask:
    """A mask for a text that comes in chunks: what could be the beginning of a secret is held back until the next one.

    `feed` each chunk, and `end` at its end; all that they return, put together, is the masked text.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = ""

    def feed(self, chunk: str) -> str:
        """What of the text so far can be shown now."""
        text = self._held + chunk
        cut = len(text) - self._open_end(text)
        if self._mask.pattern is not None and cut < len(text):
            for found in self._mask.pattern.finditer(text):
                if found.start() < cut < found.end():
                    cut = found.end()
        self._held = text[cut:]
        return self._mask(text[:cut])

    def end(self) -> str:
        """The rest."""
        held, self._held = self._held, ""
        return self._mask(held)

    def _open_end(self, text: str) -> int:
        """How many characters at the end may be the beginning of a secret."""
        forms = self._mask.forms
        firsts = {form[0] for form in forms}
        longest = max(map(len, forms), default=1) - 1
        for begin in range(max(0, len(text) - longest), len(text)):
            if text[begin] in firsts and any(form.startswith(text[begin:]) and form != text[begin:] for form in forms):
                return len(text) - begin
        return 0


def refuse_secrets(params: Any) -> None:
    """Raises OperationError (VALIDATION_CONSTRAINT_VIOLATION) where parameters hold a secret in plain.

    They are stored, shown and kept in the history: a secret in them is one no longer. The error names the place, never the value.
    """
    place = next(_plain_secrets(params, ()), None)
    if place is None:
        return
    where = ".".join(place)
    raise OperationError(
        TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
        f"params hold a secret in plain at {where}: params are stored and shown. Put it into a credential (password_env, "
        "password_file, token_env, … of [credentials.<name>] in OPERATIONS_CONFIG_PATH), and name that: credential = <name>. "
        "If it has been in use, change it",
        details={"field": where},
    )


def redacted(value: Any, most: int = 500) -> Any:
    """Parameters as they may be kept in an audit: no secret in them, and no long text."""
    match value:
        case dict():
            named = _named_value(value)
            return {
                str(key): HIDDEN if _is_secret(str(key), item) or (key == "value" and named) else redacted(item, most)
                for key, item in value.items()
            }
        case list() | tuple():
            return [redacted(item, most) for item in value]
        case str():
            text = HIDDEN if _holds_secret(value) else value
            return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"
    return value


def _plain_secrets(value: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    match value:
        case dict():
            if _named_value(value):
                yield (*place, "value")
            for key, item in value.items():
                here = (*place, str(key))
                if _is_secret(str(key), item):
                    yield here
                yield from _plain_secrets(item, here)
        case list() | tuple():
            for number, item in enumerate(value):
                yield from _plain_secrets(item, (*place, str(number)))
        case str():
            if _holds_secret(value):
                yield place


def _is_secret(key: str, value: Any) -> bool:
    match value:
        case str():
            return value != "" and is_secret_name(key)
        case bool() | None:
            return False
        case int() | float():
            return is_numeric_secret_name(key)
        case list() | tuple():
            return is_secret_name(key) and any(isinstance(item, str) and item for item in value)
    return False


def _named_value(value: dict[Any, Any]) -> bool:
    """``{"name": "DB_PASSWORD", "value": "…"}``, as containers have it."""
    name = value.get("name", value.get("key"))
    return isinstance(name, str) and is_secret_name(name) and _is_secret(name, value.get("value"))


def _holds_secret(text: str) -> bool:
    """A private key, ``PASSWORD=…`` or ``--token=…`` as a word of its own, a URL with a password in it."""
    if "PRIVATE KEY-----" in text or _URL_PASSWORD.search(text):
        return True
    assigned = _ASSIGNED.fullmatch(text)
    return assigned is not None and is_secret_name(assigned[1])
