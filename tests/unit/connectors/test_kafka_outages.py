"""What the kafka connector does when its cluster does not answer, refuses, or has very much to read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import following, source
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from pipeline.broker.kafka_topics import TopicFacts
from pipeline.errors import Backpressure, BrokerUnavailable, ConfigError, Fatal, NotAllowed, SourceUnavailable
from pipeline.ports import Fetched, Hint, OffsetRange, Record, TopicPartition, without_pauses

AT = TopicPartition("t", 0)


class Log:
    """One partition of a cluster, and what goes wrong with it."""

    def __init__(self) -> None:
        self.id = "one"
        self.records: list[Record] = []
        self.failure: Exception | None = None
        self.opened = 0
        self.open = 0

    def put(self, *keys: str, text: str = "text") -> None:
        for key in keys:
            self.records.append(Record("t", 0, len(self.records), key.encode(), text.encode(), (), 1.0))

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


class Cluster:
    log: Log

    def __init__(self, config: object, client: str, place: str) -> None:
        self.log.opened += 1
        self.log.open += 1

    def describe(self, names: Sequence[str]) -> dict[str, TopicFacts]:
        self.log.check()
        return {"t": TopicFacts(self.log.id, 1, compacts=True, expires=False, tombstone_seconds=86400.0)}

    def reader(self, positions: Mapping[TopicPartition, int | None]) -> Reader:
        self.log.check()
        return Reader(self.log, positions)

    def close(self) -> None:
        self.log.open -= 1


class Reader:
    def __init__(self, log: Log, positions: Mapping[TopicPartition, int | None]) -> None:
        self.log = log
        self.next = positions[AT] or 0
        log.open += 1

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        found = self.log.records[self.next : self.next + 3]
        self.next += len(found)
        return found

    def positions(self) -> dict[TopicPartition, int]:
        return {AT: self.next}

    def bounds(self, of: Collection[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        return {at: OffsetRange(0, end) for at, end in self.ends(of).items()}

    def ends(self, of: Any) -> dict[TopicPartition, int]:
        self.log.check()
        return dict.fromkeys(of, len(self.log.records))

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self.next = positions[AT]

    def close(self) -> None:
        self.log.open -= 1


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    Cluster.log = Log()
    monkeypatch.setattr(following, "Cluster", Cluster)
    return Cluster.log


@pytest.fixture
def opened(log: Log, tmp_path: Path) -> Iterator[KafkaSource]:
    table = {"bootstrap_servers": "b:9092", "topics": ["t"], "format": "text", "sasl_password": "hunter2"}
    found = KafkaSource("shop", KafkaSettings.model_validate(table), 1000, tmp_path)
    yield found
    found.close()
    assert log.open == 0, "a connection is left open"


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (BrokerUnavailable("no answer"), "no answer"),
        (
            NotAllowed("describe: Kafka refuses", "`vectide topics rights` ..."),
            "grant Read, Describe and DescribeConfig",
        ),
        (Fatal("Kafka refuses: SASL", "check sources.shop.sasl_*"), r"SASL: check sources.shop.sasl_\*"),
    ],
)
def test_what_does_not_answer_or_refuses_is_waited_for(
    log: Log, opened: KafkaSource, failure: Exception, why: str
) -> None:
    """Given a cluster that is away or refuses, then each call says so, nothing is gone, and it goes on afterwards."""
    log.put("a")
    log.failure = failure
    with pytest.raises(SourceUnavailable, match=why):
        opened.resume(None)
    log.failure = None
    assert not opened.resume(None)
    assert [one.path for one in without_pauses(opened.scan())] == ["t/a"]
    log.put("b")
    log.failure = failure
    before = log.opened
    opened._following._next_ends = 0.0
    for call in (lambda: opened.hints(0.0), lambda: list(opened.scan()), lambda: opened.fetch("t/a")):
        with pytest.raises(SourceUnavailable, match=why) as raised:
            call()
        assert "hunter2" not in str(raised.value)
    log.failure = None
    assert [one.path for one in opened.hints(5.0)] == ["t/b"]
    assert log.opened > before, "secrets are read again, and stuck connections are left behind"


def test_a_wrong_setting_ends_the_start_and_is_waited_out_later(log: Log, opened: KafkaSource) -> None:
    """Given a certificate that is not trusted, then it is a mistake before anything was reached; later it may be one
    broker's.
    """
    log.failure = ConfigError("the certificate is refused", "set sources.shop.ssl_cafile")
    with pytest.raises(ConfigError, match="refused"):
        opened.resume(None)
    log.failure = None
    opened.resume(None)
    opened._following.drop()
    log.failure = ConfigError("the certificate is refused", "set sources.shop.ssl_cafile")
    with pytest.raises(SourceUnavailable, match=r"refused: set sources\.shop\.ssl_cafile"):
        opened.hints(0.0)


def test_a_long_first_reading_is_done_in_portions(
    log: Log, opened: KafkaSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given more than can be read at once, then its caller is told how much is left, and each call goes on; a scan of a
    source without a folder pauses, for another process would begin again.
    """
    monkeypatch.setattr(following, "PORTION_SECONDS", 0.0)
    log.put(*(str(number) for number in range(8)))
    opened.resume(None)
    left: list[str] = []
    listed: list[str] = []
    while not listed:
        try:
            listed = [one.path for one in without_pauses(opened.scan())]
        except Backpressure as error:  # for the runner: go on after so many seconds
            left += [str(error)] * (error.retry_after == 0.0)
    assert left[:2] == [
        "the topics are being read: 5 records are left",
        "the topics are being read: 2 records are left",
    ]
    assert listed == [f"t/{number}" for number in range(8)]
    bare = KafkaSource("shop", opened._settings, 1000, None)
    found = list(bare.scan())
    assert found[:2] == [None, None], "three records a portion"
    assert [one.path for one in without_pauses(found)] == listed
    bare.close()


@pytest.mark.parametrize(("days", "told"), [(0.5, False), (2.0, True)])
def test_a_first_reading_that_outlasts_deletes_is_told(
    log: Log,
    opened: KafkaSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    days: float,
    told: bool,
) -> None:
    """Given a topic whose nulls can be compacted away after a day, and a first reading of two."""
    clock = 1e9
    monkeypatch.setattr(opened._following, "_clock", lambda: clock)
    monkeypatch.setattr(following, "PORTION_SECONDS", 0.0)
    log.put("a", "b", "c", "d")
    opened.resume(None)
    with pytest.raises(Backpressure):
        list(opened.scan())
    clock += days * 86400
    for _ in range(3):
        with contextlib.suppress(Backpressure):
            list(opened.scan())
    assert ("the first reading took too long" in caplog.text) is told


def test_a_first_reading_ends_when_the_source_is_closed(
    log: Log, opened: KafkaSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.put("a", "b", "c", "d")
    opened.resume(None)
    polls: list[float] = []

    def poll(reader: Reader, timeout: float, most: int) -> list[Record]:
        opened._closed.set()  # by another thread
        polls.append(timeout)
        return [] if len(polls) < 10 else log.records

    monkeypatch.setattr(Reader, "poll", poll)
    with pytest.raises(SourceUnavailable, match="closed"):
        next(opened.scan())
    assert len(polls) == 1
    assert opened.hints(30.0) == []


def test_what_a_scan_reads_beyond_its_bound_is_left_to_hints(
    log: Log, opened: KafkaSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a scan behind a long backlog, then it remembers no more than its bound, and hints tell of all."""
    opened.resume(None)
    assert list(opened.scan()) == []
    monkeypatch.setattr(source, "_PENDING", 4)
    log.put(*(str(number) for number in range(10)))
    assert len(list(opened.scan())) == 6
    found: list[str | None] = []
    while len(found) < 10:
        found += [one.path for one in opened.hints(1.0)]
    assert sorted(map(str, found)) == [f"t/{number}" for number in range(10)]


def test_nothing_that_was_read_ahead_outlives_its_topic(log: Log, opened: KafkaSource) -> None:
    """Given a topic that was made again between two looks, with the same keys at the same offsets, then what was read
    of the old one is nobody's text.
    """
    log.put("a", "b")
    opened.resume(None)
    assert [opened.fetch(one.path) for one in without_pauses(opened.scan())]
    log.id, log.records = "another", []
    log.put("a", "b", text="new")
    found = [opened.fetch(one.path) for one in without_pauses(opened.scan())]
    assert [one.text for one in found if isinstance(one, Fetched)] == ["new", "new"]
    assert opened.hints(0.0) == [Hint(None)], "what was noted before is no position any more"


def test_a_list_that_is_begun_anew_is_no_list(log: Log, opened: KafkaSource) -> None:
    """Given a topic that is made again while a scan lists it, as hints notice, then the scan does not seem complete."""
    log.put("a", "b", "c")
    opened.resume(None)
    scan = opened.scan()
    assert next(scan) is not None
    log.id, log.records = "another", []
    opened._following._next_topics = 0.0
    assert opened.hints(0.0) == [Hint(None)]
    with pytest.raises(SourceUnavailable, match="no list any more"):
        list(scan)
    assert list(opened.scan()) == []


def test_close_waits_for_whoever_reads(log: Log, opened: KafkaSource) -> None:
    opened.resume(None)
    list(opened.scan())
    ended = threading.Event()
    reading = threading.Thread(target=lambda: (opened.hints(60.0), ended.set()), daemon=True)
    reading.start()
    opened.close()
    assert ended.wait(30.0)
    assert log.open == 0
    with pytest.raises(SourceUnavailable, match="closed"):
        opened.fetch("t/a")
