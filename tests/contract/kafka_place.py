"""A topic of a real Kafka as a place: each record's key is a document."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path

from connectors.certification import Fault
from connectors.kafka.source import KafkaSource
from connectors.registry import open_source
from pipeline.config import SourceConfig
from tests.contract.by_key import ByKey
from tests.support.absence import absent
from tests.support.kafka import Missing
from tests.support.shared_kafka import SharedKafka, shared
from tests.support.socks import SocksProxy
from tests.support.topics import Topics


def server() -> SharedKafka:
    """The one of this run. Where Kafka is missing it skips on a laptop and fails in CI."""
    try:
        return shared()
    except Missing as missing:
        absent(missing)


class KafkaPlace:
    """A compacted topic of two partitions, behind a proxy."""

    faults: tuple[Fault, ...] = ("down", "slow", "garbled")

    def __init__(self, folder: Path, limit_bytes: int = 64 * 1024) -> None:
        # As pipeline.observe.logs has it: of the library's own log nobody sees anything.
        self._library = logging.getLogger("kafka")
        self._level, _ = self._library.level, self._library.setLevel(logging.CRITICAL)
        self._limit = limit_bytes
        self._state = folder / "state"
        self._topics = Topics(server().bootstrap)
        self._topic = f"place.{uuid.uuid4().hex[:10]}"
        self._topics.create(self._topic, partitions=2, cleanup="compact")
        self._proxy = SocksProxy()

    def put(self, path: str, text: str) -> None:
        self._topics.send(self._topic, (path, text))

    def put_many(self, documents: Mapping[str, str]) -> None:
        self._topics.send(self._topic, *documents.items())

    def remove(self, path: str) -> None:
        self._topics.send(self._topic, (path, None))

    def rename(self, old: str, new: str) -> None:
        # As Debezium says it: the old key is deleted, the new one is there.
        text = self._topics.last(self._topic, old)
        self._topics.send(self._topic, (old, None), (new, text))

    def poison(self, path: str) -> None:
        self._topics.send(self._topic, (path, b"\xff\xfe"))

    def break_(self, fault: Fault) -> None:
        self._proxy.break_(fault)

    def mend(self) -> None:
        self._proxy.mend()

    def asked(self) -> int:
        return self._proxy.connections

    def source(self) -> ByKey:
        config = SourceConfig.model_validate(
            {
                "connector": "kafka",
                "bootstrap_servers": server().bootstrap,
                "topics": [self._topic],
                "format": "text",
                "options": {"proxy_url": self._proxy.url},
            }
        )
        found = open_source("place", config, self._limit, self._state)
        assert isinstance(found, KafkaSource)
        return ByKey(found, self._topic)

    def close(self) -> None:
        self._proxy.close()
        self._topics.delete(self._topic)
        self._topics.close()
        self._library.setLevel(self._level)
