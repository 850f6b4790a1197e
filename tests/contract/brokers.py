"""Brokers of every kind for the contract, and the little that its tests repeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.reading import to_the_end
from pipeline.config import KafkaConfig
from pipeline.deadline import Deadline
from pipeline.ports import Broker, Consumer, NewRecord, Polled, Record, TopicPartition, TopicSpec
from tests.support.kafka import KafkaServer
from tests.support.shared_kafka import SharedKafka

#: For what a broker does in one or two, on a machine that others have as well.
SECONDS = 120.0
MEGABYTE = 1024 * 1024


def kafka_broker(server: KafkaServer | SharedKafka, **settings: object) -> Broker:
    from pipeline.broker.kafka import KafkaBroker

    config = {"bootstrap_servers": server.bootstrap, "session_timeout_seconds": 6.0, "request_timeout_seconds": 10.0}
    return KafkaBroker(KafkaConfig.model_validate({**config, **settings}), "contract")


def embedded_broker(directory: Path | None) -> Broker:
    return EmbeddedBroker(directory)


def soon() -> Deadline:
    return Deadline.after(SECONDS)


def topic(broker: Broker, name: str, partitions: int = 1, cleanup: str = "delete") -> str:
    broker.ensure_topics([TopicSpec(name, partitions, cleanup, MEGABYTE)])  # type: ignore[arg-type]
    return name


def record(name: str, text: str, partition: int | None = 0) -> NewRecord:
    return NewRecord(name, text.encode(), text.encode(), (), partition)


def values(records: list[Record]) -> list[str]:
    return [(one.value or b"").decode() for one in records]


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true, with a generous deadline."""
    deadline = soon()
    while not true():
        assert not deadline.expired, "it never came true"
        time.sleep(0.02)


def read(consumer: Consumer, count: int) -> list[Record]:
    """Poll until ``count`` records came."""
    found: list[Record] = []
    deadline = soon()
    while len(found) < count:
        assert not deadline.expired, f"{len(found)} of {count} records came"
        found += consumer.poll(0.2, 100).records
    return found


def everything(broker: Broker, name: str) -> list[str]:
    """The values of all records of a topic."""
    return [text for page in to_the_end(broker.reader(name), name, 100, SECONDS) for text in values(page)]


def joined(consumer: Consumer, count: int) -> list[Polled]:
    """Poll until the member holds ``count`` partitions."""
    polls: list[Polled] = []
    deadline = soon()
    while len(consumer.assignment()) != count:
        assert not deadline.expired, f"holds {len(consumer.assignment())} of {count} partitions"
        polls.append(consumer.poll(0.2, 1))
    return polls


def at(name: str, partition: int = 0) -> TopicPartition:
    return TopicPartition(name, partition)
