"""The Publisher and TransactionalPublisher ports on kafka-python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError

from pipeline.broker.kafka_connection import made
from pipeline.broker.kafka_errors import translated, within
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fenced, Poison, VectideError
from pipeline.ports import NewRecord, Then, Written

#: Above any topic's limit: the topic's own decides, and its broker says so.
_REQUEST_BYTES: Final = 100 * 1024 * 1024
#: A record that a publisher has given up may still arrive for this long.
_DELIVERY_MS: Final = 30_000
#: An open transaction holds back the readers of every source on its partitions.
_TRANSACTION_MS: Final = 10_000
_CLOSE_SECONDS: Final = 2.0

Limit = Callable[[str], int]
"""A topic's largest record, in bytes of key and value."""


class KafkaPublisher:
    """An idempotent producer; after an error a new one is made by the next call.

    Args:
        connection: client options of the configuration.
        limit: see :data:`Limit`.
    """

    def __init__(self, connection: Mapping[str, Any], limit: Limit) -> None:
        self._connection = connection
        self._limit = limit
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        """Write records; durable on the in-sync replicas on return."""
        if not records:
            return []
        refuse_large(records, self._limit)
        try:
            with translated("publish", writing=True):
                producer = self._open()
                try:
                    return _delivered(producer, records, deadline)
                except (KafkaError, VectideError):
                    self._drop(producer)
                    raise
        except Fenced as error:
            # It has no name that another could take over: the broker has forgotten its epoch.
            raise BrokerUnavailable(
                f"publish: the broker does not know this producer any more ({error.what})"
            ) from None

    def close(self, deadline: Deadline) -> None:
        """Release connections."""
        with self._lock:
            if self._producer is not None:
                _close(self._producer, deadline.remaining())
                self._producer = None

    def _open(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = _producer(self._connection, delivery_timeout_ms=_DELIVERY_MS)
            return self._producer

    def _drop(self, producer: KafkaProducer) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None
        _abandon(producer)


class KafkaTransactionalPublisher:
    """The one writer under a transactional id; of no use after an error.

    Raises:
        BrokerUnavailable: the id could not be taken over in time.
    """

    def __init__(self, connection: Mapping[str, Any], transactional_id: str, limit: Limit) -> None:
        self._id = transactional_id
        self._limit = limit
        self._failed: VectideError | None = None
        with translated(f"take over {transactional_id}", writing=True):
            self._producer = _producer(
                connection,
                transactional_id=transactional_id,
                transaction_timeout_ms=_TRANSACTION_MS,
                delivery_timeout_ms=_TRANSACTION_MS,
                max_block_ms=_TRANSACTION_MS,
            )
            try:
                self._producer.init_transactions()
            except KafkaError:
                # Its sender would go on asking for the id, and take it from whoever has it then.
                _abandon(self._producer)
                raise

    def publish(self, records: Sequence[NewRecord], deadline: Deadline, then: Then | None = None) -> list[Written]:
        """Write all of the records in one transaction, or none."""
        if self._failed is not None:
            raise self._failed
        if not records:
            return []
        refuse_large(records, self._limit)
        try:
            with translated(f"publish as {self._id}", writing=True):
                self._producer.begin_transaction()
                written = _delivered(self._producer, records, deadline)
                if then is not None:
                    further = then(written)
                    refuse_large(further, self._limit)
                    written += _delivered(self._producer, further, deadline)
                within(deadline, f"commit a transaction of {self._id}", self._commit)
                return written
        except Fenced as error:
            self._failed = error
            raise
        except VectideError:
            # Aborted when the next writer of this id takes over, or by the transaction's timeout.
            self._failed = BrokerUnavailable(f"{self._id}: an earlier transaction has failed; make a new publisher")
            raise

    def close(self, deadline: Deadline) -> None:
        """Release connections."""
        if self._failed is not None:
            _abandon(self._producer)
        else:
            _close(self._producer, deadline.remaining())

    def _commit(self) -> bool:
        self._producer.commit_transaction()
        return True


def refuse_large(records: Sequence[NewRecord], limit: Limit) -> None:
    """Before anything is written.

    Raises:
        Poison: a record is over its topic's limit.
    """
    for record in records:
        size = len(record.key or b"") + len(record.value or b"")
        most = limit(record.topic)
        if size > most:
            raise Poison("record_too_large", f"{size} bytes are over the limit of {most} of topic {record.topic}")


def _producer(connection: Mapping[str, Any], **options: Any) -> KafkaProducer:
    request_ms = min(int(connection["request_timeout_ms"]), _TRANSACTION_MS - 1000)
    ours = {
        "request_timeout_ms": request_ms,
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": 0,
        "max_request_size": _REQUEST_BYTES,
        "allow_auto_create_topics": False,
        "max_block_ms": _TRANSACTION_MS,
    }
    return made(KafkaProducer, {**connection, **ours, **options})


def _delivered(producer: KafkaProducer, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
    futures = [
        producer.send(
            record.topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers),
            partition=record.partition,
        )
        for record in records
    ]
    written = []
    for future in futures:
        metadata = future.get(timeout=max(0.001, deadline.remaining()))
        written.append(Written(metadata.partition, metadata.offset))
    return written


def _abandon(producer: KafkaProducer) -> None:
    """Close without waiting for what it still holds."""
    threading.Thread(target=_close, args=(producer, _CLOSE_SECONDS), name="kafka close", daemon=True).start()


def _close(producer: KafkaProducer, seconds: float) -> None:
    try:
        producer.close(timeout=seconds)
    except KafkaError:
        # Its caller gave up what could not be sent; kafka-python then leaves the sender running.
        producer._sender.force_close()  # noqa: SLF001
        producer._closed = True  # noqa: SLF001
