"""What a line of a log holds of others' texts stays inside of it, and says no password."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.observe.logs import JsonFormatter, TextFormatter, printable, printable_json, printable_lines

HOSTILE = (
    "a\nb",
    'x", "level": "critical", "event": "owned',
    "\x1b]52;c;aGk=\x07\x1b[2J\x1b[31mred",
    "\x9b31m",
    "\u202egpj.exe\u202c",
    "\u2066\u2069\u200f",
    "\r\x08\x7f\x00",
    "\u2028\u2029\x85",
    "\ud800",
    "\U000e0041",
)
SECRET = "hunter2"


def record(message: str, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("pipeline.x", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def failed(message: str) -> logging.LogRecord:
    made = record("failed")
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def harmless(text: str) -> bool:
    """Nothing in it moves a cursor, turns a line round or ends it."""
    return all(char.isprintable() for char in text)


@given(st.text())
@example("\n".join(HOSTILE))
def test_a_text_is_shown_on_one_line_of_printable_characters(text: str) -> None:
    assert harmless(printable(text))
    assert all(harmless(line) for line in printable_lines(text).split("\n"))
    assert printable("plain größe 漢字") == "plain größe 漢字"


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@example(list(HOSTILE))
@example(dict.fromkeys(HOSTILE, "x"))
def test_json_for_a_terminal_says_the_same_and_holds_nothing_that_a_terminal_obeys(value: Any) -> None:
    """JSON itself leaves C1 controls and bidi overrides as they are."""
    for indent in (None, 2):
        shown = printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
        assert json.loads(shown) == value
        assert all(harmless(line) for line in shown.split("\n"))
        shown.encode()  # lone surrogates are escaped, too


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_json_is_one_line_with_the_text_in_its_place(text: str) -> None:
    line = JsonFormatter().format(record("event", document=text, level_="x"))
    assert harmless(line)
    found = json.loads(line)
    assert (found["level"], found["event"], found["document"]) == ("warning", "event", text)
    broken = JsonFormatter().format(failed(text))
    assert harmless(broken)
    assert text in json.loads(broken)["error"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_for_people_is_one_line_and_a_traceback_cannot_speak_to_the_terminal(text: str) -> None:
    assert harmless(TextFormatter().format(record(text, document=text)))
    shown = TextFormatter().format(failed(text))
    assert all(harmless(line) for line in shown.split("\n"))


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_passwords_in_addresses_are_masked_whoever_logged_them(formatter: logging.Formatter) -> None:
    address = f"amqps://me:{SECRET}@host"
    for one in (
        record(f"cannot reach {address}"),
        record("x", error=ValueError(f"cannot reach {address}")),
        record("x", settings={"password": SECRET, "deep": [{"token": SECRET}]}),
        record("x", url=address),
        failed(f"cannot reach {address}"),
    ):
        line = formatter.format(one)
        assert SECRET not in line
        assert "host" in line or "settings" in line


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_bug_is_told_in_the_form_of_every_other_line(where: str) -> None:
    """Given an exception that nobody catches, then it is one JSON object, and shows no password."""
    raises = f"""
import threading
from pipeline.observe.logs import configure
configure("info", "json")
def broken():
    raise RuntimeError("\\x1b[2J\\n amqps://me:{SECRET}@host")
if {where == "main"}:
    broken()
thread = threading.Thread(target=broken)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", raises], capture_output=True, text=True, check=False, timeout=60)
    (line,) = done.stderr.splitlines()
    assert harmless(line)
    assert json.loads(line)["level"] == "critical"
    assert "RuntimeError" in line
    assert SECRET not in line
    assert done.returncode == (1 if where == "main" else 0)
