"""Rebalances of a real Kafka: every partition has a reader again, whatever became of its last one."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import BrokerUnavailable, PartitionsLost
from pipeline.ports import Consumer, Record, TopicPartition
from tests.contract.brokers import joined, kafka_broker, record, soon, topic
from tests.support.shared_kafka import SharedKafka

pytestmark = pytest.mark.kafka


def coordinator(consumer: Consumer) -> Any:
    """Of kafka-python."""
    return consumer._consumer._coordinator  # type: ignore[attr-defined]


def held(consumers: list[Consumer], each: list[int]) -> None:
    """Poll until each holds so many partitions."""
    deadline = soon()
    while sorted(len(one.assignment()) for one in consumers) != each:
        for one in consumers:
            one.poll(0.05, 1)
        assert not deadline.expired, [sorted(at.partition for at in one.assignment()) for one in consumers]


def test_members_that_have_lost_the_same_partitions_share_all_of_them_again(kafka: SharedKafka, fresh: str) -> None:
    """Given one that hung, another that took its partitions over, and a coordinator that forgot both."""
    broker = kafka_broker(kafka, session_timeout_seconds=2.0)
    name = topic(broker, f"{fresh}.a", partitions=6)
    first, second = (broker.consumer(f"{fresh}.g", [name], client) for client in "ab")
    held([first, second], [3, 3])
    # As the answer UNKNOWN_MEMBER_ID does it; a member without a generation sends no heartbeats.
    coordinator(second).reset_generation()
    joined(first, 6)
    coordinator(first).reset_generation()
    held([first, second], [3, 3])
    for one in (first, second):
        one.close(soon())
    broker.close()


def test_a_member_that_polls_no_more_leaves_by_itself_and_joins_again_without_a_gap(
    kafka: SharedKafka, fresh: str
) -> None:
    """Its heartbeats go on all the while: without `max_poll_interval_seconds` it would keep what it does not read."""
    broker, brief = kafka_broker(kafka), kafka_broker(kafka, max_poll_interval_seconds=2.0)
    name = topic(broker, f"{fresh}.a", partitions=4)
    publisher = broker.publisher("test")
    publisher.publish([record(name, f"{at}-{n}", at) for at in range(4) for n in range(3)], soon())
    publisher.close(soon())
    steady, slow = broker.consumer(f"{fresh}.g", [name], "a"), brief.consumer(f"{fresh}.g", [name], "b")
    deadline, seen = soon(), set()
    while not (
        len(seen) == 12
        and len(slow.assignment()) == len(steady.assignment()) == 2
        and coordinator(slow).stable()  # in the middle of a join it sends no heartbeats, and is given up anyway
    ):
        seen |= places(slow.poll(0.05, 100).records + steady.poll(0.05, 100).records)
        assert not deadline.expired, seen
    # What it holds it has read, and not committed.
    lost, again = slow.assignment(), set()
    while not (len(steady.assignment()) == 4 and again >= {(at, offset) for at in lost for offset in range(3)}):
        again |= places(steady.poll(0.2, 100).records)
        assert not deadline.expired, "it keeps what it does not read"
    with pytest.raises((PartitionsLost, BrokerUnavailable)):
        slow.commit(dict.fromkeys(lost, 3), soon())
    assert steady.committed(lost) == {}
    deadline, revoked = soon(), frozenset[TopicPartition]()
    while not (revoked and len(slow.assignment()) == 2):
        polled = slow.poll(0.05, 100)
        assert revoked or not polled.records or polled.revoked, "it reads on where it was"
        revoked |= polled.revoked
        steady.poll(0.05, 100)
        assert not deadline.expired, "it was not told, or does not join again"
    assert revoked == lost
    for one in (slow, steady):
        one.close(soon())
    for each in (broker, brief):
        each.close()


def places(records: list[Record]) -> set[tuple[TopicPartition, int]]:
    return {(TopicPartition(one.topic, one.partition), one.offset) for one in records}
