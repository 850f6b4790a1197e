"""The real worker and consumer over a wire that fails: nothing lost, nothing skipped, no error but ours."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import errors

from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.kafka_consumer import KafkaConsumer
from pipeline.deadline import Deadline
from pipeline.errors import LogDiverged, PartitionsLost
from pipeline.ports import Consumer
from pipeline.stages.worker import Worker
from tests.support.mock_kafka import CUT, Api, MockKafka
from tests.support.workers import SECONDS
from tests.wire.ledger import Reading, reading

Error = type[errors.BrokerResponseError] | int
COORDINATOR: tuple[Error, ...] = (errors.CoordinatorNotAvailableError, errors.NotCoordinatorError, CUT)


@contextmanager
def member(broker: KafkaBroker, topic: str) -> Iterator[Consumer]:
    """Of a group, for a while: one that outlives its cluster looks for it for ever."""
    consumer = broker.consumer("g", [topic], "c")
    try:
        yield consumer
    finally:
        consumer.close(Deadline.after(5))


@pytest.mark.parametrize(
    "api, error",
    [
        (Api.FIND_COORDINATOR, errors.CoordinatorNotAvailableError),
        (Api.FIND_COORDINATOR, CUT),
        (Api.OFFSET_FETCH, errors.NotCoordinatorError),
        (Api.OFFSET_FETCH, errors.CoordinatorLoadInProgressError),
        (Api.OFFSET_FETCH, errors.UnknownMemberIdError),
        (Api.OFFSET_FETCH, errors.UnstableOffsetCommitError),
        (Api.JOIN_GROUP, errors.NotCoordinatorError),
        (Api.JOIN_GROUP, errors.UnknownMemberIdError),
        (Api.JOIN_GROUP, CUT),
        (Api.LIST_OFFSETS, errors.NotLeaderForPartitionError),
    ],
)
def test_a_member_joins_and_begins_at_the_start_whatever_it_is_answered_first(
    cluster: MockKafka, broker: KafkaBroker, seed: int, api: Api, error: Error
) -> None:
    topic = cluster.topic("t")
    cluster.fail(api, error, times=2)
    with reading(broker, topic, "g", seed) as at_work:
        at_work.send(5)
        at_work.until_done()
        at_work.assert_read_once()


def test_a_join_that_is_answered_between_two_polls_is_not_done_again(cluster: MockKafka, broker: KafkaBroker) -> None:
    """Each is a rebalance for all members of the group."""
    cluster.delay(Api.FIND_COORDINATOR, 1.0)  # the topic is known first: without it there is nothing to share out
    with member(broker, cluster.topic("t")) as consumer:
        cluster.watch()
        cluster.delay(Api.JOIN_GROUP, 0.5)
        deadline = Deadline.after(SECONDS)
        while not cluster.seen(Api.JOIN_GROUP):
            assert not deadline.expired
            consumer.poll(0.05, 1)
        time.sleep(1.0)
        while not consumer.assignment():
            assert not deadline.expired
            consumer.poll(0.2, 1)
        assert cluster.seen(Api.JOIN_GROUP) == 1


def test_a_group_that_joined_before_its_topic_was_known_joins_again_over_several_polls(
    cluster: MockKafka, broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leader had nothing to share out; what it shares out then is answered between two polls."""
    subscribe = KafkaConsumer.subscribe

    def subscribe_late(self: KafkaConsumer, *arguments: Any, **named: Any) -> None:
        self.bootstrap(10_000)
        cluster.delay(Api.METADATA, 1.5)
        subscribe(self, *arguments, **named)

    monkeypatch.setattr(KafkaConsumer, "subscribe", subscribe_late)
    with member(broker, cluster.topic("t")) as consumer:
        deadline = Deadline.after(SECONDS)
        while not consumer.joined():
            assert not deadline.expired
            consumer.poll(0.05, 1)
        consumer.poll(0.2, 1)
        assert not consumer.assignment()
        cluster.delay(Api.SYNC_GROUP, 0.5)
        while not consumer.assignment():
            assert not deadline.expired, "its share came and was not taken"
            consumer.poll(0.05, 1)


@pytest.mark.parametrize(
    "api, error",
    [
        (Api.JOIN_GROUP, errors.UnknownMemberIdError),
        (Api.SYNC_GROUP, errors.IllegalGenerationError),
    ],
)
def test_who_learns_in_a_join_that_it_is_out_loses_what_it_holds(
    cluster: MockKafka, brisk: KafkaBroker, api: Api, error: Error
) -> None:
    """Given a member that joins again, and a group that has given its partitions to another meanwhile."""
    with member(brisk, cluster.topic("t")) as consumer:
        deadline = Deadline.after(SECONDS)
        while not consumer.assignment():
            assert not deadline.expired
            consumer.poll(0.2, 1)
        (held,) = consumer.assignment()
        cluster.fail(api, error)
        consumer._consumer._coordinator.request_rejoin()  # type: ignore[attr-defined]
        while held not in (polled := consumer.poll(0.2, 1)).revoked:
            assert not deadline.expired, "it reads on where it was"
        while held not in polled.assigned:
            assert not deadline.expired
            polled = consumer.poll(0.2, 1)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotLeaderForPartitionError,
        errors.UnknownTopicOrPartitionError,
        errors.UnknownLeaderEpochError,
        errors.KafkaStorageError,
        CUT,
    ],
)
def test_a_fetch_that_fails_skips_nothing(cluster: MockKafka, broker: KafkaBroker, seed: int, error: Error) -> None:
    topic = cluster.topic("t")
    with reading(broker, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.fail(Api.FETCH, error)
        at_work.send(5)
        at_work.until_done()
        assert at_work.ledger.offered == [(0, offset) for offset in range(8)]


@pytest.mark.parametrize("error", [*COORDINATOR, errors.RequestTimedOutError, errors.UnknownError])
def test_a_commit_that_fails_is_done_again_and_nothing_is_read_twice(
    cluster: MockKafka, broker: KafkaBroker, seed: int, error: Error
) -> None:
    topic = cluster.topic("t")
    with reading(broker, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.fail(Api.OFFSET_COMMIT, error, times=2)
        at_work.send(5)
        at_work.until_done()
        at_work.assert_read_once()


def test_a_commit_in_a_rebalance_is_done_again_after_it_and_nothing_is_read_twice(
    cluster: MockKafka, brisk: KafkaBroker, seed: int
) -> None:
    topic = cluster.topic("t")
    with reading(brisk, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.fail(Api.OFFSET_COMMIT, errors.RebalanceInProgressError)
        at_work.send(5)
        at_work.until_done()
        at_work.assert_read_once()


@pytest.mark.parametrize(
    "api, error",
    [(Api.OFFSET_COMMIT, errors.IllegalGenerationError), (Api.HEARTBEAT, errors.UnknownMemberIdError)],
)
def test_a_member_that_is_out_of_its_group_joins_again_and_goes_on_from_what_is_committed(
    cluster: MockKafka, brisk: KafkaBroker, seed: int, api: Api, error: Error
) -> None:
    topic = cluster.topic("t")
    with reading(brisk, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.watch()
        cluster.fail(api, error)
        at_work.send(5)
        at_work.until(lambda: cluster.seen(Api.JOIN_GROUP) > 0)
        at_work.send(3)
        at_work.until_done()


@pytest.mark.parametrize("error", [errors.RebalanceInProgressError, CUT])
def test_a_heartbeat_that_fails_costs_no_partition(
    cluster: MockKafka, brisk: KafkaBroker, seed: int, error: Error
) -> None:
    topic = cluster.topic("t")
    with reading(brisk, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.watch()
        cluster.fail(Api.HEARTBEAT, error)
        at_work.until(lambda: cluster.seen(Api.HEARTBEAT) >= 2)
        at_work.send(3)
        at_work.until_done()
        at_work.assert_read_once()


def test_an_offset_outside_the_log_is_fatal_and_nothing_is_reset(
    cluster: MockKafka, brisk: KafkaBroker, seed: int
) -> None:
    topic = _trimmed(cluster, brisk, seed)
    with reading(brisk, topic, "g", seed, applied=3) as at_work:
        _until_failed(at_work)
        (failure,) = at_work.failure
        assert isinstance(failure, LogDiverged)
        assert "stands at offset 3 of t[0]" in str(failure)
        assert at_work.ledger.offered == []
        at_work.failure.clear()  # it is what was to come


def test_coordinators_and_leaders_that_move_all_the_time_cost_nothing(
    cluster: MockKafka, broker: KafkaBroker, seed: int
) -> None:
    rng, topic = random.Random(seed), cluster.topic("t", 2)
    with reading(broker, topic, "g", seed) as at_work:
        for _ in range(8):
            cluster.coordinate("g", rng.randint(1, cluster.brokers))
            cluster.lead(topic, rng.randrange(2), rng.randint(1, cluster.brokers))
            at_work.send(3, partition=rng.randrange(2))
        at_work.until_done()
        at_work.assert_read_once()


def test_round_trips_of_more_than_a_turn_cost_no_partition(cluster: MockKafka, broker: KafkaBroker, seed: int) -> None:
    """Each request, the commit's and the heartbeat's too."""
    topic = cluster.topic("t")
    with reading(broker, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.round_trip(0.5)
        at_work.send(1)
        at_work.until_done()
        cluster.heal()
        at_work.send(3)
        at_work.until_done()
        at_work.assert_read_once()


def test_a_commit_without_an_answer_ends_at_its_deadline_and_is_done_again(
    cluster: MockKafka, broker: KafkaBroker, seed: int
) -> None:
    topic = cluster.topic("t")
    with reading(broker, topic, "g", seed, commit_timeout_seconds=1.0) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.delay(Api.OFFSET_COMMIT, 120)
        at_work.send(3)
        at_work.until(lambda: "broker.chunk.commit" in at_work.health.readyz().reasons)
        assert at_work.health.livez().ok
        cluster.down()
        cluster.heal()  # the connection is a new one, or nothing behind that answer would ever come
        at_work.until_done()
        at_work.until(lambda: at_work.health.readyz().ok)


def test_brokers_that_go_away_and_come_back_cost_readiness_and_nothing_else(
    cluster: MockKafka, brisk: KafkaBroker, seed: int
) -> None:
    topic = cluster.topic("t")
    with reading(brisk, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        cluster.down()
        time.sleep(2)
        assert at_work.health.livez().ok
        cluster.up()
        at_work.send(5)
        at_work.until_done()
        at_work.until(lambda: at_work.health.readyz().ok)


# ------------------------------------------------------------------------ tests of these tests


def test_a_worker_that_forgets_without_reading_again_is_found_out(
    cluster: MockKafka, broker: KafkaBroker, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "_reread", lambda self, partitions: self._forget(partitions))
    topic = cluster.topic("t")
    with reading(broker, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
        at_work.ledger.seconds = 1.0
        # A commit that says lost, of a member that holds the partition all the same
        commit, lost = at_work.consumer.inner.commit, []

        def once(*arguments: Any) -> None:
            if not lost and at_work.ledger.waiting:
                lost.append(True)
                raise PartitionsLost("generation 8, not 7")
            commit(*arguments)

        at_work.consumer.inner.commit = once  # type: ignore[method-assign]
        # Some at a time: a commit is due when some of them are done, and others must be waiting then.
        for _ in range(100):
            if not lost:
                at_work.send(2)
                time.sleep(0.2)
        at_work.until(lambda: bool(lost))
        at_work.send(1)
        _until_failed(at_work)
        (failure,) = at_work.failure
        assert "were never applied" in str(failure)
        at_work.failure.clear()


def test_a_consumer_that_resets_in_silence_is_found_out(
    cluster: MockKafka, brisk: KafkaBroker, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lenient(*arguments: object, **options: object) -> KafkaConsumer:
        return KafkaConsumer(*arguments, **{**options, "auto_offset_reset": "earliest"})

    topic = _trimmed(cluster, brisk, seed)
    monkeypatch.setattr("pipeline.broker.kafka_consumer.KafkaConsumer", lenient)
    with reading(brisk, topic, "g", seed, applied=3) as at_work:
        _until_failed(at_work)
        (failure,) = at_work.failure
        assert "[3, 4, 5] were never applied" in str(failure)
        at_work.failure.clear()


def _trimmed(cluster: MockKafka, broker: KafkaBroker, seed: int) -> str:
    """A topic whose group stands at 3, and which begins at 6."""
    topic = cluster.topic("t")
    with reading(broker, topic, "g", seed) as at_work:
        at_work.send(3)
        at_work.until_done()
    at_work.send(5)
    cluster.trim(topic, 0, 6)
    return topic


def _until_failed(at_work: Reading) -> None:
    deadline = Deadline.after(SECONDS)
    while not at_work.failure:
        assert not deadline.expired, "the worker did not fail"
        time.sleep(0.01)
