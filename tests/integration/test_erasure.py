"""Forgetting by commands, as an operator does it: no byte of the text is left, and it does not come back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment
from tests.support.probing import until, until_said

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

CONFIGURATION = """
receipt_key = "hunter2"
[model]
provider = "hashing"
name = "hashing"
[embed]
flush_seconds = 0.3
"""
SECRET = "QxZjKw19VbPt"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, CONFIGURATION)
    for number in range(8):
        (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\nIt is about the number {number}.\n")
    (made.documents / "secret.md").write_text(f"# A secret\n\nThe word is {SECRET}, and nobody may know.\n")
    yield made
    made.end()


def files_with(made: Deployment, text: str) -> list[str]:
    paths = (path for path in (made.folder / ".vectide").rglob("*") if path.is_file())
    return [str(path) for path in paths if text.encode() in path.read_bytes()]


def hits(made: Deployment) -> set[str]:
    return {hit["key"] for hit in json.loads(made.ask("search", "A secret word", "--top", "100", "--json"))["hits"]}


def test_a_document_is_forgotten_proven_kept_out_and_lifted_while_up_runs(made: Deployment) -> None:
    made.start("up", "docs")
    made.quiet(9)
    assert files_with(made, SECRET)
    assert "docs:secret.md" in hits(made)
    said = made.ask("forget", "docs:secret.md", "--out", "receipt.json")
    assert "state              gone" in said
    assert files_with(made, SECRET) == [], "not in the log, its write-ahead files, or the store's segments"
    assert "docs:secret.md" not in hits(made)
    receipt = json.loads((made.folder / "receipt.json").read_text())
    assert SECRET not in json.dumps(receipt)
    assert receipt["state"] == "gone"
    assert {one["place"] for one in receipt["places"]} >= {"collection", "documents topic", "files", "workers"}
    assert "signed with the configured key" in made.ask("receipt", "check", "receipt.json")
    # A forger has no key
    (made.folder / "forged.json").write_text(json.dumps({**receipt, "state": "pending"}))
    assert "was changed" in made.ask("receipt", "check", "forged.json", code=1)
    # It does not come back
    (made.documents / "secret.md").write_text(f"# A secret\n\nEdited: {SECRET}.\n")
    (made.documents / "later.md").write_text("# Later\n\nSomething else.\n")
    made.quiet(9)
    assert "docs:secret.md" not in hits(made)
    assert made.status()["kept_out"] == {"documents": 1, "sources": []}
    assert "kept out      it was forgotten" in made.ask("explain", "docs:secret.md")
    # A newer receipt names the one before
    made.ask("forget", "--receipt", "receipt.json")
    newer = json.loads((made.folder / "receipt.json").read_text())
    assert newer["continues"] == receipt["signature"]["sha256"]
    # What is not known
    assert "nothing is known of docs:nope" in made.ask("forget", "docs:nope", code=2)
    assert "nothing is known of docs:nope" in made.ask("explain", "docs:nope", code=2)
    assert "--yes" in made.ask("forget", "--source", "docs", code=2)
    made.ask("forget", "--lift", "docs:secret.md")
    made.quiet(10)
    assert "docs:secret.md" in hits(made)
    assert made.running[-1].stop() == 0


def test_a_document_is_forgotten_with_no_process_running(made: Deployment) -> None:
    up = made.start("up", "docs")
    made.quiet(9)
    assert up.stop() == 0
    receipt = json.loads(made.ask("forget", "docs:secret.md", "--json"))
    assert receipt["state"] == "gone", receipt["places"]
    assert files_with(made, SECRET) == []
    up = made.start("up", "docs")
    until_said(up, "Watching.")  # it has seen that the file is still there
    made.quiet(8)
    assert "docs:secret.md" not in hits(made)
    (made.documents / "d1.md").unlink()
    made.quiet(7)
    assert up.stop() == 0
    looked = json.loads(made.ask("gc", "--json"))
    assert (looked["applied"], looked["deletes"]) == (False, {}), "thirty days are not over"
    found = json.loads(made.ask("gc", "--older-than", "0", "--apply", "--json"))
    assert found["deletes"] == {"docs": 2}
    assert sum(found["tombstones"].values()) >= 1
    up = made.start("up", "docs")
    made.quiet(7)
    assert up.stop() == 0


def test_a_command_that_is_killed_leaves_a_request_that_is_carried_out_all_the_same(made: Deployment) -> None:
    """Given a command that is killed once `up` has written down what it asks, then the running process does it, and
    the same command again gives the receipt.
    """
    up = made.start("up", "docs")
    made.quiet(9)
    for point in range(2):
        name = f"d{point}.md"
        command = made.begin("forget", f"docs:{name}")
        until(lambda: made.status()["kept_out"]["documents"] > point, command.errors)
        command.kill()
        made.quiet(8 - point)
        assert f"docs:{name}" not in hits(made)
        receipt = json.loads(asked_again(made, f"docs:{name}"))
        assert receipt["state"] == "gone"
        assert f"docs:{name}" not in hits(made)
    made.quiet(7)
    assert up.stop() == 0


def asked_again(made: Deployment, key: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            return made.ask("forget", key, "--json")
        except AssertionError as error:
            # What the killed one began still runs in `up`: exit 7, try again.
            if "exit 7" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.3)
