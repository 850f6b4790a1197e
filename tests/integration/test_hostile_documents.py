"""Documents that speak to terminals, logs and metrics: nothing of `vectide` passes it on."""

from __future__ import annotations

import json
import os
import re
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import NewRecord
from tests.support.commands import run
from tests.support.deployment import Deployment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

#: Clears the screen, writes to the clipboard, sets the title, is 8-bit CSI, turns text round, ends the line.
SPEAKS = "\x1b[2J\x1b]52;c;cm0=\x07\x1b]0;owned\x07\u009b31m\u202egnp.exe\u202c\u2066\r\x08\x7f\u2028end"
NAMES = ["\x1b[31mred.md", "two\nlines.md", "\u202efdp.md", "a..b.md", "%2e%2e%2fetc.md", "-rf.md", "{}.md"]

CONFIGURATION = """
[model]
provider = "hashing"
name = "hashing"
[pipeline]
filter_fields = {{ source = "keyword", tags = "keyword" }}
[embed]
flush_seconds = 0.3
[http]
token = "{token}"
[log]
level = "debug"
format = "{format}"
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, CONFIGURATION.format(token="t0ken", format="json"))
    yield made
    made.end()


def harmless(shown: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in shown)


def shown(made: Deployment, *arguments: str, code: int | None = 0) -> str:
    """What a command writes to standard output; what it writes anywhere is looked at."""
    done = run(made.folder, *arguments)
    assert code is None or done.code == code, done.shown
    assert harmless(done.shown), f"{arguments}: {done.shown!r}"
    return done.out


def test_nothing_that_a_document_says_reaches_a_terminal_a_log_or_a_metric(made: Deployment) -> None:
    for number, name in enumerate(NAMES):
        said = json.dumps(SPEAKS)
        front = f"---\ntitle: {said}\ntags: [{said}, t{number}]\n---\n"
        (made.documents / name).write_text(f"{front}# {SPEAKS}\n\nneedle {SPEAKS}\n")
    unreadable = made.documents / "un\x1b[2Jreadable.md"
    unreadable.write_text("x")
    unreadable.chmod(0)
    up = made.start("up", "docs")
    made.quiet(len(NAMES) + (os.getuid() == 0))
    # When it is searched, by people and by programs
    for_people = shown(made, "search", "needle", "--top", "20")
    assert "needle" in for_people
    assert "\\x1b[2J" in for_people, "what was there can be seen"
    answer = json.loads(shown(made, "search", "needle", "--top", "20", "--json"))
    assert {hit["key"] for hit in answer["hits"]} >= {DocumentKey("docs", name).text for name in NAMES}
    assert any(SPEAKS[:4] in hit["text"] for hit in answer["hits"]), "a program gets it as it is"
    tagged = json.loads(shown(made, "search", "needle", "--json", "--filter", f"tags={SPEAKS}"))
    assert len(tagged["hits"]) >= 5
    assert (
        json.loads(shown(made, "search", "needle", "--json", "--filter", "tags=t3"))["hits"][0]["key"] == "docs:a..b.md"
    )
    assert up.stop() == 0
    # And when a record is broken
    broker = EmbeddedBroker(made.folder / ".vectide" / "log")
    topic = Names("vectide", "default").documents(0)
    headers = (("vectide-kind", SPEAKS.encode()), ("vectide-schema", b"1"), ("vectide-event-time", b"1.0"))
    key = DocumentKey("docs", f"no{SPEAKS}.md").to_bytes()
    broker.publisher("test").publish([NewRecord(topic, key, SPEAKS.encode(), headers)], Deadline.after(5))
    broker.close()
    up = made.start("up", "docs")
    made.quiet(len(NAMES) + 1 + (os.getuid() == 0))
    (letter,) = json.loads(shown(made, "dead-letters", "list", "--json"))["dead_letters"]
    for arguments in (("list",), ("show", letter["id"]), ("replay", "--all"), ("drop", letter["id"])):
        shown(made, "dead-letters", *arguments, code=1 if arguments[0] == "replay" else 0)
    shown(made, "dead-letters", "show", f"none{SPEAKS}", code=2)
    shown(made, "search", "needle", "--filter", f"none{SPEAKS}=x", code=2)
    shown(made, "up", f"none{SPEAKS[:4]}", code=2)
    shown(made, "status")
    shown(made, "migrate", "status")
    shown(made, "verify", "--source", code=11)  # the broken record's document is in no source
    shown(made, "explain", DocumentKey("docs", NAMES[0]).text)
    shown(made, "gc")
    forgotten = DocumentKey("docs", NAMES[1]).text
    receipt = json.loads(shown(made, "forget", forgotten, "--json", "--out", "receipt.json", code=None))
    receipt["places"] = [{**one, "place": SPEAKS, "until": SPEAKS} for one in receipt["places"]]
    (made.folder / "forged.json").write_text(json.dumps(receipt))
    shown(made, "receipt", "check", "receipt.json")
    shown(made, "receipt", "check", "forged.json", code=None)
    # Then the log has one object a line, the metrics have their own labels, and the folder is its owner's
    url = json.loads((made.folder / ".vectide" / "endpoint.json").read_text())["url"]
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as metrics:
        exposition = metrics.read().decode()
    assert harmless(exposition)
    assert set(re.findall(r'="([^"]*(?:needle|owned|docs:|\.md)[^"]*)"', exposition)) == set()
    assert up.stop() == 0
    state = made.folder / ".vectide"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for path in state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert path.is_dir() or b"t0ken" not in path.read_bytes(), path
    lines = [line for log in made.folder.glob("up-*.log") for line in log.read_text().split("\n") if line]
    assert len(lines) > 10
    for line in lines:
        assert harmless(line)
        if not line.startswith(("in step after", "Watching.")):
            json.loads(line)


def test_another_token_than_the_running_process_has_is_told_so(made: Deployment) -> None:
    (made.documents / "a.md").write_text("text")
    made.start("up", "docs")
    made.quiet(1)
    (made.folder / "vectide.toml").write_text(CONFIGURATION.format(token="an0ther", format="text"))
    told = made.ask("search", "text", code=2)
    assert "http.token" in told
    assert "t0ken" not in told
    assert "an0ther" not in told
