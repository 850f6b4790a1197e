"""The whole chunk stage over a wire on which anything fails at any time: every version comes through."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import errors

from pipeline.broker.kafka import KafkaBroker
from pipeline.chunking.documents import chunked
from pipeline.codec import decode_chunked, decode_event, encode_event
from pipeline.config import Config, ModelConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import BrokerUnavailable, Transient
from pipeline.identity import DocumentKey, version_of
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import NewRecord, Record
from pipeline.records import DocumentChanged, Provenance
from pipeline.retry import RetryPolicy
from pipeline.stages.chunk import ChunkStage
from pipeline.stages.worker import Worker, WorkerLimits
from tests.support.mock_kafka import CUT, Api, MockKafka
from tests.support.workers import NAMES, Working, working

CONFIG = Config(model=ModelConfig(provider="hashing", name="hashing"))
SPEC = generation_spec(CONFIG)
CUTTER = chunker(SPEC, tokenizer_of(CONFIG.model))
DOCUMENTS, CHUNKS, GROUP = NAMES.documents(0), NAMES.chunks(SPEC.id), NAMES.group("chunk", SPEC.id)
PARTITIONS = 2
#: Every error here passes; any of them may come once, or a few times.
PASSING = {
    Api.PRODUCE: (errors.NotLeaderForPartitionError, errors.NotEnoughReplicasError, errors.UnknownProducerIdError),
    Api.FETCH: (errors.NotLeaderForPartitionError, errors.UnknownLeaderEpochError),
    Api.OFFSET_COMMIT: (errors.NotCoordinatorError, errors.RequestTimedOutError, errors.CoordinatorNotAvailableError),
    Api.HEARTBEAT: (errors.NotCoordinatorError,),
    Api.METADATA: (errors.UnknownTopicOrPartitionError,),
    Api.FIND_COORDINATOR: (errors.CoordinatorNotAvailableError,),
    Api.INIT_PRODUCER_ID: (errors.CoordinatorLoadInProgressError,),
}


def some_fault(cluster: MockKafka, rng: random.Random) -> None:
    api = rng.choice(list(PASSING))
    faults: list[Callable[[], None]] = [
        lambda: cluster.fail(api, rng.choice(PASSING[api]), rng.randint(1, 3)),
        lambda: cluster.fail(api, CUT),
        lambda: cluster.delay(rng.choice([Api.PRODUCE, Api.OFFSET_COMMIT, Api.FETCH]), 0.3),
        lambda: cluster.lead(rng.choice([DOCUMENTS, CHUNKS]), rng.randrange(PARTITIONS), rng.randint(1, 3)),
        lambda: cluster.coordinate(GROUP, rng.randint(1, 3)),
        # Whatever has no answer yet never gets one.
        lambda: (cluster.down(), cluster.up())[0],
    ]
    rng.choice(faults)()


@contextmanager
def chunking(broker: KafkaBroker) -> Iterator[Working]:
    health, metrics = Health(), Metrics()
    patience = Patience(RetryPolicy(0.01, 0.1), health, metrics)
    stage = ChunkStage(
        broker, broker.publisher("chunk"), NAMES, SPEC, 0, CUTTER, 10_000, patience, health, metrics
    )  # fmt: skip
    consumer = broker.consumer(GROUP, [DOCUMENTS], "chunk")
    worker = Worker(consumer, stage, WorkerLimits(commit_seconds=0.05, drain_seconds=5), health, metrics)
    made = Working()
    with working(worker, made.failure):
        yield made
    assert not made.failure, made.failure


def write(broker: KafkaBroker, number: int, partition: int) -> None:
    """As a connector does: again until it is acknowledged."""
    event = DocumentChanged(
        DocumentKey("s", f"d{number}"), f"# {number}\n\nText {number}.", {}, "text/markdown", "d", Provenance(1.0)
    )
    publisher = broker.publisher("test")
    while True:
        try:
            publisher.publish([NewRecord(DOCUMENTS, *encode_event(event), partition)], Deadline.after(10))
            publisher.close(Deadline.after(1))
            return
        except BrokerUnavailable:
            continue


def records(broker: KafkaBroker, topic: str) -> list[Record]:
    reader, found = broker.reader(topic), []
    while not reader.caught_up():
        found += reader.poll(0.2, 1000)
    reader.close()
    return found


def differences(broker: KafkaBroker) -> list[str]:
    """Where the chunks topic does not have what the documents topic says."""
    there = {(one.partition, found.version): found for one in records(broker, CHUNKS) if (found := decode_chunked(one))}
    wrong = []
    for record in records(broker, DOCUMENTS):
        event = decode_event(record)
        assert event is not None
        wanted = chunked(event, version_of(0, record.offset), SPEC.id, CUTTER)
        if there.pop((record.partition, wanted.version), None) != wanted:
            wrong.append(f"{record.partition}@{record.offset} is missing, or another")
    return [*wrong, *(f"{place} is of no document" for place in there)]


@pytest.fixture(autouse=True)
def topics(cluster: MockKafka) -> None:
    for topic in (DOCUMENTS, CHUNKS):
        cluster.topic(topic, PARTITIONS)
    cluster.topic(NAMES.dead_letters)


def quiet(broker: KafkaBroker) -> bool:
    return not sum(broker.lag(GROUP, DOCUMENTS).values())


def test_every_version_comes_through(cluster: MockKafka, broker: KafkaBroker, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    with chunking(broker) as at_work:
        for number in range(30):
            some_fault(cluster, rng)
            write(broker, number, rng.randrange(PARTITIONS))
        cluster.heal()
        at_work.until(lambda: quiet(broker))
    assert differences(broker) == []
    assert records(broker, NAMES.dead_letters) == []


def test_a_stage_that_goes_on_after_an_error_is_found_out(
    cluster: MockKafka, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: Patience, dependency: str, operation: Callable[[], Any], part: str = "") -> Any:
        try:
            return operation()
        except Transient:
            return None  # as "log it and continue" does

    monkeypatch.setattr(Patience, "until_done", careless)
    for number in range(3):
        write(broker, number, 0)
    cluster.fail(Api.PRODUCE, errors.UnknownProducerIdError)
    with chunking(broker) as at_work:
        at_work.until(lambda: quiet(broker))
    assert differences(broker) != []
