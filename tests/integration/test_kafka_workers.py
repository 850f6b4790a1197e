"""Several real workers on a real Kafka and a loopback Qdrant, some of which are killed or hang."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.points import Sweep
from pipeline.ports import Collection
from pipeline.store.qdrant import QdrantSettings, QdrantStore
from tests.support.deployment import Deployment, loopback_qdrant
from tests.support.kafka import KafkaServer
from tests.support.probing import until_said
from tests.support.shared_kafka import SharedKafka

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(900)]

CONFIGURATION = """
broker = "kafka"
store = "qdrant"
[pipeline]
prefix = "{prefix}"
name = "it"
partitions = 6
[model]
provider = "hashing"
name = "hashing"
[kafka]
bootstrap_servers = "{kafka}"
session_timeout_seconds = 6
[qdrant]
url = "{qdrant}"
[embed]
delete_grace_seconds = 1
[sources.docs]
connector = "filesystem"
path = "docs"
"""


@pytest.fixture
def deployment(kafka: SharedKafka, fresh: str, tmp_path: Path) -> Iterator[tuple[Deployment, QdrantStore]]:
    with loopback_qdrant(tmp_path / "qdrant") as url:
        made = Deployment(tmp_path, CONFIGURATION.format(prefix=fresh, kafka=kafka.bootstrap, qdrant=url))
        store = QdrantStore(QdrantSettings(url))
        try:
            yield made, store
        finally:
            made.end()
            store.close()


def collection(store: QdrantStore, fresh: str) -> Collection:
    (name,) = store.names(f"{fresh}.it.")
    return store.open(name)


def write(path: Path, random_: random.Random) -> None:
    """A document that shares some paragraphs with others, so that vectors are reused too."""
    words = [f"word{random_.randrange(400)}" for _ in range(40)]
    shared = [f"Shared paragraph number {random_.randrange(30)} says the same everywhere." for _ in range(2)]
    paragraphs = [" ".join(words[start : start + 10]) + "." for start in range(0, 40, 10)]
    path.write_text(f"# Title {random_.randrange(1000)}\n\n" + "\n\n".join(paragraphs + shared) + "\n")


def test_workers_come_go_hang_and_die_and_the_store_equals_the_log(
    deployment: tuple[Deployment, QdrantStore], fresh: str
) -> None:
    made, store = deployment
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    for number in range(300):
        write(made.documents / f"doc-{number}.md", random_)
    made.ask("topics", "apply")
    # Given two workers of each stage
    chunkers = [made.begin("work", "chunk") for _ in range(2)]
    embedders = [made.begin("work", "embed") for _ in range(2)]
    connector = made.begin("connect", "filesystem")
    for command in (*chunkers, *embedders, connector):
        command.ready()
    # When one embedder is killed in the middle, and the other one hangs past its session timeout
    embedders[0].kill()
    for number in range(0, 300, 3):
        write(made.documents / f"doc-{number}.md", random_)
    replacement = made.start("work", "embed")
    embedders[1].pause()
    chunkers[0].kill()
    for number in range(1, 300, 7):
        (made.documents / f"doc-{number}.md").unlink()
    for number in range(2, 300, 11):
        old = made.documents / f"doc-{number}.md"
        if old.exists():
            old.rename(made.documents / f"renamed-{number}.md")
    time.sleep(9)  # longer than the session timeout: its partitions belong to another by now
    embedders[1].resume()  # the zombie goes on where it was
    for number in range(0, 300, 5):
        path = made.documents / f"doc-{number}.md"
        if path.exists():
            write(path, random_)
    # Then, once it is quiet, nothing is lost, stale or twice
    status = made.quiet(len(made.truth()))
    made.until_equal(collection(store, fresh), "docs")
    assert status["dead_letters"] == 0
    assert status["oldest_unprocessed_event_age_seconds"] == 0
    # And verify says so too; what is planted it finds, repairs while the workers run, and finds no more
    verified = made.report("verify", "--sample", "100", "--source")
    assert (verified["equal"], verified["documents"]) == (True, len(made.truth()))
    stored = collection(store, fresh)
    heads, _ = stored.scan_heads(None, 8)
    chunked = next(one for one in heads if one.chunks)
    stored.sweep([Sweep(chunked.doc, frozenset(), chunked.stamp)])
    assert made.report("verify", code=11)["findings"]["unfinished"]["examples"] == [chunked.key.text]
    assert made.report("verify", "--fix")["again"]["ok"]
    assert made.differences(stored, "docs") == []
    # And a search through the command line finds what a document says
    answer = json.loads(made.ask("search", "Shared paragraph number 3", "--json", "--top", "3"))
    assert {"key", "score", "text", "span", "metadata"} <= answer["hits"][0].keys()
    assert "Shared paragraph" in answer["hits"][0]["text"]
    # And the workers that are asked to stop do so, with their work committed
    for command in (chunkers[1], embedders[1], replacement, connector):
        assert command.stop() == 0, command.errors()


def test_a_worker_that_starts_before_kafka_waits_for_it(kafka: SharedKafka, fresh: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = KafkaServer(tmp_path / "own")
    with loopback_qdrant(tmp_path / "qdrant") as url:
        made = Deployment(tmp_path, CONFIGURATION.format(prefix=fresh, kafka=own.bootstrap, qdrant=url))
        try:
            worker = made.begin("work", "chunk")
            until_said(worker, '"waiting"')
            assert worker.process.poll() is None, worker.errors()
            assert worker.stop() == 0, "it stops while it waits"
            own.start()
            made.ask("topics", "apply")
            made.start("work", "chunk")
        finally:
            made.end()
            own.stop()


def test_a_search_service_that_starts_first_waits_for_the_first_collection(
    deployment: tuple[Deployment, QdrantStore],
) -> None:
    """Given a generation that a chunk worker has founded, then serve waits until an embed worker has made its
    collection, and answers.
    """
    made, _ = deployment
    (made.documents / "one.md").write_text("# One\n\nThe tide and the moon.\n")
    made.ask("topics", "apply")
    made.start("work", "chunk")
    served = made.begin("serve")
    until_said(served, "no embed worker has made it")
    assert served.process.poll() is None, served.errors()
    made.start("work", "embed")
    assert "ready" in served.ready()
    assert served.stop() == 0
