"""The contract of the Broker port, over the embedded log and a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fatal, Fenced, LogDiverged, PartitionsLost, Poison, TopicMismatch
from pipeline.ports import Broker, NewRecord, TopicSpec, Written
from tests.contract.brokers import (
    MEGABYTE,
    at,
    embedded_broker,
    everything,
    joined,
    kafka_broker,
    read,
    record,
    soon,
    topic,
    until,
    values,
)


@pytest.fixture(params=["memory", "disk", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "kafka":
        opened = kafka_broker(request.getfixturevalue("kafka"))
    else:
        opened = embedded_broker(tmp_path if request.param == "disk" else None)
    yield opened
    opened.close()


def test_records_come_back_as_they_were_written_and_in_order(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    headers = (("one", b"1"), ("two", b"\xff"))
    publisher = broker.publisher("p")
    written = publisher.publish(
        [NewRecord(name, b"k", b"v", headers, 0), NewRecord(name, b"k", None, (), 0), record(name, "third")], soon()
    )
    assert [one.offset for one in written] == sorted(one.offset for one in written)
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    found = read(consumer, 3)
    assert [(one.key, one.value) for one in found] == [(b"k", b"v"), (b"k", None), (b"third", b"third")]
    assert found[0].headers == headers
    assert [one.offset for one in found] == [one.offset for one in written]
    assert found[0].timestamp > 1_700_000_000
    consumer.close(soon())
    publisher.close(soon())


def test_the_partition_of_a_key_is_murmur2_for_every_client(broker: Broker, fresh: str) -> None:
    from pipeline.broker.partitioner import partition_of

    name = topic(broker, f"{fresh}.a", partitions=5)
    keys = [f"schlüssel-{number}".encode() for number in range(20)]
    written = broker.publisher("p").publish([NewRecord(name, key, b"") for key in keys], soon())
    assert [one.partition for one in written] == [partition_of(key, 5) for key in keys]


def test_a_group_goes_on_where_it_committed(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, str(number)) for number in range(5)], soon())
    first = broker.consumer(f"{fresh}.g", [name], "c1")
    assert values(read(first, 5)) == list("01234")
    first.commit({at(name): 3}, soon())
    assert first.committed([at(name)]) == {at(name): 3}
    first.close(soon())
    second = broker.consumer(f"{fresh}.g", [name], "c2")
    assert values(read(second, 2)) == ["3", "4"]
    assert broker.committed(f"{fresh}.g", name) == {0: 3}
    assert broker.lag(f"{fresh}.g", name) == {0: 2}
    second.close(soon())


def test_lag_reaches_zero_behind_a_transaction(broker: Broker, fresh: str) -> None:
    """Its end is a marker in the log, which is no record: the position must pass it."""
    name = topic(broker, f"{fresh}.a")
    broker.transactional_publisher(f"{fresh}.t").publish([record(name, "x")], soon())
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    read(consumer, 1)

    def caught_up() -> bool:
        consumer.poll(0.1, 10)
        consumer.commit({at(name): consumer.position(at(name))}, soon())
        return sum(broker.lag(f"{fresh}.g", name).values()) == 0

    until(caught_up)
    consumer.close(soon())


def test_members_share_the_partitions_and_each_record_is_read_once(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a", partitions=4)
    one = broker.consumer(f"{fresh}.g", [name], "c1")
    joined(one, 4)
    two = broker.consumer(f"{fresh}.g", [name], "c2")
    deadline = soon()
    revoked = set()
    while not (len(one.assignment()) == 2 and len(two.assignment()) == 2):
        assert not deadline.expired
        revoked |= one.poll(0.1, 10).revoked
        two.poll(0.1, 10)
    assert len(revoked) == 2, "only what has to move does"
    assert one.assignment().isdisjoint(two.assignment())
    broker.publisher("p").publish([record(name, str(number), number % 4) for number in range(40)], soon())
    found: list[str] = []
    while len(found) < 40:
        assert not deadline.expired
        found += values(one.poll(0.1, 100).records) + values(two.poll(0.1, 100).records)
    assert sorted(found, key=int) == [str(number) for number in range(40)]
    two.close(soon())
    joined(one, 4)
    one.close(soon())


def test_a_member_without_a_partition_has_joined_all_the_same(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a", partitions=1)
    members = [broker.consumer(f"{fresh}.g", [name], client) for client in ("one", "two")]

    def settled() -> bool:
        for member in members:
            member.poll(0.1, 10)
        return all(member.joined() for member in members) and sum(len(one.assignment()) for one in members) == 1

    until(settled)
    for member in members:
        member.close(soon())


def test_a_member_cannot_commit_what_belongs_to_another(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a", partitions=2)
    one = broker.consumer(f"{fresh}.g", [name], "c1")
    joined(one, 2)
    two = broker.consumer(f"{fresh}.g", [name], "c2")
    while len(two.assignment()) != 1:
        one.poll(0.1, 1)
        two.poll(0.1, 1)
    (lost,) = two.assignment()
    with pytest.raises(PartitionsLost):
        one.commit({lost: 1}, soon())
    one.close(soon())
    two.close(soon())


def test_a_paused_partition_keeps_its_place(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    joined(consumer, 1)
    consumer.pause([at(name)])
    broker.publisher("p").publish([record(name, "x"), record(name, "y")], soon())
    assert not [one for _ in range(5) for one in consumer.poll(0.1, 10).records]
    assert consumer.assignment() == {at(name)}
    consumer.resume([at(name)])
    assert values(read(consumer, 2)) == ["x", "y"]
    consumer.seek(at(name), 1)
    assert values(read(consumer, 1)) == ["y"]
    consumer.close(soon())


def test_a_reader_reads_all_without_a_group(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a", partitions=2)
    reader = broker.reader(name)
    assert reader.caught_up()
    reader.close()
    broker.publisher("p").publish([record(name, str(number), number % 2) for number in range(10)], soon())
    reader = broker.reader(name, {0: 2})
    found = []
    while not reader.caught_up():
        found += reader.poll(0.2, 3)
    assert sorted(values(found)) == sorted(["1", "3", "5", "7", "9", "4", "6", "8"])
    reader.close()


def test_a_transaction_is_written_whole_or_not_at_all(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a", partitions=2)
    publisher = broker.transactional_publisher(f"{fresh}.t")
    publisher.publish([record(name, "a", 0), record(name, "b", 1)], soon())
    with pytest.raises(Poison, match="record_too_large"):
        publisher.publish([record(name, "c", 0), NewRecord(name, b"k", b"x" * (MEGABYTE + 1), (), 1)], soon())
    reader = broker.reader(name)
    found = []
    while not reader.caught_up():
        found += values(reader.poll(0.2, 10))
    assert sorted(found) == ["a", "b"]
    reader.close()


def test_a_second_writer_of_a_transactional_id_fences_the_first(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    first = broker.transactional_publisher(f"{fresh}.t")
    first.publish([record(name, "a")], soon())
    second = broker.transactional_publisher(f"{fresh}.t")
    with pytest.raises(Fenced):
        first.publish([record(name, f"zombie {number}") for number in range(50)], soon())
    second.publish([record(name, "b")], soon())
    reader = broker.reader(name)
    found = []
    while not reader.caught_up():
        found += values(reader.poll(0.2, 10))
    assert found == ["a", "b"]
    reader.close()
    first.close(Deadline.after(1))


def test_a_record_over_the_limit_is_poison_and_nothing_is_written(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    with pytest.raises(Poison, match="record_too_large"):
        broker.publisher("p").publish([record(name, "a"), NewRecord(name, b"k", b"x" * (MEGABYTE + 1))], soon())
    assert broker.offsets(name)[0].end == 0


def test_topics_are_made_once_and_checked(broker: Broker, fresh: str) -> None:
    spec = TopicSpec(f"{fresh}.a", 2, "compact", MEGABYTE)
    assert broker.ensure_topics([spec]) == [spec.name]
    assert broker.ensure_topics([spec]) == []
    assert broker.topics(fresh)[spec.name].partitions == 2
    with pytest.raises(TopicMismatch, match=r"cleanup\.policy"):
        broker.ensure_topics([TopicSpec(spec.name, 2, "delete", MEGABYTE)])
    with pytest.raises(TopicMismatch, match="partitions"):
        broker.ensure_topics([TopicSpec(spec.name, 3, "compact", MEGABYTE)])


def test_a_topic_that_was_made_again_has_another_id(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    before = broker.topics(fresh)[name].id
    broker.delete_topics([name, f"{fresh}.never"])
    until(lambda: name not in broker.topics(fresh))
    topic(broker, name)
    assert broker.topics(fresh)[name].id != before


def test_a_committed_offset_below_the_start_of_the_log_is_fatal(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, str(number)) for number in range(10)], soon())
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    read(consumer, 10)
    consumer.commit({at(name): 2}, soon())
    consumer.close(soon())
    broker.delete_records(name, {0: 6})
    assert broker.offsets(name)[0].start == 6
    late = broker.consumer(f"{fresh}.g", [name], "late")
    with pytest.raises(LogDiverged, match=name):
        read(late, 1)
    late.close(soon())


def test_a_group_can_be_forgotten(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, "x")], soon())
    consumer = broker.consumer(f"{fresh}.g", [name], "c")
    read(consumer, 1)
    consumer.commit({at(name): 1}, soon())
    consumer.close(soon())

    def forgotten() -> bool:
        try:
            broker.delete_group(f"{fresh}.g")
        except BrokerUnavailable:
            return False
        return broker.committed(f"{fresh}.g", name) == {}

    until(forgotten)
    broker.delete_group(f"{fresh}.never")


def test_a_topic_that_is_not_there_says_what_to_run(broker: Broker, fresh: str) -> None:
    with pytest.raises(Fatal, match="topics apply"):
        broker.reader(f"{fresh}.nowhere")


def test_records_of_a_transaction_can_be_made_from_where_others_of_it_went(broker: Broker, fresh: str) -> None:
    """Given records whose places are told by a further one, then all come in one transaction, or none."""
    name, told = topic(broker, f"{fresh}.a", partitions=3), topic(broker, f"{fresh}.b")
    publisher = broker.transactional_publisher(f"{fresh}.t")
    records = [record(name, str(number), number % 3) for number in range(7)]

    def then(written: Sequence[Written]) -> list[NewRecord]:
        return [record(told, repr([tuple(one) for one in written]))]

    written = publisher.publish(records, soon(), then)
    assert len(written) == 8
    assert [one.partition for one in written[:7]] == [number % 3 for number in range(7)]
    assert everything(broker, told) == [repr([tuple(one) for one in written[:7]])]

    def fails(written: Sequence[Written]) -> list[NewRecord]:
        return [record(told, "x" * (2 * MEGABYTE))]

    with pytest.raises(Poison):
        publisher.publish(records, soon(), fails)
    broker.transactional_publisher(f"{fresh}.t").publish([record(told, "after")], soon())
    assert len(everything(broker, name)) == 7
    assert everything(broker, told)[1:] == ["after"]


def test_groups_are_listed_by_what_they_start_with(broker: Broker, fresh: str) -> None:
    name = topic(broker, f"{fresh}.a")
    broker.publisher("p").publish([record(name, "x")], soon())
    member = broker.consumer(f"{fresh}.one", [name], "c")
    read(member, 1)
    member.commit({at(name): 1}, soon())
    other = broker.consumer(f"{fresh}.two", [name], "c")
    joined(other, 1)
    assert broker.groups(f"{fresh}.") == [f"{fresh}.one", f"{fresh}.two"]
    assert broker.groups(f"{fresh}.t") == [f"{fresh}.two"]
    member.close(soon())
    other.close(soon())

    def one_is_gone() -> bool:
        try:
            broker.delete_group(f"{fresh}.one")
        except BrokerUnavailable:
            return False
        return f"{fresh}.one" not in broker.groups(f"{fresh}.")

    until(one_is_gone)


def test_how_long_records_live_and_how_many_bytes_they_take(broker: Broker, fresh: str) -> None:
    specs = [
        TopicSpec(f"{fresh}.kept", 1, "compact", MEGABYTE, max_compaction_lag_seconds=600.0),
        TopicSpec(f"{fresh}.both", 1, "compact,delete", MEGABYTE, 3600.0),
        TopicSpec(f"{fresh}.trimmed", 1, "delete", MEGABYTE),
    ]
    broker.ensure_topics(specs)
    kept, both, trimmed = (broker.lifetime(one.name) for one in specs)
    assert kept.superseded == (600.0 if not broker.purge([]) else None), "an embedded log is compacted on request"
    # Kafka drops whole segments, and closes one after a week by default.
    closed = 0.0 if broker.purge([]) else 7 * 86_400.0
    assert (kept.records, both.records, trimmed.records) == (None, 3600.0 + closed, None)
    assert kept.nulls == both.nulls == 86_400.0
    assert (trimmed.superseded, trimmed.nulls) == (None, None)
    assert broker.size(specs[0].name) == 0
    broker.publisher("p").publish([NewRecord(specs[0].name, b"k", bytes(10_000), (), 0)], soon())
    until(lambda: broker.size(specs[0].name) >= 10_000)
