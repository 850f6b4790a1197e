"""What a connector has published: the topic is the truth, the file on disk a cache of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from connectors.state import Known, State
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fatal, NewerSchema
from pipeline.identity import DocumentKey
from pipeline.ports import NewRecord, OffsetRange, Reader, Written
from tests.support.sources import Documents, running, scanned, wait_until
from tests.unit.connectors.faults import reopened

ONE = Known("r1", "d1", "f1")
ODD = "caf\udce9/漢字.txt"


class Log:
    """The state topic, written to and read with a count of what was read."""

    def __init__(self, documents: Documents) -> None:
        self.broker = documents.broker
        self.topic = documents.names.connector_state
        self.now = 1_000_000.0
        self.read = 0
        reader = self.broker.reader

        def counting(topic: str, start: dict[int, int] | None = None) -> Reader:
            one = reader(topic, start)
            poll = one.poll

            def counted(timeout: float, limit: int) -> list:
                records = poll(timeout, limit)
                self.read += len(records)
                return records

            one.poll = counted  # type: ignore[method-assign]
            return one

        self.broker.reader = counting  # type: ignore[method-assign, assignment]

    def state(self, source: str = "s", directory: Path | None = None) -> State:
        return State(self.broker, self.topic, source, directory, lambda: self.now)

    def write(self, *records: NewRecord) -> None:
        self.broker.publisher("test").publish(records, Deadline.after(10))


@pytest.fixture
def log(documents: Documents) -> Log:
    return Log(documents)


@pytest.fixture
def state(log: Log) -> Iterator[State]:
    one = log.state()
    one.refresh()
    yield one
    one.close()


def test_what_was_written_is_read_back(log: Log, state: State) -> None:
    for path in ("a", ODD, "a/b"):
        log.write(state.record(path, ONE))
    log.write(state.record("a", None))
    state.refresh()
    assert [state.get(path) for path in ("a", ODD, "a/b", "absent")] == [None, ONE, ONE, None]


def test_only_own_keys_are_kept(log: Log, state: State) -> None:
    for source in ("s2", "", "s/"):
        other = log.state(source)
        log.write(other.record("doc", ONE))
        other.close()
    state.refresh()
    state.begin_scan()
    assert list(state.unseen()) == []


def test_a_restart_reads_only_what_is_new(log: Log, tmp_path: Path) -> None:
    state = log.state(directory=tmp_path)
    for number in range(100):
        log.write(state.record(str(number), ONE))
    state.refresh()
    state.close()
    log.read = 0
    state = log.state(directory=tmp_path)
    log.write(state.record("new", ONE))
    state.refresh()
    assert log.read == 1
    assert state.get("7") == state.get("new") == ONE
    state.close()


def test_what_the_runner_itself_wrote_is_not_read_again(documents: Documents, tmp_path: Path) -> None:
    log = Log(documents)
    source = MemorySource("m")
    for number in range(100):
        source.put(str(number), "x")
    scanned(source, documents, tmp_path)
    log.read = 0
    scanned(reopened(source), documents, tmp_path)
    assert log.read == 0


@pytest.mark.parametrize("harm", ["deleted", "garbage", "truncated", "another source's", "too old", "of the future"])
def test_a_cache_that_cannot_be_trusted_is_built_again(log: Log, tmp_path: Path, harm: str) -> None:
    state = log.state(directory=tmp_path)
    log.write(state.record("doc", ONE), state.record("gone", ONE))
    state.refresh()
    state.put({"never written": ONE})
    state.close()
    (file,) = tmp_path.glob("*.db")
    match harm:
        case "deleted":
            file.unlink()
        case "garbage":
            file.write_bytes(b"not a database at all, but long enough to be one" * 100)
        case "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 + 7])
        case "another source's":
            other = log.state("other", tmp_path)
            other.refresh()
            other.close()
            (tmp_path / "connector-other.db").replace(file)
        case "too old":
            log.now += 13 * 3600
        case "of the future":
            log.now -= 3600
    state = log.state(directory=tmp_path)
    state.refresh()
    assert state.get("doc") == ONE
    assert state.get("never written") is None
    state.close()


def test_a_topic_made_again_under_its_name_is_another_one(log: Log, tmp_path: Path, documents: Documents) -> None:
    state = log.state(directory=tmp_path)
    log.write(state.record("doc", ONE))
    state.refresh()
    state.close()
    log.broker.delete_topics([log.topic])
    Documents(log.broker)  # makes the topics that are missing
    state = log.state(directory=tmp_path)
    state.refresh()
    assert state.get("doc") is None
    state.close()


def test_offsets_beyond_the_end_of_the_topic_are_not_believed(log: Log, tmp_path: Path) -> None:
    state = log.state(directory=tmp_path)
    log.write(state.record("doc", ONE))
    state.refresh()
    state.close()
    (file,) = tmp_path.glob("*.db")
    with sqlite3.connect(file) as cache:
        cache.execute("UPDATE positions SET next = 999")
    cache.close()
    state = log.state(directory=tmp_path)
    state.refresh()
    assert state.get("doc") == ONE
    state.close()


class Transaction:
    """The last record of the state topic as if its transaction were open; it ends after some looks."""

    def __init__(self, log: Log, looks: int) -> None:
        self.looks = looks
        offsets = log.broker.offsets

        def seen(topic: str, *, uncommitted: bool = False) -> dict[int, OffsetRange]:
            found = offsets(topic)
            if uncommitted or self.looks <= 0:
                return found
            self.looks -= 1
            return {partition: OffsetRange(one.start, max(0, one.end - 1)) for partition, one in found.items()}

        log.broker.offsets = seen  # type: ignore[method-assign]


def test_open_transactions_are_waited_for(log: Log, tmp_path: Path) -> None:
    state = log.state(directory=tmp_path)
    log.write(state.record("doc", ONE))
    assert not state.refresh(), "the first is always built anew"
    log.read = 0
    transaction = Transaction(log, looks=3)
    assert state.refresh(), "what is known stays known"
    assert transaction.looks == 0
    assert (log.read, state.get("doc")) == (0, ONE)
    state.close()


def test_what_nobody_can_read_counts_as_not_published(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a commit whose markers Kafka lost, then the cache does not hide that from the next scan."""
    monkeypatch.setattr("connectors.state._SETTLE_SECONDS", 0.2)
    state = log.state(directory=tmp_path)
    log.write(state.record("doc", ONE))
    state.refresh()
    Transaction(log, looks=1000)
    assert not state.refresh()
    assert "hangs" in caplog.text
    state.close()


def test_a_cache_built_anew_is_scanned_against(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource("m")
    source.put("a", "x")
    with running(source, documents, limits=RunnerLimits(rescan_seconds=3600.0)) as one:
        one.wait_scanned()
        wait_until(lambda: not one.runner._scan_wanted)
        scans = []
        listed = MemorySource.scan
        monkeypatch.setattr(MemorySource, "scan", lambda self: (scans.append(1), listed(self))[1])
        monkeypatch.setattr(one.runner._state, "refresh", lambda: False)
        monkeypatch.setattr(one.runner._writer.publisher, "publish", failing_once(one.runner._writer.publisher.publish))
        source.put("a", "y")
        documents.wait_for({"a": "y"})
        wait_until(lambda: scans)


def failing_once(publish: Callable[..., list[Written]]) -> Callable[..., list[Written]]:
    tries = iter([True])

    def failing(records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        if next(tries, False):
            raise BrokerUnavailable("once")
        return publish(records, deadline)

    return failing


def test_a_reading_that_was_cut_short_is_not_taken_for_a_whole_one(log: Log, tmp_path: Path) -> None:
    """Given a rebuild that died half-way, then the next start does not take what it has for all."""
    state = log.state(directory=tmp_path)
    log.write(*[state.record(str(number), ONE) for number in range(10)])
    reader = log.broker.reader(log.topic)
    info = log.broker.topics(log.topic)[log.topic]
    state._positions(info, {})
    state._read(reader.poll(1.0, 3))
    reader.close()
    state.put({"never written": ONE})
    state.close()
    state = log.state(directory=tmp_path)
    state.refresh()
    state.begin_scan()
    assert sorted(state.unseen()) == sorted(str(number) for number in range(10))
    state.close()


def test_a_missing_topic_says_what_to_do(documents: Documents) -> None:
    state = State(documents.broker, "no.such.topic", "s", None)
    with pytest.raises(Fatal, match="topics apply"):
        state.refresh()
    state.close()


def test_a_cache_that_cannot_be_made_says_what_to_do(documents: Documents, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Fatal, match="--state"):
        State(documents.broker, documents.names.connector_state, "s", tmp_path / "file" / "folder")


def test_a_source_id_of_any_characters_has_a_file_of_its_own(documents: Documents, tmp_path: Path) -> None:
    for source in ("a/b", "a.b", "..", "a b"):
        state = State(documents.broker, documents.names.connector_state, source, tmp_path)
        state.close()
    assert len(list(tmp_path.glob("*.db"))) == 4


def test_pages_below_a_folder_hold_that_folder_only(state: State) -> None:
    inside = [f"dir/{number:05}" for number in range(1200)] + ["dir/sub/x"]
    state.put(dict.fromkeys([*inside, "dir", "dir0", "dir!x", "di", "dirx/1"], ONE))
    assert list(state.below("dir")) == sorted(inside)


def test_pages_may_be_deleted_from_while_they_are_read(state: State) -> None:
    state.put({f"d/{number:05}": ONE for number in range(1200)})
    state.begin_scan()
    for path in state.unseen():
        state.put({path: None})
    assert list(state.below("d")) == []


def test_a_scan_tells_what_it_did_not_see(state: State) -> None:
    state.put(dict.fromkeys(["seen", "unseen", "replaced"], ONE))
    state.begin_scan()
    assert state.see("seen") == ONE
    assert state.see("new") is None
    state.put({"replaced": Known("r2", "d2", "f2"), "new": ONE})
    assert list(state.unseen()) == ["unseen"]
    state.begin_scan()
    assert sorted(state.unseen()) == ["new", "replaced", "seen", "unseen"]


def test_a_record_of_a_newer_schema_waits_for_an_upgrade(documents: Documents) -> None:
    log = Log(documents)
    entry = {"schema": 3, "revision": "r", "digest": "d", "facts": "f", "more": 1}
    log.write(NewRecord(log.topic, DocumentKey("m", "doc").to_bytes(), msgspec.json.encode(entry)))
    state = log.state("m")
    with pytest.raises(NewerSchema, match="upgrade"):
        state.refresh()
    state.close()
    with running(MemorySource("m"), documents) as one:
        wait_until(lambda: "upgrade" in one.health.readyz().reasons.get("broker", ""))


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff\xfe"])
def test_a_malformed_record_counts_as_something_published(documents: Documents, value: bytes) -> None:
    """Given state that nobody can read, then the document is published anew, or deleted if it is gone."""
    log = Log(documents)
    for path in ("there", "gone"):
        log.write(NewRecord(log.topic, DocumentKey("m", path).to_bytes(), value))
    source = MemorySource("m")
    source.put("there", "x")
    one = scanned(source, documents)
    assert (one.published("changed"), one.published("deleted")) == (1, 1)


def test_embedded_brokers_keep_it_across_restarts(tmp_path: Path) -> None:
    """Given a log on disk and a lost cache, then a restart publishes nothing."""
    source = MemorySource("m")
    source.put("doc", "x")
    broker = EmbeddedBroker(tmp_path / "log")
    scanned(source, Documents(broker), tmp_path / "one")
    broker.close()
    broker = EmbeddedBroker(tmp_path / "log")
    documents = Documents(broker)
    scanned(reopened(source), documents, tmp_path / "another")
    assert len(documents.events()) == 1
    broker.close()
