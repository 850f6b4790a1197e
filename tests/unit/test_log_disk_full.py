"""The embedded log on a full disk: SQLite's own error, nothing half written, and on it goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable
from pipeline.ports import NewRecord, TopicPartition, TopicSpec

TOPIC = "t"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path)
    broker.ensure_topics([TopicSpec(TOPIC, 1, "compact", 1 << 20)])
    yield broker
    broker.close()


def limit(file: sqlite3.Connection, more_pages: int | None) -> None:
    """A file that can grow by so many pages, as on a full disk; None: as far as it likes."""
    pages = file.execute("PRAGMA page_count").fetchone()[0] + more_pages if more_pages is not None else 1 << 30
    file.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_is_an_outage_and_room_ends_it(broker: EmbeddedBroker) -> None:
    file = broker.log._topics[TOPIC].file
    publisher = broker.publisher("test")
    limit(file, 50)
    batch = [NewRecord(TOPIC, b"k", b"x" * 5_000), NewRecord(TOPIC, b"l", b"y")]
    written = 0
    failure = None
    while failure is None and written < 1_000:
        try:
            written += len(publisher.publish(batch, Deadline.after(5)))
        except BrokerUnavailable as error:
            failure = error
    assert "is the disk full" in str(failure)
    assert 0 < written < 200
    assert broker.offsets(TOPIC)[0].end == written, "of the batch that failed nothing is there"
    limit(file, None)
    (first, _) = publisher.publish([NewRecord(TOPIC, b"k", b"z"), NewRecord(TOPIC, b"l", b"z")], Deadline.after(5))
    assert first.offset == written, "no position is lost or given twice"
    reader = broker.reader(TOPIC)
    found = []
    while not reader.caught_up():
        found += reader.poll(0.1, 1000)
    assert [record.offset for record in found] == list(range(written + 2))


def test_offsets_that_cannot_be_committed_are_an_outage(broker: EmbeddedBroker) -> None:
    consumer = broker.consumer("g", [TOPIC], "one")
    consumer.poll(1.0, 10)
    for file in (broker.log._log, broker.log._transient):
        file.execute("PRAGMA query_only = 1")
    with pytest.raises(BrokerUnavailable, match="cannot write"):
        consumer.commit({TopicPartition(TOPIC, 0): 0}, Deadline.after(5))
    for file in (broker.log._log, broker.log._transient):
        file.execute("PRAGMA query_only = 0")
    consumer.commit({TopicPartition(TOPIC, 0): 0}, Deadline.after(5))
