"""Logs: one JSON object a line for machines, plain lines for terminals; quiet in normal operation."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """``time``, ``level``, ``event``, and the fields given as ``extra``; all control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """For people. Text from documents can hold control characters: they are shown escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, more only for a traceback."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower():7} "
        line += printable(f"{record.getMessage()} {fields}".rstrip())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def printable(text: str) -> str:
    """The text with control characters, lone surrogates and bidi overrides escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def configure(level: str, style: Literal["json", "text"]) -> None:
    """Set up logging for a process: to standard error, libraries from warnings on only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("pipeline", "connectors"):
        logging.getLogger(ours).setLevel(level.upper())
    # kafka-python logs a warning a second through an outage, which our health and metrics tell.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
