"""A Kafka that is away, hangs or comes back: bounded waits, and no client has to be restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, TopicMismatch
from pipeline.ports import Consumer, TopicSpec
from tests.contract.brokers import MEGABYTE, at, kafka_broker, read, record, soon, topic, until, values
from tests.support.kafka import KafkaServer
from tests.support.shared_kafka import SharedKafka

pytestmark = pytest.mark.kafka


@pytest.fixture
def own_kafka(kafka: SharedKafka, tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker that this test may hurt."""
    server = KafkaServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_broker_that_is_down_at_the_start_is_unavailable(kafka: SharedKafka, tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable):
        kafka_broker(KafkaServer(tmp_path))


def test_clients_survive_a_broker_that_is_killed_and_started_again(own_kafka: KafkaServer, fresh: str) -> None:
    broker = kafka_broker(own_kafka)
    name = topic(broker, f"{fresh}.a")
    publisher, consumer = broker.publisher("p"), broker.consumer(f"{fresh}.g", [name], "c")
    publisher.publish([record(name, "before")], soon())
    assert values(read(consumer, 1)) == ["before"]
    own_kafka.kill()
    with pytest.raises(BrokerUnavailable):
        publisher.publish([record(name, "lost")], Deadline.after(2))
    with pytest.raises(BrokerUnavailable):
        consumer.commit({at(name): 1}, Deadline.after(2))
    own_kafka.restart()

    def published() -> bool:
        try:
            publisher.publish([record(name, "after")], Deadline.after(5))
        except BrokerUnavailable:
            return False
        return True

    until(published)
    found: list[str] = []

    def came() -> bool:
        try:
            found.extend(values(consumer.poll(0.5, 10).records))
        except BrokerUnavailable:
            return False
        return "after" in found

    until(came)
    consumer.close(Deadline.after(5))
    broker.close()


def test_a_leader_that_was_away_when_brokers_were_asked_for_is_found(kafka: SharedKafka, fresh: str) -> None:
    """Given a client that knows another broker, and not the one that leads again: its connection to that is gone."""
    broker = kafka_broker(kafka)
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, "x")], soon())
    manager = broker._admin._manager  # type: ignore[attr-defined]
    (leader,) = manager.cluster.brokers()
    manager._conns.pop(leader.node_id, None)
    another = type(leader)(leader.node_id + 1, leader.host, leader.port, None)
    manager.cluster._brokers = {another.node_id: another}
    with pytest.raises(BrokerUnavailable, match="UnknownBrokerId"):
        broker.offsets(name)
    assert sum(bounds.end for bounds in broker.offsets(name).values()) == 1
    broker.close()


def test_a_commit_to_a_broker_that_hangs_ends_at_its_deadline(own_kafka: KafkaServer, fresh: str) -> None:
    broker = kafka_broker(own_kafka)
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, "x")], soon())
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    read(consumer, 1)
    own_kafka.pause()
    try:
        with pytest.raises(BrokerUnavailable):
            consumer.commit({at(name): 1}, Deadline.after(1))
    finally:
        own_kafka.resume()
    consumer.close(Deadline.after(5))
    broker.close()


def test_a_member_rests_while_a_broker_that_hangs_owes_it_a_heartbeat(
    own_kafka: KafkaServer, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python alone looks for records thousands of times in each poll then, and keeps something of each."""
    # Far longer than the test: who is out of its group owes it nothing. But it soon owes a heartbeat.
    broker = kafka_broker(own_kafka, session_timeout_seconds=10.0)
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, "x")], soon())
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    consumer._consumer._coordinator.heartbeat.config["heartbeat_interval_ms"] = 300  # type: ignore[attr-defined]
    read(consumer, 1)
    own_kafka.pause()
    try:
        until(lambda: consumer.poll(0.2, 10).records == [] and overdue(consumer))
        looks: list[object] = []
        fetcher = consumer._consumer._fetcher  # type: ignore[attr-defined]
        look = fetcher.fetch_records
        monkeypatch.setattr(fetcher, "fetch_records", lambda *given, **named: looks.append(1) or look(*given, **named))
        for _ in range(5):
            consumer.poll(0.2, 10)
    finally:
        own_kafka.resume()
    assert 5 <= len(looks) <= 5 * 2 * 3  # two rests in each poll, and as many again for a slow machine
    consumer.close(Deadline.after(5))
    broker.close()


def overdue(consumer: Consumer) -> bool:
    """Whether the next heartbeat should have been sent."""
    return bool(consumer._consumer._coordinator.time_to_next_heartbeat() == 0)  # type: ignore[attr-defined]


def test_a_topic_with_settings_that_lose_data_is_refused(kafka: SharedKafka, fresh: str) -> None:
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    configs = {"cleanup.policy": "compact", "retention.ms": "-1", "unclean.leader.election.enable": "true"}
    admin.create_topics({f"{fresh}.a": {"num_partitions": 1, "replication_factor": 1, "configs": configs}})
    admin.close()
    broker = kafka_broker(kafka)
    with pytest.raises(TopicMismatch, match=r"unclean\.leader\.election\.enable"):
        broker.ensure_topics([TopicSpec(f"{fresh}.a", 1, "compact", MEGABYTE)])
    broker.close()
