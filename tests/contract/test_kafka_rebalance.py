"""Rebalances of a real Kafka: every partition has a reader again, whatever became of its last one."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.ports import Consumer
from tests.contract.brokers import joined, kafka_broker, soon, topic
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
