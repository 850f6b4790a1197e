"""Forgetting on a real Kafka: by a connector that runs, in place of one that does not, and by the cleaner."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.store.qdrant import QdrantStore
from tests.integration.test_kafka_workers import collection, deployment, write
from tests.support.deployment import Deployment
from tests.support.kafka import clean_soon
from tests.support.shared_kafka import SharedKafka

__all__ = ["deployment"]

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(900)]

SECRET = "QxZjKw19VbPt"
DAY = 86_400.0


def place(receipt: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in receipt["places"] if one["place"] == name]
    return dict(found)


def seconds(moment: str) -> float:
    return datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def test_a_document_is_forgotten_with_and_without_its_connector_and_the_cleaner_does_the_rest(
    deployment: tuple[Deployment, QdrantStore], kafka: SharedKafka, fresh: str
) -> None:
    made, store = deployment
    random_ = random.Random(1)
    for number in range(20):
        write(made.documents / f"doc-{number}.md", random_)
    for name in ("one", "two", "three"):
        (made.documents / f"{name}.md").write_text(f"# {name}\n\nThe word is {SECRET} in {name}.\n")
    made.ask("topics", "apply")
    workers = [made.begin("work", stage) for stage in ("chunk", "embed")]
    connector = made.begin("connect", "filesystem")
    for command in (*workers, connector):
        command.ready()
    made.quiet(23)
    # The connector runs, and carries it out.
    asked = time.time()
    receipt = json.loads(made.ask("forget", "docs:one.md", "--out", "one.json", "--json"))
    assert receipt["state"] == "waiting", receipt["places"]
    documents = place(receipt, "documents topic")
    assert (documents["state"], documents["found"]) == ("waiting", 1), "it is read there, and says so"
    assert asked + 7 * DAY - 5 <= seconds(documents["until"]) <= time.time() + 7 * DAY + 5
    assert seconds(receipt["latest"]) >= seconds(documents["until"])
    for name in ("collection", "chunks topic", "dead letters", "workers"):
        assert place(receipt, name)["state"] == "gone", name
    assert connector.process.poll() is None
    (made.documents / "one.md").write_text(f"# one\n\nEdited: {SECRET}.\n")
    # The connector is down: the command takes its transactional id over.
    assert connector.stop() == 0
    receipt = json.loads(made.ask("forget", "docs:two.md", "--json"))
    assert receipt["state"] == "waiting", receipt["places"]
    (done,) = receipt["requests"]
    assert done["deletes"] == 1
    connector = made.start("connect", "filesystem")
    made.quiet(21)
    # It hangs: taken over although it runs, it is fenced when it wakes.
    connector.pause()
    receipt = json.loads(made.ask("forget", "docs:three.md", "--take-over", "--json"))
    assert receipt["state"] == "waiting", receipt["places"]
    (made.documents / "three.md").write_text(f"# three\n\nEdited: {SECRET}.\n")
    connector.resume()
    assert connector.process.wait(60) == 3, connector.errors()
    connector = made.start("connect", "filesystem")
    (made.documents / "doc-0.md").unlink()
    made.quiet(19)
    found = collection(store, fresh)
    chunks, _ = found.scan_chunks(limit=1000)
    assert not [chunk for chunk in chunks if SECRET in chunk.text]
    # In time the cleaner removes the old records, and the newer receipt says so. A quiet partition needs a record.
    clean_soon(kafka.bootstrap, [f"{fresh}.it.documents.0", f"{fresh}.it.connector-state"])
    deadline = time.monotonic() + 120
    while True:
        time.sleep(1.5)
        made.ask("forget", "docs:one.md", "--json")
        newer = json.loads(made.ask("forget", "--receipt", "one.json", "--json"))
        if newer["state"] == "gone":
            break
        assert time.monotonic() < deadline, newer["places"]
    assert newer["latest"] is None
    versions = json.loads(made.ask("explain", "docs:one.md", "--json"))["versions"]
    assert {one["kind"] for one in versions} == {"deleted"}
    assert connector.process.poll() is None
    # And gc takes the deletes that have nothing before them.
    found_ = json.loads(made.ask("gc", "--older-than", "0", "--apply", "--json"))
    assert found_["deletes"]["docs"] >= 1
    made.quiet(19)
    for command in (connector, *workers):
        assert command.stop() == 0, command.errors()
