"""LOG_FORMAT=json gives one object a line."""

from __future__ import annotations

import json
import logging
import sys

from avtomatika.logs import JSONFormatter, use_format
from avtomatika.settings import read_settings


def test_a_record_with_extra_and_a_traceback_is_one_line_of_json() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.getLogger("a.b").makeRecord(
            "a.b", logging.WARNING, "f.py", 1, "job %s", ("7",), sys.exc_info(), extra={"action": "run", "job_id": "7"}
        )

    line = JSONFormatter().format(record)

    assert "\n" not in line
    said = json.loads(line)
    assert said["level"] == "WARNING"
    assert said["logger"] == "a.b"
    assert said["message"] == "job 7"
    assert (said["action"], said["job_id"]) == ("run", "7")
    assert said["time"].endswith("+00:00")
    assert "ValueError: broken" in said["traceback"]


def test_text_leaves_a_handler_as_it_is() -> None:
    handler = logging.StreamHandler()

    use_format(read_settings(log_format="text"), [handler])
    assert handler.formatter is None

    use_format(read_settings(log_format="json"), [handler])
    assert isinstance(handler.formatter, JSONFormatter)
