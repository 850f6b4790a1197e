"""Requests to a source's writer: what is forgotten stays out, is done once, and old deletes go safely."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.duties import Duties, carry_out, decode_done, done_name, encode_done
from connectors.memory import MemorySource
from connectors.runner import Runner
from connectors.state import Known, State, mark_key
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fenced, MalformedRecord, SourceUnavailable
from pipeline.identity import DocumentKey
from pipeline.ports import Fetched, NewRecord, Record, Skipped, Written
from pipeline.records import DocumentDeleted, Done, Request
from tests.support.sources import Documents, runner, running, scanned, wait_until
from tests.unit.connectors.faults import FaultyBroker, Killed, Spy, reopened

NOW = 1_000_000.0
DAY = 86_400.0


class Asked:
    """What ``control`` would say."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._count = 0

    def __call__(self) -> list[Request]:
        return list(self.requests)

    def add(self, kind: str, *paths: str, source: str = "m", **more: object) -> Request:
        self._count += 1
        request = Request(f"r{self._count}", kind, source, time.time(), self._count, paths, **more)  # type: ignore[arg-type]
        self.requests.append(request)
        return request


@pytest.fixture
def asked() -> Asked:
    return Asked()


def state_of(documents: Documents, source: str = "m") -> State:
    state = State(documents.broker, documents.names.connector_state, source, None)
    state.refresh()
    return state


def done_of(documents: Documents, request: Request) -> Done | None:
    mark = state_of(documents, request.source).mark(done_name(request.id))
    return None if mark is None else decode_done(mark)


def wait_done(documents: Documents, request: Request) -> Done:
    wait_until(lambda: (done := done_of(documents, request)) is not None and done.complete)
    done = done_of(documents, request)
    assert done is not None
    return done


def taken_over(documents: Documents, request: Request, asked: Asked | None = None) -> Done | None:
    """What a command does while no runner runs."""
    names, known = documents.names, asked or (lambda: [request])
    publisher = documents.broker.transactional_publisher(names.connector("m"))
    carry_out(Duties("m", documents.broker, names.documents(0), known), state_of(documents), publisher, request, 10.0)
    return done_of(documents, request)


# ------------------------------------------------------------------------------- forget and lift


def test_a_forgotten_document_is_deleted_and_stays_out_though_its_source_has_it(
    documents: Documents, asked: Asked, tmp_path: Path
) -> None:
    """Given edits, hints, scans and restarts after it, then the log has one delete and nothing after it."""
    source = MemorySource("m")
    for name in ("kept", "secret"):
        source.put(name, f"text of {name}")
    with running(source, documents, tmp_path, requests=asked) as one:
        one.wait_scanned()
        request = asked.add("forget", "secret")
        done = wait_done(documents, request)
        source.put("secret", "edited")
        source.put("kept", "edited")
        documents.wait_for({"kept": "edited"})
        one.runner._scan_wanted = True
        source.put("later", "x")
        documents.wait_for({"kept": "edited", "later": "x"})
    scanned(reopened(source), documents, tmp_path, asked)
    scanned(reopened(source), documents, None, asked)
    records = [one for one in documents.records() if one.key == DocumentKey("m", "secret").to_bytes()]
    assert len(records) == 2
    assert done.offsets == ((records[-1].partition, records[-1].offset),), "the mark says where the delete is"
    assert done.count == 1
    assert documents.texts() == {"kept": "edited", "later": "x"}


def test_its_state_has_no_digest_and_an_older_vectide_waits(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    source.put("secret", "text")
    with running(source, documents, requests=asked) as one:
        one.wait_scanned()
        digest = state_of(documents).get("secret").digest  # type: ignore[union-attr]
        wait_done(documents, asked.add("forget", "secret"))
    key = DocumentKey("m", "secret").to_bytes()
    last = [one for one in documents.records(documents.names.connector_state) if one.key == key][-1]
    assert last.value is not None
    assert b'"schema":2' in last.value
    assert digest.encode() not in last.value


@pytest.mark.parametrize("whole", [False, True], ids=["document", "source"])
def test_no_file_of_its_cache_has_the_digest(documents: Documents, asked: Asked, tmp_path: Path, whole: bool) -> None:
    source = MemorySource("m")
    source.put("secret", "text")
    with running(source, documents, tmp_path, requests=asked) as one:
        one.wait_scanned()
        digest = state_of(documents).get("secret").digest.encode()  # type: ignore[union-attr]
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(digest in path.read_bytes() for path in files)
        wait_done(documents, asked.add("forget", *([] if whole else ["secret"])))
        wait_until(lambda: not any(digest in path.read_bytes() for path in files))


def test_lifted_it_is_published_again(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    source.put("secret", "text")
    with running(source, documents, requests=asked) as one:
        one.wait_scanned()
        wait_done(documents, asked.add("forget", "secret"))
        assert documents.texts() == {}
        request = asked.add("lift", "secret", "never forgotten")
        assert wait_done(documents, request).count == 1
        documents.wait_for({"secret": "text"})


def test_a_lift_of_what_is_published_changes_nothing(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    source.put("doc", "text")
    with running(source, documents, requests=asked) as one:
        one.wait_scanned()
        wait_done(documents, asked.add("lift", "doc"))
        source.remove("doc")
        documents.wait_for({})


def test_a_document_nobody_knows_is_forgotten_beforehand(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    with running(source, documents, requests=asked) as one:
        one.wait_scanned()
        wait_done(documents, asked.add("forget", "to come"))
        source.put("to come", "x")
        source.put("other", "x")
        documents.wait_for({"other": "x"})


def test_a_whole_source_is_forgotten_by_the_batch_and_stays_out(
    documents: Documents, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.duties._BATCH", 7)
    source = MemorySource("m")
    for number in range(23):
        source.put(str(number), "x")
    with running(source, documents, tmp_path, requests=asked) as one:
        one.wait_scanned()
        wait_done(documents, asked.add("forget", "3"))
        done = wait_done(documents, asked.add("forget"))
        assert done.count == 22
        source.put("new", "x")
        source.put("4", "edited")
        wait_until(lambda: not source._hints)
        now, runs = time.time(), one.runner
        assert isinstance(runs, Runner)
        runs._scan_wanted = True
        wait_until(lambda: runs._scanned_at >= now)
        assert documents.texts() == {}
        wait_done(documents, asked.add("lift"))
        wait_until(lambda: len(documents.texts()) == 23)
    assert "3" not in documents.texts(), "what was forgotten by itself stays so"
    for record in documents.records():
        if record.value == b"{}" and record.key != DocumentKey("m", "3").to_bytes():
            first, last = done.ranges[record.partition]
            assert first <= record.offset <= last


def test_requests_are_for_one_source(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    source.put("doc", "x")
    asked.add("forget", "doc", source="other")
    scanned(source, documents, requests=asked)
    assert documents.texts() == {"doc": "x"}


# --------------------------------------------------------------------------- kills and take-overs


@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize("number", range(1, 6))
def test_kill_at_any_transaction_of_a_forget_does_it_once(
    documents: Documents, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    """Given a runner killed around each of its transactions, then every document has one delete."""
    monkeypatch.setattr("connectors.duties._BATCH", 3)
    source = MemorySource("m")
    for name in range(9):
        source.put(str(name), "x")
    scanned(source, documents, tmp_path)
    seen = [0]

    def plan(now_after: bool) -> None:
        seen[0] += now_after is after
        if seen[0] == number and now_after is after:
            raise Killed

    broker = FaultyBroker(documents.broker, plan)
    documents.broker = broker  # type: ignore[assignment]
    request = asked.add("forget")
    one = runner(reopened(source), documents, tmp_path, requests=asked)
    thread = threading.Thread(target=one.run)
    thread.start()
    wait_until(lambda: not thread.is_alive() or one.runner.scanned.is_set())
    one.stop.set()
    thread.join(30)
    broker.plan = lambda after: None
    scanned(reopened(source), documents, tmp_path, asked)
    done = wait_done(documents, request)
    assert done.count == 9
    assert sum(isinstance(event, DocumentDeleted) for event in documents.events()) == 9


def test_with_no_runner_a_command_takes_over_and_the_next_runner_knows(
    documents: Documents, asked: Asked, tmp_path: Path
) -> None:
    """Given a connector with its cache that is down, then what a command did for it is known at its start."""
    source = MemorySource("m")
    source.put("secret", "text")
    source.put("kept", "text")
    scanned(source, documents, tmp_path)
    request = asked.add("forget", "secret")
    done = taken_over(documents, request)
    assert done is not None
    assert done.count == 1
    again = taken_over(documents, request)
    assert again == done, "the mark is found: nothing is done twice"
    source = reopened(source)
    source.put("secret", "edited while it was down")
    scanned(source, documents, tmp_path, asked)
    assert documents.texts() == {"kept": "text"}
    assert sum(isinstance(event, DocumentDeleted) for event in documents.events()) == 1


def test_a_request_whose_answer_is_lost_is_not_carried_out_once_more(documents: Documents, asked: Asked) -> None:
    """Given a command that lifts before the runner is back, then its forget does not undo the lift."""
    broker, armed = documents.broker, threading.Event()

    def plan(after: bool) -> None:
        if after and armed.is_set():
            armed.clear()
            lift = asked.add("lift", "secret")
            documents.broker = broker
            assert taken_over(documents, lift, asked) is not None
            raise BrokerUnavailable("the answer is lost")

    documents.broker = FaultyBroker(broker, plan)  # type: ignore[assignment]
    source = MemorySource("m")
    source.put("secret", "text")
    with running(source, documents, requests=asked) as one:
        one.wait_scanned()
        armed.set()
        asked.add("forget", "secret")
        documents.wait_for({})
        documents.wait_for({"secret": "text"})
        source.put("kept", "x")
        documents.wait_for({"secret": "text", "kept": "x"})
    assert sum(isinstance(event, DocumentDeleted) for event in documents.events()) == 1


def test_a_runner_that_was_taken_over_is_fenced(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    source.put("secret", "text")
    with running(source, documents) as one:
        one.wait_scanned()
        taken_over(documents, asked.add("forget", "secret"))
        source.put("secret", "edited")
        assert isinstance(one.wait_ended(), Fenced)
    assert documents.texts() == {}


def held_up(documents: Documents, asked: Asked) -> None:
    """A change that an outage holds up in its batch, while a command takes over and forgets."""
    source = MemorySource("m")
    source.put("secret", "text")
    away = threading.Event()
    entered = threading.Event()

    def plan(after: bool) -> None:
        if away.is_set() and not after:
            entered.set()
            raise BrokerUnavailable("no answer")

    broker, inner = FaultyBroker(documents.broker, plan), documents.broker
    documents.broker = broker  # type: ignore[assignment]
    with running(source, documents) as one:
        one.wait_scanned()
        away.set()
        source.put("secret", "a change that is held up")
        source.put("kept", "another")
        wait_until(entered.is_set)
        documents.broker = inner
        taken_over(documents, asked.add("forget", "secret"))
        away.clear()
        documents.wait_for({"kept": "another"})
        source.put("last", "x")
        documents.wait_for({"kept": "another", "last": "x"})


def test_a_batch_that_was_held_up_does_not_bring_back_what_was_forgotten_meanwhile(
    documents: Documents, asked: Asked
) -> None:
    held_up(documents, asked)


def left_out(documents: Documents, asked: Asked, tmp_path: Path) -> None:
    """A document that becomes too large, and is forgotten by a command while its delete is held up."""
    broker, armed = documents.broker, threading.Event()

    def plan(after: bool) -> None:
        if not after and armed.is_set():
            armed.clear()
            request = asked.add("forget", "secret")
            documents.broker = broker
            assert taken_over(documents, request, asked) is not None
            raise BrokerUnavailable("no answer")

    class Large(Spy):
        large = threading.Event()

        def fetch(self, path: str) -> Fetched | Skipped | None:
            if self.large.is_set() and path == "secret":
                return Skipped("secret", "too", "too_large")
            return super().fetch(path)

    source = MemorySource("m")
    source.put("secret", "text")
    spy = Large(source)
    documents.broker = FaultyBroker(broker, plan)  # type: ignore[assignment]
    with running(spy, documents, tmp_path, requests=asked) as one:
        one.wait_scanned()
        spy.large.set()
        armed.set()
        source.put("secret", "large")
        wait_until(lambda: asked.requests and done_of(documents, asked.requests[0]) is not None)
        spy.large.clear()
        source.put("secret", "small again")
        source.put("kept", "x")
        documents.wait_for({"kept": "x"})
        runs = one.runner
        assert isinstance(runs, Runner)
        wait_until(lambda: runs._looks.next() is None)  # it may have changed too soon after its delete
        source.put("last", "x")
        documents.wait_for({"kept": "x", "last": "x"})


def test_what_is_left_out_after_a_delete_that_was_held_up_stays_forgotten(
    documents: Documents, asked: Asked, tmp_path: Path
) -> None:
    left_out(documents, asked, tmp_path)


def test_only_what_was_written_to_the_topic_ends_a_suppression(documents: Documents) -> None:
    state = state_of(documents)
    forgotten = Known("", "", "", "r1")
    state.put({"a": forgotten, "b": forgotten}, [Written(0, 0)])
    state.put({"a": Known("r", "", ""), "b": None, "c": Known("r", "", "")})
    assert [state.get(path) for path in "abc"] == [forgotten, forgotten, Known("r", "", "")]
    state.put({"a": Known("r", "d", "f"), "b": None}, [Written(0, 1)])
    assert [state.get(path) for path in "ab"] == [Known("r", "d", "f"), None]


def slow_source(documents: Documents, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forget while a fetch of that very document is waited for."""

    class Away(Spy):
        gone = threading.Event()

        def fetch(self, path: str) -> Fetched | Skipped | None:
            if self.gone.is_set():
                raise SourceUnavailable("no answer")
            return super().fetch(path)

    source = MemorySource("m")
    source.put("secret", "text")
    spy = Away(source)
    with running(spy, documents, requests=asked) as one:
        one.wait_scanned()
        spy.gone.set()
        source.put("secret", "edited")
        wait_until(lambda: "source.m" in one.health.readyz().reasons)
        request = asked.add("forget", "secret")
        wait_done(documents, request)
        spy.gone.clear()
        source.put("kept", "x")
        documents.wait_for({"kept": "x"})


def test_a_source_that_is_away_does_not_keep_a_document_from_being_forgotten(
    documents: Documents, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_source(documents, asked, monkeypatch)


def lost_state(documents: Documents, asked: Asked) -> None:
    """A source whose part of the state is gone, with requests that control still has."""
    source = MemorySource("m")
    source.put("secret", "text")
    asked.add("forget", "secret")
    scanned(source, documents, requests=asked)
    assert "secret" not in documents.texts()
    changed = [one for one in documents.events() if not isinstance(one, DocumentDeleted)]
    assert changed == [], "not even for a moment"


def test_what_is_asked_is_done_before_anything_is_published(documents: Documents, asked: Asked) -> None:
    lost_state(documents, asked)


@pytest.mark.parametrize(
    ("where", "name", "mutant", "run"),
    [
        (Runner, "_forgotten", lambda self, path: False, "held_up"),
        (Runner, "_forgotten", lambda self, path: False, "slow_source"),
        (Runner, "_attend", lambda self, kinds=("forget",), sure=False: False if sure else _late(self), "lost_state"),
    ],
    ids=["held-up-batch-unchecked", "fetched-unchecked", "requests-after-the-scan"],
)
def test_a_mutant_is_noticed(
    documents: Documents,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    where: type,
    name: str,
    mutant: Callable[..., object],
    run: str,
) -> None:
    monkeypatch.setattr("connectors.certification.rig.PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(AssertionError):
        {
            "held_up": lambda: held_up(documents, asked),
            "slow_source": lambda: slow_source(documents, asked, monkeypatch),
            "lost_state": lambda: lost_state(documents, asked),
        }[run]()


def _late(self: Runner) -> bool:
    request = self._writer.duties.next(self._state) if self.scanned.is_set() else None
    if request is not None:
        self._flush()
        self._serve(("forget", "lift", "gc"))
    return request is not None


# ------------------------------------------------------------------------------------------- gc


@pytest.fixture
def aged() -> Iterator[Documents]:
    clock = [NOW]
    broker = EmbeddedBroker(None, lambda: clock[0])
    documents = Documents(broker)
    documents.clock = clock  # type: ignore[attr-defined]
    yield documents
    broker.close()


def collected(documents: Documents) -> set[str]:
    last: dict[bytes, Record] = {}
    for record in sorted(documents.records(), key=lambda one: one.offset):
        last[record.key or b""] = record
    return {DocumentKey.from_bytes(key).path for key, record in last.items() if record.value is None}


def gc_of(documents: Documents, asked: Asked, **more: object) -> Request:
    ends = {partition: one.end for partition, one in documents.broker.offsets(documents.names.documents(0)).items()}
    return asked.add("gc", **{"before": ends, "older": NOW + 30 * DAY, **more})


def with_deletes(documents: Documents) -> MemorySource:
    source = MemorySource("m")
    for name in ("alive", "a", "b"):
        source.put(name, f"text of {name}")
    with running(source, documents) as one:
        one.wait_scanned()
        source.remove("a")
        source.remove("b")
        documents.wait_for({"alive": "text of alive"})
    return source


def compact(documents: Documents) -> None:
    assert isinstance(documents.broker, EmbeddedBroker)
    documents.broker.log.maintain(least_dirty=0)


def test_old_deletes_become_nulls_once_nothing_older_is_left(aged: Documents, asked: Asked) -> None:
    with_deletes(aged)
    request = gc_of(aged, asked)
    done = taken_over(aged, request)
    assert done is not None
    assert (done.count, collected(aged)) == (0, set()), "a generation begun later could read the text and miss the rest"
    compact(aged)
    done = taken_over(aged, gc_of(aged, asked))
    assert done is not None
    assert (done.count, collected(aged)) == (2, {"a", "b"})
    compact(aged)
    aged.clock[0] += 2 * DAY  # type: ignore[attr-defined]
    compact(aged)
    assert {DocumentKey.from_bytes(one.key or b"").path for one in aged.records()} == {"alive"}


def test_young_deletes_and_those_that_some_generation_has_not_committed_stay(aged: Documents, asked: Asked) -> None:
    with_deletes(aged)
    compact(aged)
    assert taken_over(aged, gc_of(aged, asked, older=NOW)).count == 0  # type: ignore[union-attr]
    assert taken_over(aged, gc_of(aged, asked, before={})).count == 0  # type: ignore[union-attr]
    assert collected(aged) == set()


def test_what_the_writer_publishes_while_it_looks_is_not_collected(aged: Documents, asked: Asked) -> None:
    """Given a document that comes back, and one that comes back and goes again, between the look and the null."""
    with_deletes(aged)
    compact(aged)
    request = gc_of(aged, asked)
    publisher = aged.broker.transactional_publisher(aged.names.connector("m"))
    state = state_of(aged)
    duties = Duties("m", aged.broker, aged.names.documents(0), asked)
    while duties._collecting is None or duties._collecting[1]._pass < 2:
        duties.step(request, state, publisher, Deadline.after(10))
    key = DocumentKey("m", "a").to_bytes()
    newer = aged.broker.publisher("test")
    newer.publish([NewRecord(aged.names.documents(0), key, b"{}", (("vectide-kind", b"deleted"),))], Deadline.after(10))
    duties.published(["a"])
    duties.step(request, state, publisher, Deadline.after(10))
    assert collected(aged) == {"b"}


def test_more_than_it_can_remember_is_left_and_said(
    aged: Documents, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.duties._CANDIDATES", 1)
    with_deletes(aged)
    compact(aged)
    done = taken_over(aged, gc_of(aged, asked))
    assert done is not None
    assert (done.count, done.left) == (1, 1)


def test_a_running_writer_collects_beside_its_work(aged: Documents, asked: Asked) -> None:
    source = with_deletes(aged)
    compact(aged)
    with running(reopened(source), aged, requests=asked) as one:
        one.wait_scanned()
        done = wait_done(aged, gc_of(aged, asked))
    assert (done.count, collected(aged)) == (2, {"a", "b"})


def test_marks_of_requests_that_control_has_forgotten_go_with_a_gc(aged: Documents, asked: Asked) -> None:
    """Given two requests that are done, one of which control has let go, then only the other's mark stays."""
    gone, kept = asked.add("forget", "x"), asked.add("forget", "y")
    for request in (gone, kept):
        assert taken_over(aged, request) is not None
    asked.requests.remove(gone)
    collecting = gc_of(aged, asked)
    assert taken_over(aged, collecting, asked) is not None
    assert done_of(aged, gone) is None
    assert done_of(aged, kept) is not None


def test_a_take_over_does_first_what_was_asked_before(documents: Documents, asked: Asked) -> None:
    first = asked.add("forget", "a")
    second, third = asked.add("lift", "a"), asked.add("forget", "b")
    taken_over(documents, second, asked)
    assert [done_of(documents, one) is not None for one in (first, second, third)] == [True, True, False]
    assert state_of(documents).get("a") is None


def test_a_gc_comes_after_what_is_forgotten_and_a_command_does_only_its_own_kind(aged: Documents, asked: Asked) -> None:
    with_deletes(aged)
    compact(aged)
    collecting, forget = gc_of(aged, asked), asked.add("forget", "alive")
    duties = Duties("m", aged.broker, aged.names.documents(0), asked)
    assert duties.next(state_of(aged)) == forget
    assert taken_over(aged, forget, asked) is not None
    assert done_of(aged, collecting) is None, "nobody asked this command for a gc"
    assert duties.next(state_of(aged)) == collecting
    later = asked.add("forget", "b")
    collecting = gc_of(aged, asked)
    assert taken_over(aged, collecting, asked) is not None
    assert done_of(aged, later) is None


def test_what_is_forgotten_while_a_gc_looks_is_not_collected(aged: Documents, asked: Asked) -> None:
    with_deletes(aged)
    compact(aged)
    collecting = gc_of(aged, asked)
    publisher = aged.broker.transactional_publisher(aged.names.connector("m"))
    state = state_of(aged)
    duties = Duties("m", aged.broker, aged.names.documents(0), asked)
    while duties._collecting is None or duties._collecting[1]._pass < 2:
        duties.step(collecting, state, publisher, Deadline.after(10))
    duties.step(asked.add("forget", "a"), state, publisher, Deadline.after(10))
    duties.step(collecting, state, publisher, Deadline.after(10))
    assert collected(aged) == {"b"}


# ------------------------------------------------------------------------------------------ marks


def test_marks_are_read_back_and_are_no_documents(documents: Documents) -> None:
    done = Done("r1", 1.5, False, 3, ((0, 7), (1, 9)), {0: (7, 7), 1: (9, 9)}, 2)
    assert decode_done(encode_done(done)) == done
    assert decode_done(encode_done(replace(done, complete=True))).complete
    with pytest.raises(MalformedRecord):
        decode_done(b"{")
    with pytest.raises(MalformedRecord):
        DocumentKey.from_bytes(mark_key("m", "x"))


def test_a_mark_that_cannot_be_read_is_as_good_as_none(documents: Documents, asked: Asked) -> None:
    source = MemorySource("m")
    source.put("secret", "text")
    scanned(source, documents)
    request = asked.add("forget", "secret")
    record = NewRecord(documents.names.connector_state, mark_key("m", done_name(request.id)), b"{")
    documents.broker.publisher("test").publish([record], Deadline.after(10))
    assert taken_over(documents, request).count == 1  # type: ignore[union-attr]
