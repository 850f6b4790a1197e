"""Topics of any Kafka cluster as they are, read without a group: what the connector ``kafka`` stands on.

Nothing is written, committed or created. Unlike :class:`pipeline.broker.kafka_consumer.KafkaReader` a reader here
never goes on in silence where the log does not have its place: whoever follows a topic must know that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer
from kafka import TopicPartition as KafkaPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, OffsetOutOfRangeError, for_code

from pipeline.broker.kafka_connection import Connection, made
from pipeline.broker.kafka_consumer import record_of
from pipeline.broker.kafka_errors import translated
from pipeline.config import KafkaClusterConfig
from pipeline.errors import Transient
from pipeline.ports import OffsetRange, Record, TopicPartition

#: Of one answer, for each partition and for all of them; a larger record still comes through, alone.
_PARTITION_BYTES: Final = 1024 * 1024
_FETCH_BYTES: Final = 16 * 1024 * 1024
#: Of a question: an outage is to be told of soon, and whoever stops waits for no longer.
_QUERY_MS: Final = 5_000
_BOOTSTRAP_MS: Final = 5_000
_CLOSE_MS: Final = 1_000
#: Kafka's own defaults: of what it does not say, for want of the right to describe settings.
_TOMBSTONES_MS: Final = 24 * 3600 * 1000
_MILLISECONDS: Final = 1000


class OutOfLog(Transient):
    """A place that the log of a partition does not have."""

    def __init__(self, at: TopicPartition, offset: int) -> None:
        super().__init__(f"offset {offset} of {at.topic}[{at.partition}] is not in the log")
        self.at = at
        self.offset = offset


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic of a cluster, as far as its readers are concerned."""

    id: str
    """Changes when it is deleted and made again."""
    partitions: int
    compacts: bool
    """What a later record of its key replaces is removed."""
    expires: bool
    """Records are removed for their age, or for their number."""
    tombstone_seconds: float
    """How long a null can be read, at least, where it compacts."""


class Cluster:
    """A cluster whose topics are read. Used by one thread.

    Args:
        config: how to reach it.
        client: names this process in the brokers' logs.
        place: of the settings, for the texts of errors.

    Raises:
        ConfigError: a setting is wrong, or a file that it names is.
    """

    def __init__(self, config: KafkaClusterConfig, client: str, place: str) -> None:
        self._name = config.bootstrap_servers
        self._place = place
        self._reached = Connection(config, place)
        self._options = {
            **self._reached.options,
            "bootstrap_timeout_ms": config.options.get("bootstrap_timeout_ms", _BOOTSTRAP_MS),
            "client_id": client,
        }
        self._admin: KafkaAdminClient | None = None

    def describe(self, names: Sequence[str]) -> dict[str, TopicFacts]:
        """Topics by name; one that is not there is left out.

        Raises:
            BrokerUnavailable: no answer.
            ConfigError: no broker's certificate is trusted.
            Fatal: the credentials are refused; NotAllowed: the right is missing to describe a topic.
        """
        if self._admin is None:
            with self._reached.opening(), translated(f"reach Kafka at {self._name}", place=self._place):
                self._admin = made(KafkaAdminClient, self._options)
        with self._reached.explained(), translated(f"describe topics at {self._name}", place=self._place):
            described = {topic["name"]: topic for topic in self._admin.describe_topics(list(names))}
            found = {}
            for name, topic in described.items():
                error = for_code(topic["error_code"])
                if topic["partitions"]:
                    found[name] = topic
                elif topic["error_code"] and error.__name__ != "UnknownTopicOrPartitionError":
                    raise error(name)
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
            settings = self._admin.describe_configs(resources, config_filter="all")["topic"] if found else {}
        return {name: _facts(topic, settings.get(name) or {}) for name, topic in found.items()}

    def reader(self, positions: Mapping[TopicPartition, int | None]) -> PartitionsReader:
        """Read partitions from their offsets; None: from what is kept first.

        Raises:
            BrokerUnavailable: no answer.
        """
        with self._reached.explained(), translated(f"read topics at {self._name}", place=self._place):
            return PartitionsReader(self._reached, self._options, self._name, positions)

    def close(self) -> None:
        """Release connections."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(KafkaError):
                admin.close()


class PartitionsReader:
    """Committed records of some partitions, in order within each; one thread. See :meth:`Cluster.reader`."""

    def __init__(
        self,
        reached: Connection,
        options: Mapping[str, Any],
        name: str,
        positions: Mapping[TopicPartition, int | None],
    ) -> None:
        self._reached = reached
        self._name = name
        self._consumer = made(
            KafkaConsumer,
            {
                **options,
                "group_id": None,
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                "isolation_level": "read_committed",
                "max_partition_fetch_bytes": _PARTITION_BYTES,
                "fetch_max_bytes": _FETCH_BYTES,
                "allow_auto_create_topics": False,
            },
        )
        try:
            self.assign(positions)
        except BaseException:
            self.close()
            raise

    def assign(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """From now on these, from these offsets."""
        self._consumer.assign([KafkaPartition(*at) for at in positions])
        unknown = [at for at, offset in positions.items() if offset is None]
        starts = {at: bounds.start for at, bounds in self.bounds(unknown).items()} if unknown else {}
        for at, offset in positions.items():
            self._consumer.seek(KafkaPartition(*at), starts[at] if offset is None else offset)

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        """The next records; an outage shows as none.

        Raises:
            OutOfLog: a place is not in the log.
            NotAllowed: the right to read is missing.
        """
        with self._reached.explained(), translated(f"read topics at {self._name}"):
            try:
                found = self._consumer.poll(round(timeout * _MILLISECONDS), max_records=max_records)
            except OffsetOutOfRangeError as error:
                if not error.args:
                    raise  # a broker's answer to another request than a fetch
                (at, offset), *_ = error.args[0].items()
                raise OutOfLog(TopicPartition(*at), offset) from None
        return [record_of(one) for batch in found.values() for one in batch]

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to be read of each partition: beyond markers of transactions, and what was compacted."""
        assigned = self._consumer._subscription.assignment  # noqa: SLF001 - position() may ask the broker and wait
        return {TopicPartition(*at): int(one.position.offset) for at, one in assigned.items() if one.position}

    def bounds(self, of: Collection[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """What is kept of partitions, up to the first transaction that is open.

        Raises:
            BrokerUnavailable: no answer.
        """
        ends, starts = self.ends(of), self._asked(of, self._consumer.beginning_offsets)
        return {at: OffsetRange(starts[at], ends[at]) for at in of}

    def ends(self, of: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The latter alone."""
        return self._asked(of, self._consumer.end_offsets)

    def close(self) -> None:
        """Release connections."""
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)

    def _asked(self, of: Iterable[TopicPartition], ask: Any) -> dict[TopicPartition, int]:
        with self._reached.explained(), translated(f"ask for offsets at {self._name}"):
            found = ask([KafkaPartition(*at) for at in of], timeout_ms=_QUERY_MS)
        return {TopicPartition(*at): int(offset) for at, offset in found.items()}


def _facts(topic: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> TopicFacts:
    def setting(name: str, otherwise: object) -> str:
        found = settings.get(name)
        return str(otherwise if found is None else found["value"])

    policy = setting("cleanup.policy", "delete")
    limited = int(setting("retention.ms", 0)) >= 0 or int(setting("retention.bytes", -1)) >= 0
    return TopicFacts(
        id=str(topic["topic_id"]),
        partitions=len(topic["partitions"]),
        # Of a topic whose settings may not be read the worst is supposed: it compacts, and it expires.
        compacts="compact" in policy or not settings,
        expires="delete" in policy and limited,
        tombstone_seconds=int(setting("delete.retention.ms", _TOMBSTONES_MS)) / _MILLISECONDS,
    )
