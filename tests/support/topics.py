"""Topics of a real Kafka as anybody's producer fills them."""

from __future__ import annotations

import json
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition


class Topics:
    """Makes topics and writes to them; what was sent is in the log when a call returns."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
        self._last: dict[tuple[str, Any], Any] = {}

    def create(self, topic: str, partitions: int = 1, cleanup: str = "compact", **settings: object) -> str:
        configs = {"cleanup.policy": cleanup, **{name.replace("_", "."): str(one) for name, one in settings.items()}}
        self.admin.create_topics(
            {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}},
            wait_for_metadata=True,
        )
        return topic

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])

    def send(
        self,
        topic: str,
        *records: tuple[Any, Any],
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
        at: float | None = None,
    ) -> int:
        """Keys and values, objects as JSON; returns the offset of the last one."""
        sent = None
        for key, value in records:
            self._last[topic, _hashable(key)] = value
            sent = self.producer.send(
                topic,
                value=_bytes(value),
                key=_bytes(key),
                partition=partition,
                headers=headers,
                timestamp_ms=None if at is None else round(at * 1000),
            )
        self.producer.flush(30)
        return -1 if sent is None else int(sent.get(30).offset)

    def last(self, topic: str, key: Any) -> Any:
        """What was sent last of a key."""
        return self._last[topic, _hashable(key)]

    def trim(self, topic: str, offset: int, partition: int = 0) -> None:
        """Drop everything before an offset, as retention does."""
        self.admin.delete_records({TopicPartition(topic, partition): offset})

    def close(self) -> None:
        self.producer.close(5)
        self.admin.close()


def _bytes(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()


def _hashable(key: Any) -> Any:
    return json.dumps(key, sort_keys=True) if isinstance(key, dict) else key
