"""The Broker port on Kafka, through kafka-python.

Consumers read only committed transactions and move as few partitions as possible in a rebalance;
every offset is committed by the caller. Topics are made so that no acknowledged record is lost:
no unclean leader election, and two in-sync replicas where there are three.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    TopicAlreadyExistsError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
)
from kafka.protocol.consumer.offsets import IsolationLevel, OffsetSpec

from pipeline.broker.kafka_connection import Connection, made
from pipeline.broker.kafka_consumer import KafkaGroupConsumer, KafkaReader
from pipeline.broker.kafka_errors import translated
from pipeline.broker.kafka_producer import KafkaPublisher, KafkaTransactionalPublisher
from pipeline.config import KafkaConfig
from pipeline.errors import BrokerUnavailable, Fatal, NotAllowed, TopicMismatch
from pipeline.ports import (
    Consumer,
    Lifetime,
    OffsetRange,
    Publisher,
    Reader,
    TopicInfo,
    TopicSpec,
    TransactionalPublisher,
)

#: Headers and Kafka's own framing around key and value.
_FRAMING_BYTES: Final = 16 * 1024
#: ``Long.MAX_VALUE``, and what is as good as it.
_NEVER_MS: Final = 1 << 62
#: Replicas and in-sync replicas where there are at least three brokers.
_REPLICAS: Final = 3
#: Topics whose limits are known: far more than one process writes to at a time.
_LIMITS: Final = 64


class KafkaBroker:
    """A Kafka cluster.

    Args:
        config: how to reach it.
        client: names this process in the broker's logs.

    Raises:
        BrokerUnavailable: no answer.
        ConfigError: a setting is wrong, or no broker's certificate is trusted.
        Fatal: it refuses the credentials, or crc32c is missing.
    """

    def __init__(self, config: KafkaConfig, client: str) -> None:
        _require_crc32c()
        self._config = config
        self._client = client
        self._reached = Connection(config)
        self._connection = self._reached.options
        self._lock = threading.RLock()
        self._limits: dict[str, int] = {}
        with self._reached.opening():
            self._admin = self._new_admin()
        self._astray = False

    # ---------------------------------------------------------------------------- clients

    def consumer(self, group: str, topics: Sequence[str], client: str) -> Consumer:
        """Join a group."""
        with self._reached.explained():
            return KafkaGroupConsumer(
                {**self._connection, "client_id": client},
                group,
                topics,
                self._config.session_timeout_seconds,
                self._config.max_poll_interval_seconds,
            )

    def reader(self, topic: str, start: Mapping[int, int] | None = None) -> Reader:
        """Read a topic without a group."""
        partitions = range(self._described(topic).partitions)
        with self._reached.explained():
            return KafkaReader({**self._connection, "client_id": self._client}, topic, start or {}, partitions)

    def publisher(self, client: str) -> Publisher:
        """Make an idempotent producer."""
        return KafkaPublisher({**self._connection, "client_id": client}, self._limit)

    def transactional_publisher(self, transactional_id: str) -> TransactionalPublisher:
        """Take a transactional id over."""
        with self._reached.explained():
            return KafkaTransactionalPublisher(
                {**self._connection, "client_id": self._client}, transactional_id, self._limit
            )

    # ----------------------------------------------------------------------------- topics

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create what is missing; check what is there."""
        with self._asking("create topics") as admin:
            present = {topic["name"] for topic in admin.describe_topics(None)}
            # As that answer names them: to describe the cluster needs a right that workers are not to have.
            brokers = len(admin._manager.cluster.brokers())  # noqa: SLF001
            missing = [spec for spec in specs if spec.name not in present]
            wanted = {spec.name: self._creation(spec, brokers) for spec in missing}
            if wanted:
                try:
                    admin.create_topics(wanted, wait_for_metadata=True)
                except TopicAlreadyExistsError:
                    missing = []  # another process was faster; its topics are checked below
        for spec in specs:
            if spec.name in present or not missing:
                self._check(spec)
        return [spec.name for spec in missing]

    def topics(self, prefix: str) -> dict[str, TopicInfo]:
        """Those whose names start with ``prefix``."""
        with self._asking("list topics") as admin:
            found = admin.describe_topics(None)
        if any("topic_id" not in topic for topic in found):
            raise Fatal(
                "this Kafka gives its topics no ids, by which a replaced one is known", "use Kafka 2.8 or later"
            )
        return {
            topic["name"]: TopicInfo(topic["name"], str(topic["topic_id"]), len(topic["partitions"]))
            for topic in found
            if topic["name"].startswith(prefix)
        }

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics."""
        for name in names:
            with self._asking("delete topics") as admin:
                try:
                    admin.delete_topics([name])
                except UnknownTopicOrPartitionError:
                    continue

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Drop everything before these offsets."""
        if before:
            with self._asking(f"trim {topic}") as admin:
                admin.delete_records({KafkaPartition(topic, partition): offset for partition, offset in before.items()})

    # ---------------------------------------------------------------------------- offsets

    def offsets(self, topic: str, *, uncommitted: bool = False) -> dict[int, OffsetRange]:
        """First kept and next offset of every partition."""
        partitions = range(self._described(topic).partitions)
        isolation = IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED
        starts = self._bounds(topic, partitions, OffsetSpec.EARLIEST, isolation)
        ends = self._bounds(topic, partitions, OffsetSpec.LATEST, isolation)
        return {partition: OffsetRange(starts[partition], ends[partition]) for partition in partitions}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets."""
        with self._asking_coordinator(f"ask for the offsets of {group}") as admin:
            try:
                found = admin.list_group_offsets({group: None}).get(group, {})
            except GroupIdNotFoundError:
                return {}
        return {at.partition: int(one.offset) for at, one in found.items() if at.topic == topic and one.offset >= 0}

    def lag(self, group: str, topic: str) -> dict[int, int]:
        """Records between a group's committed offsets and the end; an upper bound."""
        committed = self.committed(group, topic)
        return {
            partition: max(0, bounds.end - max(bounds.start, committed.get(partition, bounds.start)))
            for partition, bounds in self.offsets(topic).items()
        }

    def groups(self, prefix: str) -> list[str]:
        """The groups whose names start with ``prefix``."""
        with self._asking("list groups") as admin:
            found = admin.list_groups()
        return sorted(one["group_id"] for one in found if one["group_id"].startswith(prefix))

    def size(self, topic: str) -> int:
        """Bytes of its segments on the disk of one replica: where replicas differ, the most."""
        with self._asking(f"ask for the size of {topic}") as admin:
            brokers = admin.describe_log_dirs([topic])
        sizes: dict[int, int] = {}
        for broker in brokers:
            for folder in broker["log_dirs"]:
                for one in (one for found in folder["topics"] for one in found["partitions"]):
                    index = one["partition_index"]
                    sizes[index] = max(sizes.get(index, 0), int(one["partition_size"]))
        return sum(sizes.values())

    def lifetime(self, topic: str) -> Lifetime:
        """As its settings say. A segment is closed by the first record that comes when it is due, so
        a quiet partition keeps its records for longer.
        """
        settings = self._settings(topic)
        policy = settings["cleanup.policy"]
        compacts, deletes = "compact" in policy, "delete" in policy
        # A record goes with its segment, when the last one in it is old enough. Kafka closes a segment of
        # a compacted topic as early as the compaction's limit asks for.
        closed = [_seconds(settings["segment.ms"]), _seconds(settings["max.compaction.lag.ms"]) if compacts else None]
        limits = [_seconds(settings["retention.ms"]), min((one for one in closed if one is not None), default=None)]
        records = None if None in limits else sum(one for one in limits if one is not None)
        return Lifetime(
            superseded=_seconds(settings["max.compaction.lag.ms"]) if compacts else None,
            nulls=_seconds(settings["delete.retention.ms"]) if compacts else None,
            records=records if deletes else None,
        )

    def purge(self, topics: Sequence[str]) -> bool:
        """False: its cleaner works when the topics' settings say."""
        return False

    def delete_group(self, group: str) -> None:
        """Forget a group."""
        with self._asking_coordinator(f"delete group {group}") as admin:
            outcome = admin.delete_groups([group]).get(group, "OK")
            if outcome == GroupAuthorizationFailedError.__name__:
                raise GroupAuthorizationFailedError(group)
            if outcome not in ("OK", "GroupIdNotFoundError"):
                raise BrokerUnavailable(f"group {group} cannot be deleted now: {outcome}")

    def close(self) -> None:
        """Release connections."""
        with self._lock:
            self._admin.close()

    # ---------------------------------------------------------------------------- private

    def _new_admin(self) -> KafkaAdminClient:
        with translated(f"reach Kafka at {self._config.bootstrap_servers}"):
            return made(KafkaAdminClient, {**self._connection, "client_id": self._client})

    @contextmanager
    def _asking(self, what: str) -> Iterator[KafkaAdminClient]:
        """The admin client, which is for one thread at a time.

        kafka-python's asks anew who leads a partition, and knows brokers from another question, which it repeats when a
        connection breaks, or after five minutes: one that was away at that moment and leads again has no address until
        then. So after that failure the next question goes by way of a new client.
        """
        with self._lock, self._reached.explained():
            if self._astray:
                fresh = self._new_admin()
                self._admin.close()
                self._admin, self._astray = fresh, False
            with translated(what):
                try:
                    yield self._admin
                except UnknownBrokerIdError:
                    self._astray = True
                    raise

    @contextmanager
    def _asking_coordinator(self, what: str) -> Iterator[KafkaAdminClient]:
        """Likewise, for what the coordinator of a group answers.

        kafka-python's admin client keeps the coordinator that it has found for ever, also when it has moved
        or is dead: after any failure the next question goes by way of a new client.
        """
        try:
            with self._asking(what) as admin:
                yield admin
        except BrokerUnavailable:
            self._astray = True
            raise

    def _described(self, topic: str) -> TopicInfo:
        found = self.topics(topic).get(topic)
        if found is None:
            raise Fatal(f"there is no topic {topic}", "run `vectide topics apply` first")
        return found

    def _bounds(
        self, topic: str, partitions: Sequence[int], spec: OffsetSpec, isolation: IsolationLevel
    ) -> dict[int, int]:
        with self._asking(f"ask for the offsets of {topic}") as admin:
            wanted = {KafkaPartition(topic, partition): spec for partition in partitions}
            found = admin.list_partition_offsets(wanted, isolation_level=isolation)
        return {at.partition: int(one.offset) for at, one in found.items()}

    def _limit(self, topic: str) -> int:
        limit = self._limits.get(topic)
        if limit is None:
            limit = int(self._settings(topic)["max.message.bytes"]) - _FRAMING_BYTES
            if len(self._limits) >= _LIMITS:
                self._limits.clear()  # most are of topics that are gone: generations come and go
            self._limits[topic] = limit
        return limit

    def _settings(self, topic: str) -> dict[str, str]:
        with self._asking(f"ask for the settings of {topic}") as admin:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            found = admin.describe_configs([resource], config_filter="all")["topic"].get(topic)
        if not found:  # what it may not say, it leaves out
            raise NotAllowed(
                f"ask for the settings of {topic}: Kafka tells none",
                "grant DescribeConfigs on it; `vectide topics rights` lists the ACLs that each role needs",
            )
        return {name: str(one["value"]) for name, one in found.items()}

    def _creation(self, spec: TopicSpec, brokers: int) -> dict[str, Any]:
        replicas = self._config.replication_factor or min(_REPLICAS, brokers)
        return {
            "num_partitions": spec.partitions,
            "replication_factor": replicas,
            "configs": {
                **_required(spec),
                "min.insync.replicas": "2" if replicas >= _REPLICAS else "1",
                "message.timestamp.type": "LogAppendTime",
                # Whatever a broker's default is: lz4, snappy and zstd are read with packages that are an extra.
                "compression.type": "producer",
                "max.message.bytes": str(spec.max_record_bytes + _FRAMING_BYTES),
                **_lag_limit(spec),
            },
        }

    def _check(self, spec: TopicSpec) -> None:
        partitions = self._described(spec.name).partitions
        if partitions != spec.partitions:
            raise TopicMismatch(
                f"topic {spec.name} has {partitions} partitions, the configuration says {spec.partitions}",
                "set pipeline.partitions to what is there; a topic is never re-partitioned in place",
            )
        settings = self._settings(spec.name)
        for name, wanted in _required(spec).items():
            if not _same(settings.get(name, ""), wanted):
                raise TopicMismatch(
                    f"topic {spec.name}: {name} is {settings.get(name)}, which can lose data; it must be {wanted}",
                    f"kafka-configs.sh --alter --topic {spec.name} --add-config '{name}=[{wanted}]'",
                )
        if int(settings["max.message.bytes"]) < spec.max_record_bytes:
            raise TopicMismatch(
                f"topic {spec.name}: max.message.bytes is {settings['max.message.bytes']}, "
                f"below {spec.max_record_bytes}",
                "raise it, or lower pipeline.document_limit_bytes",
            )


def _required(spec: TopicSpec) -> dict[str, str]:
    """Settings without which records are lost."""
    retention = -1 if spec.retention_seconds is None else round(spec.retention_seconds * 1000)
    return {
        "cleanup.policy": spec.cleanup,
        "retention.ms": str(retention),
        "retention.bytes": "-1",
        "unclean.leader.election.enable": "false",
    }


def _lag_limit(spec: TopicSpec) -> dict[str, str]:
    if spec.max_compaction_lag_seconds is None:
        return {}
    return {"max.compaction.lag.ms": str(round(spec.max_compaction_lag_seconds * 1000))}


def _seconds(milliseconds: str) -> float | None:
    """A setting in milliseconds; None where it is Kafka's way of saying never."""
    value = int(milliseconds)
    return None if value < 0 or value >= _NEVER_MS else value / 1000


def _same(present: str, wanted: str) -> bool:
    return sorted(present.split(",")) == sorted(wanted.split(","))


def _require_crc32c() -> None:
    try:
        import crc32c  # noqa: F401
    except ImportError:
        raise Fatal(
            "the package crc32c is missing: Kafka's checksums would be computed in Python", "pip install crc32c"
        ) from None
