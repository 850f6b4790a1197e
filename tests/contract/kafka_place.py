"""A topic of a real Kafka as a place: each record's key is a document."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from connectors.certification import Fault
from connectors.kafka.source import KafkaSource
from connectors.postgres.keys import key_of, path_of
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.ports import Backlog, Expired, Fetched, Hint, Listed, without_pauses
from tests.support.absence import absent
from tests.support.kafka import KafkaServer, Missing, shared
from tests.support.socks import SocksProxy
from tests.support.topics import Topics


def server() -> KafkaServer:
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

    def source(self) -> _Paths:
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
        return _Paths(found, self._topic)

    def close(self) -> None:
        self._proxy.close()
        self._topics.delete(self._topic)
        self._topics.close()
        self._library.setLevel(self._level)


class _Paths:
    """The source, with keys as paths: without the topic before them, and any slash in them."""

    def __init__(self, source: KafkaSource, topic: str) -> None:
        self.id = source.id
        self._source = source
        self._topic = topic

    def scan(self) -> Iterator[Listed]:
        for one in without_pauses(self._source.scan()):
            yield Listed(_outside(one.path), one.revision)

    def fetch(self, path: str) -> Fetched | Expired | None:
        found = self._source.fetch(path_of(self._topic, [path]))
        return found if found is None else replace(found, path=path)

    def hints(self, timeout: float) -> list[Hint]:
        return [Hint(None if one.path is None else _outside(one.path), one.at) for one in self._source.hints(timeout)]

    def resume(self, position: str | None) -> bool:
        return self._source.resume(position)

    def caught_up(self) -> bool:
        return self._source.caught_up()

    def position(self) -> str:
        return self._source.position()

    def acknowledge(self, position: str) -> None:
        self._source.acknowledge(position)

    def backlog(self) -> Backlog | None:
        return self._source.backlog()

    def close(self) -> None:
        self._source.close()


def _outside(path: str) -> str:
    found = key_of(path)
    assert found is not None
    return found[1][0]
