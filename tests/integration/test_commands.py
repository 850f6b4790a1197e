"""Commands that look after an index: the configuration and the dead letters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.naming import Names
from pipeline.ports import NewRecord
from tests.support.deployment import Deployment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

CONFIGURATION = """
[model]
provider = "hashing"
name = "hashing"
[embed]
flush_seconds = 0.3
[http]
token = "hunter2"
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, CONFIGURATION)
    yield made
    made.end()


def letters(made: Deployment) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(made.ask("dead-letters", "list", "--json"))["dead_letters"]
    return found


def test_the_effective_configuration_is_shown_without_its_secrets(made: Deployment) -> None:
    shown = json.loads(made.ask("config", "check", "--json"))
    assert shown["model"]["provider"] == "hashing"
    assert shown["http"]["token"] == "**********"
    assert "hunter2" not in made.ask("config", "check")


def test_a_record_that_nobody_can_read_is_listed_shown_kept_by_replay_and_dropped(made: Deployment) -> None:
    # Given a log with a record that was cut off
    (made.documents / "a.md").write_text("text\n")
    made.start("up", "docs")
    made.quiet(1)
    assert made.running[-1].stop() == 0
    broker = EmbeddedBroker(made.folder / ".vectide" / "log")
    topic = Names("vectide", "default").documents(0)
    headers = (("vectide-kind", b"changed"), ("vectide-schema", b"1"), ("vectide-event-time", b"1.0"))
    broker.publisher("test").publish([NewRecord(topic, b"broken", b'{"text": "cut o', headers)], Deadline.after(5))
    broker.close()
    # When a pipeline meets it
    made.start("up", "docs")
    deadline = time.monotonic() + 60
    while made.status()["dead_letters"] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.7)
    made.quiet(1)
    # Then it says so, and keeps what it was
    (letter,) = letters(made)
    assert letter["reason"] == "malformed_record"
    assert letter["stage"] == "chunk"
    shown = made.ask("dead-letters", "show", str(letter["id"]))
    assert "cut o" in shown
    # A replay that fails in the same way keeps the letter, and exits with 1
    assert "kept" in made.ask("dead-letters", "replay", "--all", code=1)
    assert len(letters(made)) == 1
    made.ask("dead-letters", "drop", str(letter["id"]))
    assert letters(made) == []
    assert "no dead letter" in made.ask("dead-letters", "show", str(letter["id"]), code=2)
    assert made.running[-1].stop() == 0
    assert letters(made) == [], "also with no process running"
