"""Real processes on a real Kafka that are told to stop: they finish, commit, leave, and nothing is done twice."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.reading import to_the_end
from pipeline.config import load
from pipeline.naming import Names
from tests.integration.test_kafka_workers import CONFIGURATION
from tests.support.commands import run
from tests.support.deployment import Deployment, loopback_qdrant
from tests.support.probing import Probed, members, until
from tests.support.shared_kafka import SharedKafka

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(900)]

DOCUMENTS = 240
#: A member that only stops reading is in its group for so long: longer than a test takes.
SESSION = "session_timeout_seconds = 40"


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loopback_qdrant(tmp_path_factory.mktemp("qdrant")) as url:
        yield url


class Pipeline:
    """A deployment, and what its log and its groups say."""

    def __init__(self, made: Deployment, kafka: SharedKafka, prefix: str) -> None:
        self.made, self.kafka = made, kafka
        self.config = load(made.folder / "vectide.toml", {})
        self.names = Names(prefix, "it")
        self.broker = KafkaBroker(self.config.kafka, "test")

    def group(self, stage: str) -> str:
        (found,) = [group for group in self.broker.groups(self.names.root) if f".{stage}." in group]
        return found

    @property
    def chunks(self) -> str:
        (found,) = [name for name in self.broker.topics(self.names.root) if ".chunks." in name]
        return found

    def records(self, topic: str) -> list[Any]:
        return list(chain.from_iterable(to_the_end(self.broker.reader(topic), topic, 500, 30.0)))

    def status(self) -> dict[str, Any]:
        """``vectide status``, in this process."""
        return self.made.status()

    def behind(self, stage: str, topic: str) -> int:
        """Records that the next worker will read."""
        committed = self.broker.committed(self.group(stage), topic)
        return sum(record.offset >= committed.get(record.partition, 0) for record in self.records(topic))


@pytest.fixture
def pipeline(kafka: SharedKafka, qdrant: str, fresh: str, tmp_path: Path) -> Iterator[Pipeline]:
    configuration = CONFIGURATION.format(prefix=fresh, kafka=kafka.bootstrap, qdrant=qdrant)
    configuration = configuration.replace("session_timeout_seconds = 6", SESSION)
    # Small batches: a worker cannot finish everything that it has read before it must end.
    made = Deployment(tmp_path, configuration.replace("[embed]", "[embed]\ngather_documents = 4"))
    found = Pipeline(made, kafka, fresh)
    assert run(tmp_path, "topics", "apply").code == 0
    try:
        yield found
    finally:
        made.end()
        found.broker.close()


def fill(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"d{number}.md").write_text(
            f"# Document {number}\n\nThe words of number w{number} and of no other.\n"
        )


def in_the_middle(worker: Probed, stage: str) -> bool:
    """Whether it has done some of its work, and has not done more of it."""
    done, left = (worker.metric(name, stage=stage) for name in ("records_processed_total", "inflight_records"))
    return min(done, left) > 0


def test_whoever_is_told_to_stop_finishes_commits_leaves_and_repeats_nothing(pipeline: Pipeline) -> None:
    """Given each command in the middle of its work, when it gets SIGTERM, then it ends with 0, its group is
    empty at once, and its successor does what is left, and nothing else.
    """
    made, names = pipeline.made, pipeline.names
    documents = names.documents(0)
    fill(made.documents, DOCUMENTS)
    # A connector, during its first scan
    connector = made.begin("connect", "filesystem")
    until(lambda: any(bounds.end for bounds in pipeline.broker.offsets(documents).values()), connector.errors)
    assert connector.stop() == 0, connector.errors()
    connector = made.start("connect", "filesystem")
    until(lambda: len(pipeline.records(documents)) >= DOCUMENTS)
    # A chunk worker, with hundreds of documents read
    held = made.folder / "held"
    held.touch()
    first = Probed(made, "work", "chunk", cut=held)
    until(lambda: in_the_middle(first, "chunk"), first.command.errors)
    first.command.process.terminate()
    until(lambda: "stopping" in first.get("/readyz")[1] or first.command.process.poll() is not None)
    held.unlink()
    assert first.command.stop() == 0, first.command.errors()
    assert members(pipeline.kafka.bootstrap, pipeline.group("chunk")) == 0
    cut = len(pipeline.records(pipeline.chunks))
    left = pipeline.behind("chunk", documents)
    assert (cut + left, cut > 0) == (DOCUMENTS, True)
    second = Probed(made, "work", "chunk")
    until(lambda: len(pipeline.records(pipeline.chunks)) == DOCUMENTS and pipeline.behind("chunk", documents) == 0)
    assert second.metric("records_consumed_total", stage="chunk") == left
    # An embed worker that cannot do all of it in its time; and it is told twice
    first = Probed(made, "work", "embed", **{"pass": 1})
    until(lambda: in_the_middle(first, "embed"), first.command.errors)
    first.command.process.terminate()
    until(lambda: "stopping" in first.get("/readyz")[1] or first.command.process.poll() is not None)
    first.command.process.send_signal(signal.SIGTERM)
    assert first.command.stop() == 0, first.command.errors()
    assert members(pipeline.kafka.bootstrap, pipeline.group("embed")) == 0
    left = pipeline.behind("embed", pipeline.chunks)
    assert 0 < left < DOCUMENTS
    third = Probed(made, "work", "embed")
    until(lambda: pipeline.behind("embed", pipeline.chunks) == 0, third.command.errors)
    assert third.metric("records_consumed_total", stage="embed") == left
    assert third.command.stop() == 0, third.command.errors()  # with its last report
    status = pipeline.status()
    assert status["chunks_embedded"] == status["chunks"] == DOCUMENTS
    assert status["chunks_reused"] == 0
    # Both workers of a stage at once, as in a rollout
    others = [made.start("work", "chunk")]
    for path in made.documents.iterdir():
        path.write_text(path.read_text() + "\nAnd more.\n")
    until(lambda: len(pipeline.records(documents)) > DOCUMENTS)
    for one in (second.command, *others):
        one.process.terminate()
    for one in (second.command, *others, connector):
        assert one.stop() == 0, one.errors()
    sent = Counter(record.key for record in pipeline.records(pipeline.chunks))
    committed = len(pipeline.records(documents)) - pipeline.behind("chunk", documents)
    assert sent.total() == committed, "what was sent on is committed, and what is committed was sent on"


def test_a_search_in_flight_is_answered(pipeline: Pipeline) -> None:
    """Given a search that is being answered, when the service is told to stop, then nobody is let in after it, and
    it is answered.
    """
    made = pipeline.made
    fill(made.documents, 3)
    workers = [made.begin("connect", "filesystem"), made.begin("work", "chunk"), made.begin("work", "embed")]
    until(lambda: pipeline.status()["documents"] == 3)
    held = made.folder / "held"
    served = Probed(made, "serve", query=held)
    served.until_probes(200, 200, 200)
    with served.searching(held):
        assert served.get("/livez")[0] == 200, "a search keeps no probe waiting"
        served.command.process.terminate()
        until(lambda: served.get("/livez")[0] == 0)
        assert served.command.process.poll() is None
    assert served.command.stop() == 0, served.command.errors()
    for one in workers:
        assert one.stop() == 0, one.errors()


@pytest.mark.parametrize("stage", ["import", "load"])
def test_a_start_that_is_told_to_stop_ends_at_once_and_joins_no_group(pipeline: Pipeline, stage: str) -> None:
    """Given a process that is still being imported, or loads its model for minutes, then SIGTERM ends it with 0."""
    made = pipeline.made
    marker = made.folder / "hangs"
    worker = Probed(made, "work", "embed", **{stage: marker})
    until(marker.exists, worker.command.errors)
    if stage == "load":
        worker.until_probes(200, 503, 503)
        assert "still starting" in worker.get("/readyz")[1]
        assert [group for group in pipeline.broker.groups(pipeline.names.root) if ".embed." in group] == []
    assert worker.command.stop() == 0, worker.command.errors()
