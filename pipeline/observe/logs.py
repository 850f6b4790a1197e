"""Logs: one JSON object a line for machines, plain lines for terminals; quiet in normal operation.

What documents, their names and servers' answers put into a line stays inside of it: it can neither
begin another line nor speak to a terminal. Passwords in addresses are masked, whoever logged them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, Literal

from pipeline.masking import masked, without_passwords

log = logging.getLogger(__name__)

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
        return json.dumps(masked(entry), default=lambda value: without_passwords(str(value)), ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """For people. Text from documents can hold control characters: they are shown escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, more only for a traceback."""
        fields = " ".join(f"{name}={value}" for name, value in masked(_fields(record)).items())
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower():7} "
        line += printable(without_passwords(f"{record.getMessage()} {fields}".rstrip()))
        if record.exc_info:
            line += "\n" + printable_lines(without_passwords(self.formatException(record.exc_info)))
        return line


def printable(text: str) -> str:
    """The text with control characters, line breaks, lone surrogates and bidi overrides escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """The same of a text that has lines of its own."""
    return "\n".join(printable(line) for line in text.split("\n"))


def printable_json(text: str) -> str:
    """A JSON document that says the same, with all that :func:`printable` escapes in JSON's own way.

    Args:
        text: made with ``ensure_ascii=False``: what is not ASCII is inside of strings.
    """
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def configure(level: str, style: Literal["json", "text"]) -> None:
    """Set up logging for a process: to standard error, libraries from warnings on only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("pipeline", "connectors"):
        logging.getLogger(ours).setLevel(level.upper())
    # kafka-python logs a warning a second through an outage, which our health and metrics tell; and
    # passwords when it debugs.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # Of a queue of requests the metrics tell.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    sys.excepthook = _unexpected
    threading.excepthook = lambda failed: _unexpected(
        failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback
    )


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug: in the form of every other line, and not as Python would print it."""
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        log.critical("unexpected error: please report it", exc_info=(kind, error, trace))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
