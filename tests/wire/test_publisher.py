"""Publishing over a wire that answers with errors, late, or not at all: acknowledged means there."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from kafka import errors

from pipeline.broker import kafka_producer
from pipeline.broker.kafka import KafkaBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, NotAllowed, Poison, VectideError
from pipeline.ports import NewRecord, Publisher
from tests.support.mock_kafka import CUT, Api, MockKafka

#: Every error that a broker can answer with, but for the one that says that the record is there already.
CODES = sorted(
    {
        kind.errno: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BrokerResponseError) and kind.errno
        if kind is not errors.DuplicateSequenceNumberError
    }.items()
)


def send(publisher: Publisher, topic: str, text: str, seconds: float = 20.0) -> int:
    """One record's offset."""
    (written,) = publisher.publish([NewRecord(topic, b"k", text.encode(), (), 0)], Deadline.after(seconds))
    return written.offset


def log_of(broker: KafkaBroker, topic: str) -> list[str]:
    """What the topic holds, in order."""
    reader, found = broker.reader(topic), []
    while not reader.caught_up():
        found += [(record.value or b"").decode() for record in reader.poll(0.2, 1000)]
    reader.close()
    return found


@pytest.mark.parametrize(
    "error",
    [
        errors.NotLeaderForPartitionError,
        errors.LeaderNotAvailableError,
        errors.NotEnoughReplicasError,
        errors.NotEnoughReplicasAfterAppendError,
        errors.RequestTimedOutError,
        errors.UnknownTopicOrPartitionError,
        errors.KafkaStorageError,
        CUT,
    ],
)
def test_what_passes_is_tried_again_until_it_is_there(
    cluster: MockKafka, broker: KafkaBroker, error: type[errors.BrokerResponseError] | int
) -> None:
    topic, publisher = cluster.topic("t"), broker.publisher("p")
    assert send(publisher, topic, "before") == 0
    cluster.fail(Api.PRODUCE, error, times=3)
    assert send(publisher, topic, "during") == 1
    assert log_of(broker, topic) == ["before", "during"]
    publisher.close(Deadline.after(1))


@pytest.mark.parametrize(
    "error, kind",
    [
        (errors.MessageSizeTooLargeError, Poison),
        (errors.RecordListTooLargeError, Poison),
        (errors.InvalidRecordError, Poison),
        (errors.TopicAuthorizationFailedError, NotAllowed),
        # An idempotent producer has no name that somebody could take over: a new one will do.
        (errors.InvalidProducerEpochError, BrokerUnavailable),
        (errors.UnknownProducerIdError, BrokerUnavailable),
        (errors.OutOfOrderSequenceNumberError, BrokerUnavailable),
        (errors.CorruptRecordError, BrokerUnavailable),
    ],
)
def test_what_does_not_pass_is_one_of_our_errors_and_the_next_call_is_a_new_start(
    cluster: MockKafka, broker: KafkaBroker, error: type[errors.BrokerResponseError], kind: type[VectideError]
) -> None:
    topic, publisher = cluster.topic("t"), broker.publisher("p")
    send(publisher, topic, "before")
    cluster.fail(Api.PRODUCE, error)
    with pytest.raises(VectideError) as caught:
        send(publisher, topic, "refused")
    assert type(caught.value) is kind
    send(publisher, topic, "after")
    assert log_of(broker, topic) == ["before", "after"]
    publisher.close(Deadline.after(1))


@pytest.mark.parametrize("api", [Api.PRODUCE, Api.INIT_PRODUCER_ID, Api.METADATA])
def test_no_answer_of_a_broker_brings_out_anything_but_our_errors(
    cluster: MockKafka, broker: KafkaBroker, api: Api, seed: int
) -> None:
    """A sample of all errors that there are, each alone and at a new producer."""
    print(f"seed {seed}")
    topic = cluster.topic("t")
    for code, kind in random.Random(seed).sample(CODES, 8):
        publisher = broker.publisher("p")
        cluster.fail(api, code)
        try:
            send(publisher, topic, f"with {kind.__name__}", 3.0)
        except VectideError:
            cluster.heal()
            send(publisher, topic, f"after {kind.__name__}")
        publisher.close(Deadline.after(1))
        assert kind.__name__ in log_of(broker, topic)[-1]


def test_a_leader_that_moves_all_the_time_costs_no_acknowledged_record(
    cluster: MockKafka, broker: KafkaBroker, seed: int
) -> None:
    print(f"seed {seed}")
    rng, topic, publisher = random.Random(seed), cluster.topic("t"), broker.publisher("p")
    acknowledged = {}
    for number in range(40):
        if rng.random() < 0.3:
            cluster.lead(topic, 0, rng.randint(1, cluster.brokers))
        acknowledged[send(publisher, topic, str(number))] = str(number)
    found = log_of(broker, topic)
    assert {offset: found[offset] for offset in acknowledged} == acknowledged
    assert list(acknowledged.values()) == [str(number) for number in range(40)]
    publisher.close(Deadline.after(1))


def test_an_acknowledgement_that_is_late_is_waited_for(cluster: MockKafka, broker: KafkaBroker) -> None:
    topic, publisher = cluster.topic("t"), broker.publisher("p")
    cluster.delay(Api.PRODUCE, 1.5)
    assert send(publisher, topic, "slow") == 0
    assert log_of(broker, topic) == ["slow"]
    publisher.close(Deadline.after(1))


def test_an_acknowledgement_that_is_later_than_the_deadline_is_given_up_at_the_deadline(
    cluster: MockKafka, broker: KafkaBroker
) -> None:
    topic, publisher = cluster.topic("t"), broker.publisher("p")
    send(publisher, topic, "before")
    cluster.delay(Api.PRODUCE, 60)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        send(publisher, topic, "late", 0.5)
    assert time.monotonic() - started < 30, "an acknowledgement takes 60 s, the deadline was 0.5"
    # It was applied all the same: the caller writes it again, and its reader takes it twice
    cluster.heal()
    send(publisher, topic, "late")
    assert log_of(broker, topic) == ["before", "late", "late"]
    publisher.close(Deadline.after(1))


def test_a_record_whose_acknowledgement_is_lost_is_there(cluster: MockKafka, broker: KafkaBroker) -> None:
    """Applied, and the connection cut before the answer. (A real broker knows the second copy by its number.)"""
    topic, publisher = cluster.topic("t"), broker.publisher("p")
    send(publisher, topic, "before")
    cluster.delay(Api.PRODUCE, 60)
    cluster.watch()
    result: list[int] = []
    sending = threading.Thread(target=lambda: result.append(send(publisher, topic, "lost")))
    sending.start()
    deadline = Deadline.after(10)
    while not cluster.seen(Api.PRODUCE) and not deadline.expired:
        time.sleep(0.01)
    assert log_of(broker, topic) == ["before", "lost"], "it is applied, and not acknowledged"
    cluster.down()
    cluster.heal()
    sending.join(20)
    assert result, "it was not sent again"
    found = log_of(broker, topic)
    assert found[0] == "before"
    assert set(found[1:]) == {"lost"}
    assert found[result[0]] == "lost"
    publisher.close(Deadline.after(1))


def test_a_publisher_that_does_not_wait_for_the_answer_is_found_out(
    cluster: MockKafka, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of these tests: without the wait, a refused record passes for written."""

    def careless(producer: Any, records: Any, deadline: Deadline) -> list[Any]:
        for record in records:
            producer.send(record.topic, key=record.key, value=record.value, partition=record.partition)
        return [kafka_producer.Written(0, 0) for _ in records]

    topic, publisher = cluster.topic("t"), broker.publisher("p")
    send(publisher, topic, "before")
    monkeypatch.setattr(kafka_producer, "_delivered", careless)
    cluster.fail(Api.PRODUCE, errors.UnknownProducerIdError)
    send(publisher, topic, "refused")
    publisher.close(Deadline.after(2))
    assert log_of(broker, topic) == ["before"]
