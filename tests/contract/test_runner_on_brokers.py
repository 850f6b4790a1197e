"""The runner of a source on every broker: restarts, fencing, and a broker that is killed under it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer

from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from connectors.state import Known, State
from pipeline.deadline import Deadline
from pipeline.errors import Fenced
from tests.contract.brokers import embedded_broker, kafka_broker
from tests.support.kafka import KafkaServer
from tests.support.pushed import pushing
from tests.support.shared_kafka import SharedKafka
from tests.support.sources import Documents, running, scanned, wait_until


@pytest.fixture(params=["memory", "disk", pytest.param("kafka", marks=pytest.mark.kafka)])
def documents(request: pytest.FixtureRequest, tmp_path: Path, fresh: str) -> Iterator[Documents]:
    if request.param == "kafka":
        broker = kafka_broker(request.getfixturevalue("kafka"))
    else:
        broker = embedded_broker(tmp_path / "log" if request.param == "disk" else None)
    yield Documents(broker, pipeline=fresh)
    broker.close()


def reopened(source: MemorySource) -> MemorySource:
    return MemorySource(source.id, source._documents, _revision=source._revision)


def test_a_restart_publishes_what_changed_and_only_that(documents: Documents, tmp_path: Path) -> None:
    """Given a cache of what was published, a lost one, and none, then each start knows what is in the log."""
    source = MemorySource("m")
    for number in range(40):
        source.put(str(number), f"text {number}")
    scanned(source, documents, tmp_path / "a")
    assert len(documents.events()) == 40
    for state in (tmp_path / "a", tmp_path / "b", None):
        source = reopened(source)
        source.put("7", f"edited with {state}")
        scanned(source, documents, state)
    assert len(documents.events()) == 43
    assert documents.texts() == {path: one.text for path, one in source._documents.items()}


def test_a_second_runner_fences_the_first(documents: Documents) -> None:
    first, second = MemorySource("m"), MemorySource("m")
    with running(first, documents) as one:
        one.wait_scanned()
        with running(second, documents) as other:
            other.wait_scanned()
            first.put("of the first", "x")
            assert isinstance(one.wait_ended(), Fenced)
            second.put("of the second", "x")
            documents.wait_for({"of the second": "x"})


@pytest.mark.kafka
def test_what_lies_behind_the_open_transaction_of_another_source_is_waited_for(kafka: SharedKafka, fresh: str) -> None:
    broker = kafka_broker(kafka)
    documents = Documents(broker, partitions=1, pipeline=fresh)
    topic = documents.names.connector_state
    state = State(broker, topic, "m", None)
    other = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"{fresh}.other")
    other.init_transactions()
    other.begin_transaction()
    other.send(topic, key=b"other", value=b"{}").get(30)
    known = Known("r1", "d1", "f1")
    broker.publisher("test").publish([state.record("doc", known)], Deadline.after(30.0))
    assert broker.offsets(topic)[0].end == 0
    assert broker.offsets(topic, uncommitted=True)[0].end == 2
    later = threading.Timer(0.5, other.commit_transaction)
    later.start()
    state.refresh()
    later.join()
    assert state.get("doc") == known
    state.close()
    other.close()
    broker.close()


@pytest.mark.kafka
def test_a_broker_killed_in_the_middle_of_a_scan(kafka: SharedKafka, tmp_path: Path, fresh: str) -> None:
    """Given a Kafka that is killed while transactions are under way and started again, then the runner
    waits, goes on by itself, and every document is in the log.
    """
    (tmp_path / "kafka").mkdir()
    server = KafkaServer(tmp_path / "kafka")
    server.start()
    broker = kafka_broker(server)
    try:
        documents = Documents(broker, pipeline=fresh)
        source = MemorySource("m")
        for number in range(600):
            source.put(str(number), f"text {number}")
        limits = RunnerLimits(batch_documents=5, publish_seconds=3.0)
        with running(source, documents, tmp_path / "state", limits) as one:
            wait_until(lambda: one.published("changed") >= 50)
            server.kill()
            wait_until(lambda: "broker" in one.health.readyz().reasons)
            assert not one.runner.scanned.is_set()
            server.restart()
            wait_until(one.runner.scanned.is_set)
            wait_until(lambda: one.health.readyz().ok)
        assert documents.texts() == {str(number): f"text {number}" for number in range(600)}
        # A Kafka that dies between a commit's answer and its markers can forget the markers: the
        # records stay unreadable until the source writes there again, so they are published twice.
        extra = len(documents.events()) - 600
        assert 0 <= extra <= limits.batch_documents
        for topic in (documents.names.documents(0), documents.names.connector_state):
            assert broker.offsets(topic) == broker.offsets(topic, uncommitted=True)
    finally:
        broker.close()
        server.stop()


def test_pushed_documents_over_every_broker(documents: Documents, tmp_path: Path) -> None:
    """Given puts, patches that read the log back, a take-over and a restart, then the log has the newest revisions."""
    with pushing(documents, tmp_path / "a") as one, one.client() as client:
        operations = [{"op": "put", "key": f"{n}", "text": f"text {n}", "revision": 5} for n in range(40)]
        answer = client.post("/batches", json={"operations": operations}, headers={"Idempotency-Key": "k"})
        assert {item["status"] for item in answer.json()["items"]} == {202}
        patched = client.patch("/documents/7", json={"metadata": {"team": "a"}}).json()
        (record,) = [one for one in documents.records() if (one.partition, one.offset) == _place(patched)]
        assert record.key is not None
        assert record.key.endswith(b"7")
        with pushing(documents, tmp_path / "b") as other, other.client() as second:
            assert second.delete("/documents/8?revision=9").status_code == 202
            assert client.put("/documents/8", json={"text": "late", "revision": 8}).status_code in (409, 503)
            assert client.put("/documents/9", json={"text": "text 9", "revision": 5}).status_code == 503
            wait_until(lambda: one.failure is not None)
            assert isinstance(one.failure, Fenced)
            one.failure = None
    with pushing(documents) as one, one.client() as client:
        again = client.post("/batches", json={"operations": operations}, headers={"Idempotency-Key": "k"})
        assert again.json() == answer.json()
        assert client.put("/documents/8", json={"text": "late", "revision": 8}).status_code == 409
        assert client.put("/documents/8", json={"text": "new", "revision": 10}).status_code == 202
    found = documents.now()
    assert {path: event.text for path, event in found.items()} == {
        f"{n}": "new" if n == 8 else f"text {n}" for n in range(40)
    }
    assert found["7"].metadata["team"] == "a"


def _place(answer: dict[str, int]) -> tuple[int, int]:
    return answer["partition"], answer["offset"]
