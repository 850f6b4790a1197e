"""librdkafka's mock of a Kafka cluster: real sockets, Kafka's protocol, and the errors that a test asks for.

It comes in confluent-kafka's wheel and runs in threads of this process. It keeps topics, groups and
offsets; it knows no admin requests but metadata, no fencing and no sequence numbers (a batch that is
sent twice is there twice), and is spoken to as a broker of version 2.3.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_int16, c_int32, c_int64, c_size_t, c_void_p
from enum import IntEnum
from functools import cache
from typing import Any, Final

from kafka import TopicPartition as KafkaPartition
from kafka.errors import BrokerResponseError

from pipeline.broker.kafka import KafkaBroker
from pipeline.config import KafkaConfig
from pipeline.ports import Consumer, TopicInfo

#: What makes the mock cut the connection instead of answering (librdkafka's error of transport).
CUT: Final = -195
MEGABYTE: Final = 1024 * 1024
_EVERY_BROKER: Final = -1
_PRODUCER: Final = 0


class Api(IntEnum):
    """The requests that vectide's clients send to it."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22


class MockKafka:
    """A cluster; the brokers are numbered from 1."""

    def __init__(self, brokers: int = 3) -> None:
        self._lib = _library()
        text = ctypes.create_string_buffer(512)
        self._client = self._lib.rd_kafka_new(_PRODUCER, self._lib.rd_kafka_conf_new(), text, len(text))
        assert self._client, text.value.decode()
        self._cluster = self._lib.rd_kafka_mock_cluster_new(self._client, brokers)
        assert self._cluster, "librdkafka made no mock cluster"
        self.brokers = brokers
        self.bootstrap: str = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    def close(self) -> None:
        """End its threads."""
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._client)

    def topic(self, name: str, partitions: int = 1) -> str:
        """Make a topic."""
        self._done(self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, self.brokers))
        return name

    # ----------------------------------------------------------------------------- faults

    def fail(self, api: Api, error: type[BrokerResponseError] | int, times: int = 1) -> None:
        """Answer the next requests of a kind, at any broker, with an error; nothing of them is applied."""
        code = error if isinstance(error, int) else int(error.errno)
        self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, api, times, (c_int * times)(*[code] * times))

    def delay(self, api: Api, seconds: float, times: int = 1, error: int = 0) -> None:
        """Answer the next requests of a kind late, at each broker. They are applied at once, unless
        there is an error.
        """
        pairs = [c_int(value) for _ in range(times) for value in (error, round(seconds * 1000))]
        for broker in range(1, self.brokers + 1):
            self._done(
                self._lib.rd_kafka_mock_broker_push_request_error_rtts(
                    self._cluster, c_int32(broker), c_int16(api), c_size_t(times), *pairs
                )
            )

    def round_trip(self, seconds: float) -> None:
        """From now on every answer takes so long."""
        self._done(self._lib.rd_kafka_mock_broker_set_rtt(self._cluster, _EVERY_BROKER, round(seconds * 1000)))

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Make a broker the leader of a partition; -1: none is."""
        self._done(self._lib.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker))

    def coordinate(self, group: str, broker: int) -> None:
        """Make a broker the coordinator of a group."""
        self._done(self._lib.rd_kafka_mock_coordinator_set(self._cluster, b"group", group.encode(), broker))

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Drop everything before an offset, whoever has read it."""
        self._done(self._lib.rd_kafka_mock_partition_delete_records(self._cluster, topic.encode(), partition, before))

    def down(self, broker: int = _EVERY_BROKER) -> None:
        """Cut the connections of a broker and accept no more; what has no answer yet gets none."""
        self._done(self._lib.rd_kafka_mock_broker_set_down(self._cluster, broker))

    def up(self, broker: int = _EVERY_BROKER) -> None:
        """Accept connections again."""
        self._done(self._lib.rd_kafka_mock_broker_set_up(self._cluster, broker))

    def heal(self) -> None:
        """Forget the errors and delays that no request has met."""
        for api in Api:
            self._lib.rd_kafka_mock_clear_request_errors(self._cluster, api)
        self.round_trip(0)
        self.up()

    # ------------------------------------------------------------------------- what it saw

    def watch(self) -> None:
        """Count requests from now on."""
        self._lib.rd_kafka_mock_start_request_tracking(self._cluster)
        self._lib.rd_kafka_mock_clear_requests(self._cluster)

    def seen(self, api: Api) -> int:
        """Requests of a kind since :meth:`watch`."""
        count = c_size_t()
        requests = self._lib.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(count))
        kinds = [self._lib.rd_kafka_mock_request_api_key(requests[place]) for place in range(count.value)]
        self._lib.rd_kafka_mock_request_destroy_array(requests, count)
        return kinds.count(api)

    # ----------------------------------------------------------------------------- private

    @staticmethod
    def _done(error: int) -> None:
        assert error == 0, f"librdkafka's mock refuses: error {error}"


class MockedBroker(KafkaBroker):
    """The real adapter, but for the requests of an administrator, which the mock does not answer."""

    def consumer(self, group: str, topics: Sequence[str], client: str) -> Consumer:
        """With short fetches: the mock answers one at the end of its wait, whatever has come meanwhile."""
        before, self._connection = self._connection, {**self._connection, "fetch_max_wait_ms": 50}
        try:
            return super().consumer(group, topics, client)
        finally:
            self._connection = before

    def topics(self, prefix: str) -> dict[str, TopicInfo]:
        """Without ids, which came with Kafka 2.8."""
        with self._asking("list topics") as admin:
            found = admin.describe_topics(None)
        return {
            one["name"]: TopicInfo(one["name"], "mock", len(one["partitions"]))
            for one in found
            if one["name"].startswith(prefix)
        }

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """By name of the partitions: the mock does not list what it keeps."""
        wanted = [KafkaPartition(topic, partition) for partition in range(self._described(topic).partitions)]
        with self._asking(f"ask for the offsets of {group}") as admin:
            found = admin.list_group_offsets({group: wanted}).get(group, {})
        return {at.partition: int(one.offset) for at, one in found.items() if one.offset >= 0}

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """The mock trims nothing."""

    def _settings(self, topic: str) -> dict[str, str]:
        return {"max.message.bytes": str(4 * MEGABYTE)}


@contextmanager
def mock_kafka(brokers: int = 3) -> Iterator[MockKafka]:
    """A cluster for a while."""
    cluster = MockKafka(brokers)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def mocked(cluster: MockKafka, **settings: Any) -> Iterator[KafkaBroker]:
    """The adapter over a cluster for a while."""
    options = {"api_version": (2, 3), "retry_backoff_ms": 50}
    config = {"bootstrap_servers": cluster.bootstrap, "session_timeout_seconds": 6.0, "request_timeout_seconds": 10.0}
    broker = MockedBroker(KafkaConfig.model_validate({**config, "options": options, **settings}), "wire")
    try:
        yield broker
    finally:
        broker.close()


@cache
def _library() -> ctypes.CDLL:
    files = importlib.metadata.files("confluent-kafka") or []
    # Beside the package on Linux, inside it on macOS; its licence has its name as well.
    places = ("confluent_kafka.libs", ".dylibs")
    (path,) = [one.locate() for one in files if one.name.startswith("librdkafka") and one.parent.name in places]
    lib = ctypes.CDLL(str(path))
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "conf_new": (c_void_p, []),
        "new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
        "destroy": (None, [c_void_p]),
        "mock_cluster_new": (c_void_p, [c_void_p, c_int]),
        "mock_cluster_destroy": (None, [c_void_p]),
        "mock_cluster_bootstraps": (c_char_p, [c_void_p]),
        "mock_topic_create": (c_int, [c_void_p, c_char_p, c_int, c_int]),
        "mock_group_initial_rebalance_delay_ms": (None, [c_void_p, c_int32]),
        "mock_push_request_errors_array": (None, [c_void_p, c_int16, c_size_t, c_void_p]),
        "mock_clear_request_errors": (None, [c_void_p, c_int16]),
        # Variable arguments follow: two for each answer.
        "mock_broker_push_request_error_rtts": (c_int, [c_void_p, c_int32, c_int16, c_size_t]),
        "mock_broker_set_rtt": (c_int, [c_void_p, c_int32, c_int]),
        "mock_broker_set_down": (c_int, [c_void_p, c_int32]),
        "mock_broker_set_up": (c_int, [c_void_p, c_int32]),
        "mock_partition_set_leader": (c_int, [c_void_p, c_char_p, c_int32, c_int32]),
        "mock_partition_delete_records": (c_int, [c_void_p, c_char_p, c_int32, c_int64]),
        "mock_coordinator_set": (c_int, [c_void_p, c_char_p, c_char_p, c_int32]),
        "mock_start_request_tracking": (None, [c_void_p]),
        "mock_clear_requests": (None, [c_void_p]),
        "mock_get_requests": (ctypes.POINTER(c_void_p), [c_void_p, c_void_p]),
        "mock_request_api_key": (c_int16, [c_void_p]),
        "mock_request_destroy_array": (None, [c_void_p, c_size_t]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return lib
