"""How the entry points log: a line of text, or (LOG_FORMAT=json) one JSON object a line with all that a record carries."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from avtomatika.settings import Settings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}


class JSONFormatter(logging.Formatter):
    """time (ISO 8601, UTC), level, logger, message, what was given as `extra`, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def use_format(settings: Settings, handlers: Iterable[logging.Handler]) -> None:
    """Gives handlers the JSON format where the settings ask for it; text is left as whoever set them up has it."""
    if settings.log_format == "json":
        for handler in handlers:
            handler.setFormatter(JSONFormatter())


def configure(settings: Settings) -> None:
    """Logs to standard error at LOG_LEVEL: for entry points that have no logging of their own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_TEXT))
    use_format(settings, [handler])
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
