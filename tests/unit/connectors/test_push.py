"""The one writer of a pushed source: one transaction for all who wait, an answer once it is committed, never before."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_all
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from connectors.certification.interruptions import FaultyBroker, Killed
from connectors.mapping import Rule
from connectors.push.intake import Answered, Asked, Idempotency, Intake, KeyReused, Limits, Looked
from connectors.push.ledger import Ledger, Memory, answer_name
from connectors.push.operations import Condition, Delete, Document, Operation, Outcome, Patch, Put
from connectors.push.ordering import Standing
from connectors.push.runner import PushRunner
from connectors.state import State
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, BrokerUnavailable, Fenced, NotAllowed, Poison, SourceUnavailable, Transient
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.records import DocumentDeleted, Request
from pipeline.retry import RetryPolicy
from tests.support.pushed import LIMITS
from tests.support.sources import Documents, wait_until

SECONDS = 30.0


class Local:
    """A push source without a network."""

    def __init__(self, memory: Memory | None = None, limits: Limits | None = None, lag_limit_records: int = 0) -> None:
        self.id = "crm"
        self.memory = memory or Memory()
        self.limits = limits or Limits()
        self.lag_limit_records = lag_limit_records
        self.rules: tuple[Rule, ...] = ()

    def with_rules(self, rules: tuple[Rule, ...]) -> Local:
        self.rules = rules
        return self

    def listen(self, intake: Intake, epoch: int, count: Callable[[int], None]) -> None: ...

    def drain(self, deadline: Deadline) -> None: ...

    def close(self) -> None: ...

    def scan(self) -> Any:
        raise SourceUnavailable("nothing to list")

    fetch = hints = scan


@dataclass
class Writer:
    """A runner at work."""

    runner: PushRunner
    health: Health
    stop: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.runner.run(self.stop)
        except BaseException as error:
            self.failure = error

    def ask(self, *operations: Operation, key: str = "", seconds: float = SECONDS, body: str = "") -> Future[Answered]:
        idempotency = Idempotency(answer_name(key), body or repr(operations)) if key else None
        asked = Asked(operations, 100, Deadline.after(seconds), idempotency)
        self.runner.intake.submit(asked)
        return asked.future

    def done(self, *operations: Operation, **more: Any) -> Outcome:
        return self.ask(*operations, **more).result(SECONDS).outcomes[0]

    def look(self, path: str) -> Standing:
        looked = Looked(path, Deadline.after(SECONDS))
        self.runner.intake.submit(looked)
        return looked.future.result(SECONDS)

    def taken_failure(self) -> BaseException | None:
        wait_until(lambda: self.failure is not None, lambda: "it goes on", SECONDS)
        failure, self.failure = self.failure, None
        return failure


@contextmanager
def writing(
    documents: Documents,
    source: Local | None = None,
    requests: Callable[[], tuple[Request, ...]] = tuple,
    behind: Callable[[], int] | None = None,
) -> Iterator[Writer]:
    health, metrics = Health(), Metrics()
    health.set_started()
    patience = Patience(RetryPolicy(initial_seconds=0.01, maximum_seconds=0.05), health, metrics)
    runner = PushRunner(
        source or Local(),
        documents.broker,
        documents.names,
        0,
        None,
        patience,
        health,
        metrics,
        LIMITS,
        requests,
        behind,
    )
    one = Writer(runner, health)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: runner.scanned.is_set() or one.failure, lambda: "it never began", SECONDS)
        yield one
    finally:
        one.stop.set()
        thread.join(SECONDS)
        assert not thread.is_alive(), "it does not end"
    if one.failure is not None:
        raise one.failure


@contextmanager
def read(documents: Documents) -> Iterator[State]:
    """What a new process would know."""
    state = State(documents.broker, documents.names.connector_state, "crm", None)
    try:
        state.refresh()
        yield state
    finally:
        state.close()


def put(path: str, text: str, revision: int | None = None, **metadata: Any) -> Put:
    return Put(path, Document(text, "text/plain", metadata), 1.0, revision)


def delete(path: str, revision: int | None = None) -> Delete:
    return Delete(path, 1.0, revision)


class Gate:
    """Holds transactions up before or after they are written."""

    def __init__(self, *, after: bool = False) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._after = after

    def __call__(self, after: bool) -> None:
        if after is self._after:
            self.reached.set()
            assert self.open.wait(SECONDS)


def test_what_is_put_is_in_the_log_with_its_revision_and_its_place(documents: Documents) -> None:
    with writing(documents) as one:
        created = one.done(put("a", "x", 7, tag="t"))
        assert (created.result, created.revision) == ("created", 7)
        assert documents.now()["a"].metadata == {"tag": "t"}
        assert documents.now()["a"].provenance.event_time == 1.0
        (record,) = documents.records()
        assert created.place is not None
        assert (created.place.partition, created.place.offset) == (record.partition, record.offset)
        assert one.look("a").place == created.place
        assert one.done(put("a", "x", 8, tag="t")).result == "unchanged"
        assert one.look("a").revision == 8
        assert one.done(put("a", "x", 8, tag="u")).refusal == "revision-taken"
        assert documents.count() == 1
        assert one.done(delete("a", 9)).result == "deleted"
        assert one.done(put("a", "late", 8)).refusal == "stale-revision"
    assert documents.now() == {}


def test_nobody_is_answered_before_the_transaction_is_committed(broker: EmbeddedBroker) -> None:
    gate = Gate()
    documents = Documents(FaultyBroker(broker, gate))
    with writing(documents) as one:
        waiting = one.ask(put("a", "x"))
        assert gate.reached.wait(SECONDS)
        assert not waiting.done()
        assert documents.count() == 0
        gate.open.set()
        assert waiting.result(SECONDS).outcomes[0].result == "created"
        assert documents.count() == 1


def test_many_requests_at_once_share_a_transaction(broker: EmbeddedBroker) -> None:
    gate = Gate()
    faulty = FaultyBroker(broker, gate)
    documents = Documents(faulty)
    with writing(documents) as one:
        first = one.ask(put("first", "x"))
        assert gate.reached.wait(SECONDS)
        others = [one.ask(put(f"{number}", "x")) for number in range(200)]
        gate.open.set()
        wait_all([first, *others], SECONDS)
        assert len(documents.now()) == 201
        assert len(faulty.transactions) == 2


@pytest.mark.parametrize("key", ["", "k"])
@pytest.mark.parametrize("after", [False, True])
def test_a_transaction_whose_outcome_is_unknown_is_looked_up_and_not_repeated(
    broker: EmbeddedBroker, after: bool, key: str
) -> None:
    """Given no answer from the broker, then each operation is done once, and its sender gets the true answer."""
    fail = threading.Event()

    def plan(now: bool) -> None:
        if now is after and fail.is_set():
            fail.clear()
            raise BrokerUnavailable("no answer")

    documents = Documents(FaultyBroker(broker, plan))
    with writing(documents) as one:
        one.done(put("patched", "text", other="stays"))
        fail.set()
        found = one.ask(
            put("a", "x"), put("a", "y"), delete("absent"), Patch("patched", {"n": 1}, 1.0), key=key
        ).result(SECONDS)
        assert [outcome.result for outcome in found.outcomes] == ["created", "changed", "refused", "changed"]
        assert found.outcomes[1].place == one.look("a").place
        assert documents.texts() == {"a": "y", "patched": "text"}
        assert documents.now()["patched"].metadata == {"other": "stays", "n": 1}
        assert documents.count() == 3


def test_what_its_sender_has_given_up_is_not_written(broker: EmbeddedBroker) -> None:
    gate = Gate()
    documents = Documents(FaultyBroker(broker, gate))
    with writing(documents) as one:
        first = one.ask(put("a", "x"))
        assert gate.reached.wait(SECONDS)
        late, gone = one.ask(put("late", "x"), seconds=0.0), one.ask(put("gone", "x"))
        gone.cancel()
        gate.open.set()
        first.result(SECONDS)
        with pytest.raises(Transient, match="not going to be"):
            late.result(SECONDS)
        one.done(put("b", "x"))
    assert set(documents.texts()) == {"a", "b"}


def test_an_idempotency_key_is_answered_the_same_also_after_a_restart(documents: Documents) -> None:
    with writing(documents) as one:
        first = one.ask(put("a", "1"), key="k").result(SECONDS)
        one.done(put("a", "2"))
    with writing(documents) as one:
        again = one.ask(put("a", "1"), key="k").result(SECONDS)
        assert again.replayed
        assert again.outcomes == first.outcomes
        with pytest.raises(KeyReused):
            one.ask(put("a", "3"), key="k").result(SECONDS)
        assert one.done(put("a", "3"), key="other").result == "changed"
    assert documents.texts() == {"a": "3"}
    assert documents.count() == 3


def test_the_same_key_at_the_same_moment_is_done_once(broker: EmbeddedBroker) -> None:
    gate = Gate()
    documents = Documents(FaultyBroker(broker, gate))
    with writing(documents) as one:
        first = one.ask(put("x", "x"))
        assert gate.reached.wait(SECONDS)
        twins = [one.ask(put("a", "1"), put("b", "1"), key="k") for _ in range(3)]
        other = one.ask(put("a", "other"), key="k")
        gate.open.set()
        first.result(SECONDS)
        answers = [twin.result(SECONDS) for twin in twins]
        assert [answer.replayed for answer in answers] == [False, True, True]
        assert answers[0].outcomes == answers[1].outcomes == answers[2].outcomes
        with pytest.raises(KeyReused):
            other.result(SECONDS)
    assert documents.count() == 3


def test_what_is_refused_is_judged_anew_though_the_key_is_the_same(documents: Documents) -> None:
    with writing(documents) as one:
        one.done(put("a", "1", 5))
        assert one.done(Patch("b", {"n": 1}, 1.0), key="k").refusal == "not-found"
        one.done(put("b", "1"))
        assert one.done(Patch("b", {"n": 1}, 1.0), key="k").result == "changed"


def test_a_zombie_tells_nobody_that_all_is_as_it_should_be(documents: Documents) -> None:
    """Given a writer that was taken over and does not know, then it cannot answer even that nothing has changed."""
    with writing(documents) as zombie:
        zombie.done(put("a", "1"))
        with writing(documents) as other:
            other.done(put("a", "2"))
            with pytest.raises(Transient):
                zombie.done(put("a", "1"))
            assert isinstance(zombie.taken_failure(), Fenced)
    assert documents.texts() == {"a": "2"}


@pytest.mark.parametrize(
    "asked",
    [delete("b"), Put("a", Document("3", "text/plain", {}), 1.0, None, Condition(absent=True))],
    ids=["not there", "there"],
)
def test_a_zombie_refuses_nothing(documents: Documents, asked: Operation) -> None:
    """Given what a writer that was taken over would refuse and the true one takes, then nobody is told to drop it."""
    with writing(documents) as zombie:
        zombie.done(put("a", "1", 5))
        with writing(documents) as other:
            other.done(delete("a"))
            other.done(put("b", "2"))
            with pytest.raises(Transient):
                zombie.done(asked)
            assert isinstance(zombie.taken_failure(), Fenced)


def test_a_zombie_tells_of_no_document_what_was_so_long_ago(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an idle writer that was taken over, then it finds that out when it is asked, and answers nothing old."""
    monkeypatch.setattr("connectors.push.runner._PROVED_SECONDS", 0.0)
    with writing(documents) as zombie:
        zombie.done(put("a", "1"))
        with writing(documents) as other:
            other.done(put("a", "2"))
            with pytest.raises(Transient):
                zombie.look("a")
            assert isinstance(zombie.taken_failure(), Fenced)
            assert other.look("a").revision == 2


def test_questions_are_not_a_transaction_each(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.push.runner._PROVED_SECONDS", 1e6)
    faulty = FaultyBroker(broker, lambda after: None)
    documents = Documents(faulty)
    with writing(documents) as one:
        one.done(put("a", "1"))
        before = len(faulty.transactions)
        assert [one.look("a").revision for _ in range(20)] == [1] * 20
        assert len(faulty.transactions) == before
        one.runner._proved_at = -1e9
        assert [one.look("a").revision for _ in range(3)] == [1] * 3
        assert len(faulty.transactions) == before + 1
        assert documents.count() == 1


def test_creates_come_before_deletes_so_that_a_rename_finds_vectors(documents: Documents) -> None:
    with writing(documents) as one:
        one.done(put("old", "text"))
        one.ask(delete("old"), put("new", "text")).result(SECONDS)
    stamps = {event.key.path: isinstance(event, DocumentDeleted) for event in documents.events()}
    assert stamps == {"old": True, "new": False}
    broker = EmbeddedBroker(None)
    narrow = Documents(broker, partitions=1)
    with writing(narrow) as one:
        one.done(put("old", "text"))
        outcomes = one.ask(delete("old"), put("new", "text")).result(SECONDS).outcomes
        assert [(event.key.path, isinstance(event, DocumentDeleted)) for event in narrow.events()] == [
            ("old", False), ("new", False), ("old", True),
        ]  # fmt: skip
        assert outcomes[1].place is not None
        assert outcomes[1].place.offset == narrow.records()[1].offset
    broker.close()


def test_a_patch_reads_the_document_back_from_the_log(documents: Documents) -> None:
    with writing(documents) as one:
        for number in range(20):
            one.done(put(f"{number}", f"text {number}", keep="k", drop="d"))
        assert one.done(Patch("7", {"drop": None, "new": ["a"]}, 2.0)).result == "changed"
        assert documents.now()["7"].metadata == {"keep": "k", "new": ["a"]}
        assert documents.texts()["7"] == "text 7"
        assert one.done(Patch("7", {"drop": None}, 3.0)).result == "unchanged"
        assert one.done(Patch("7", None, 3.0)).result == "changed"
        assert documents.now()["7"].metadata == {}
        other = Document("another", "text/markdown", {"title": "T"})
        assert one.done(Patch("8", {"drop": "D"}, 3.0, other)).result == "changed"
        assert documents.now()["8"].metadata == {"keep": "k", "drop": "D", "title": "T"}
        assert documents.texts()["8"] == "another"


def test_a_patch_is_refused_where_rules_make_the_metadata(documents: Documents) -> None:
    source = Local().with_rules((Rule("acl", None, None, "staff"),))
    with writing(documents, source) as one:
        one.done(put("a", "x", acl="everybody"))
        assert documents.now()["a"].metadata == {"acl": "staff"}
        assert one.done(Patch("a", {"acl": "everybody"}, 1.0)).refusal == "patch-impossible"


def test_requests_to_forget_are_carried_out_and_what_was_forgotten_stays_out(documents: Documents) -> None:
    requests: list[Request] = []
    with writing(documents, requests=lambda: tuple(requests)) as one:
        one.done(put("a", "x", 1))
        one.done(put("b", "x", 1))
        requests.append(Request("r1", "forget", "crm", 1.0, 1, ("a",)))
        wait_until(lambda: set(documents.texts()) == {"b"}, seconds=SECONDS)
        wait_until(lambda: one.look("a").forgotten, seconds=SECONDS)
        assert one.done(put("a", "again", 2)).refusal == "forgotten"
        requests.append(Request("r2", "lift", "crm", 1.0, 2, ("a",)))
        wait_until(lambda: not one.look("a").forgotten, seconds=SECONDS)
        assert one.done(put("a", "again", 2)).result == "created"
        requests.append(Request("r3", "forget", "crm", 1.0, 3, ()))
        wait_until(lambda: not documents.texts(), seconds=SECONDS)
        assert one.done(put("c", "x")).refusal == "forgotten"


def test_a_queue_that_is_full_and_a_pipeline_that_is_behind_ask_to_wait(broker: EmbeddedBroker) -> None:
    gate, behind = Gate(), [0]
    documents = Documents(FaultyBroker(broker, gate))
    source = Local(limits=Limits(queue_operations=3), lag_limit_records=10)
    with writing(documents, source, behind=lambda: behind[0]) as one:
        first = one.ask(put("a", "x"))
        assert gate.reached.wait(SECONDS)
        waiting = [one.ask(put(f"{number}", "x")) for number in range(3)]
        with pytest.raises(Backpressure, match="too many"):
            one.ask(put("more", "x"))
        gate.open.set()
        wait_all([first, *waiting], SECONDS)
        behind[0] = 11
        one.runner._next_behind = 0.0
        wait_until(lambda: one.runner.intake._behind, seconds=SECONDS)
        with pytest.raises(Backpressure, match="11 records behind"):
            one.ask(put("more", "x"))
        behind[0] = 10
        one.runner._next_behind = 0.0
        wait_until(lambda: not one.runner.intake._behind, seconds=SECONDS)
        assert one.done(put("more", "x")).result == "created"


def test_what_is_committed_and_cannot_be_noted_is_not_written_again(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, noted = Documents(broker), State.put
    full = [True]

    def put_once_full(self: State, entries: Any, *more: Any) -> None:
        if "a" in entries and full:
            full.pop()
            raise Transient("the cache of connector state: the disk is full")
        noted(self, entries, *more)

    with writing(documents) as one:
        monkeypatch.setattr(State, "put", put_once_full)
        assert one.done(put("a", "x")).result == "created"
        assert full == []
    assert len(documents.events()) == 1


def test_while_the_log_is_away_nothing_is_taken_and_afterwards_it_is(broker: EmbeddedBroker) -> None:
    away = threading.Event()

    def plan(after: bool) -> None:
        if away.is_set() and not after:
            raise BrokerUnavailable("the log is away")

    documents = Documents(FaultyBroker(broker, plan))
    with writing(documents) as one:
        away.set()
        lost = Asked((put("lost", "x"),), 100, Deadline.after(2 * SECONDS))
        one.runner.intake.submit(lost)
        wait_until(lambda: one.runner.intake._away, seconds=SECONDS)
        assert not one.health.readyz().ok
        with pytest.raises(Transient, match="the log is away"):
            one.ask(put("a", "x"))
        lost.deadline = Deadline.after(0.0)
        with pytest.raises(Transient):
            lost.future.result(SECONDS)  # its time is over, and the next attempt finds that out
        away.clear()
        wait_until(lambda: not one.runner.intake._away, seconds=SECONDS)
        assert one.health.readyz().ok
        assert one.done(put("b", "x")).result == "created"
    assert set(documents.texts()) == {"b"}


def test_what_the_log_refuses_is_refused_alone(broker: EmbeddedBroker) -> None:
    gate = Gate()
    documents = Documents(FaultyBroker(broker, gate))

    def check(records: Any) -> None:
        if any(b"huge" in (one.value or b"") for one in records):
            raise Poison("record_too_large", "over the limit of the topic")

    with writing(documents) as one:
        first = one.ask(put("a", "x"))
        assert gate.reached.wait(SECONDS)
        publisher = one.runner._writer.publisher
        assert publisher is not None
        publish = publisher.publish

        def checked(records: Any, *more: Any) -> Any:
            check(records)
            return publish(records, *more)

        publisher.publish = checked  # type: ignore[method-assign]
        others = [one.ask(put("b", "x")), one.ask(put("c", "huge")), one.ask(put("d", "x"))]
        gate.open.set()
        first.result(SECONDS)
        results = [other.result(SECONDS).outcomes[0] for other in others]
        assert [found.result for found in results] == ["created", "refused", "created"]
        assert results[1].refusal == "too-large"
    assert set(documents.texts()) == {"a", "b", "d"}


def test_a_stop_writes_what_was_accepted_and_takes_nothing_more(broker: EmbeddedBroker) -> None:
    gate = Gate()
    documents = Documents(FaultyBroker(broker, gate))
    with writing(documents) as one:
        accepted = [one.ask(put("a", "x"))]
        assert gate.reached.wait(SECONDS)
        accepted += [one.ask(put(f"{number}", "x")) for number in range(5)]
        one.stop.set()
        gate.open.set()
        assert all(found.result(SECONDS).outcomes[0].result == "created" for found in accepted)
        wait_until(lambda: one.runner.intake._closed, seconds=SECONDS)
        with pytest.raises(Transient, match="ending"):
            one.ask(put("late", "x"))
    assert len(documents.texts()) == 6


def test_memory_is_bounded_by_number_oldest_first(documents: Documents) -> None:
    with writing(documents, Local(Memory(tombstones=3, answers=2))) as one:
        for number in range(6):
            one.done(put(f"{number}", "x", 5), key=f"k{number}")
            one.done(delete(f"{number}", 6))
        one.done(put("other", "x"))
        assert one.done(put("5", "late", 5)).refusal == "stale-revision"
        assert one.done(put("0", "late", 5)).result == "created", "it was the oldest"
        assert one.ask(put("5", "x", 5), key="k5").result(SECONDS).replayed
        assert one.ask(put("0", "x", 7), key="k0").result(SECONDS).replayed is False
    with read(documents) as state:
        assert len(list(state.marks("deleted/"))) == 3
        assert len(list(state.marks("answer/"))) == 3, "the newest comes with the transaction that removes the oldest"


def test_memory_is_bounded_by_time(documents: Documents) -> None:
    with writing(documents) as one:
        one.done(put("a", "x", 3), key="k")
        one.done(delete("b", 4))
    now = [time.time()]
    with read(documents) as state:
        ledger = Ledger(state, Memory(tombstone_seconds=200, answer_seconds=100), lambda: now[0])
        ledger.load()
        assert ledger.outlived() == []
        assert ledger.answer(answer_name("k")) is not None
        now[0] += 101
        assert ledger.outlived() == [answer_name("k")]
        assert ledger.answer(answer_name("k")) is None, "whether it was removed yet or not"
        now[0] += 100
        assert ledger.outlived() == ["deleted/b", answer_name("k")]
        ledger.noted({"deleted/b": None, answer_name("k"): None})
        assert ledger.outlived() == []


def test_the_state_is_all_that_a_restart_needs_and_is_read_once(documents: Documents) -> None:
    with writing(documents) as one:
        one.done(put("a", "x", 3), key="k")
        one.done(delete("b", 4))
    with read(documents) as state:
        ledger = Ledger(state, Memory())
        ledger.load()
        assert ledger.standing("a").revision == 3
        assert ledger.standing("b") == Standing(4)
        assert ledger.answer(answer_name("k")) is not None


@pytest.mark.parametrize("round_", range(6))
def test_whatever_comes_between_the_log_has_the_newest_revision_of_each(round_: int, broker: EmbeddedBroker) -> None:
    """Given senders that repeat what they get no answer to, kills around transactions and outages, then
    the log ends in the newest revision of each document, and nobody was told what is not so.
    """
    seed = random.SystemRandom().randrange(1 << 32) if round_ else 7
    print(f"seed {seed}")
    chance = random.Random(seed)
    danger = [0.0]

    def plan(after: bool) -> None:
        drawn = chance.random()
        if drawn < danger[0]:
            raise Killed
        if drawn < 2 * danger[0]:
            raise BrokerUnavailable("no answer")

    documents = Documents(FaultyBroker(broker, plan))
    paths = [f"d{number}" for number in range(4)]
    #: What each sender has to say, in its own order of revisions; a delete is None.
    texts = {path: [chance.choice([None, "a", "b", f"text {n}"]) for n in range(1, 9)] for path in paths}
    todo: list[tuple[str, int]] = [(path, revision) for path in paths for revision in range(1, 9)]
    chance.shuffle(todo)
    told: dict[str, int] = {}
    while todo:
        danger[0] = 0.12
        with suppress(Killed, Fenced), writing(documents) as one:
            while todo and one.failure is None:
                group = [todo.pop() for _ in range(min(len(todo), chance.randrange(1, 5)))]
                asked: list[tuple[tuple[str, int], Future[Answered]]] = []
                for path, revision in group:
                    text = texts[path][revision - 1]
                    operation = delete(path, revision) if text is None else put(path, text, revision)
                    key = f"{path}/{revision}" if chance.random() < 0.5 else ""
                    try:
                        asked.append(((path, revision), one.ask(operation, key=key)))
                    except Transient:
                        todo.insert(chance.randrange(len(todo) + 1), (path, revision))
                for (path, revision), future in asked:
                    try:
                        outcome = future.result(SECONDS).outcomes[0]
                    except Transient:
                        todo.insert(chance.randrange(len(todo) + 1), (path, revision))
                        continue
                    if outcome.result == "refused":
                        assert outcome.refusal == "stale-revision", f"{outcome}, seed {seed}"
                        assert told.get(path, 0) > revision or one.look(path).revision > revision, f"seed {seed}"  # type: ignore[operator]
                    else:
                        told[path] = max(told.get(path, 0), revision)
                if chance.random() < 0.1:
                    break
    danger[0] = 0.0
    with writing(documents) as one:
        for path in paths:
            assert one.look(path).revision == 8, f"{path}, seed {seed}"
    wanted = {path: said[-1] for path, said in texts.items() if said[-1] is not None}
    assert documents.texts() == wanted, f"seed {seed}"


def test_the_queue_gives_whole_requests_within_the_bounds_of_a_transaction() -> None:
    intake = Intake(Limits(group_operations=3, group_bytes=1000))
    intake.away("")
    sizes = [(2, 10), (2, 10), (1, 10), (5, 10), (1, 990), (1, 20)]
    for count, size in sizes:
        intake.submit(Asked(tuple(delete(f"{n}") for n in range(count)), size, Deadline.after(SECONDS)))
    taken = []
    while found := intake.take(0.0):
        taken.append([len(one.operations) for one in found if isinstance(one, Asked)])
    assert taken == [[2], [2, 1], [5], [1], [1]]


def test_rights_that_are_missing_cost_a_patch_and_the_lag_and_nothing_else(
    documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    def behind() -> int:
        raise NotAllowed("the group")

    def read(*of: Any) -> None:
        raise NotAllowed("the topic")

    with writing(documents, Local(lag_limit_records=1), behind=behind) as one:
        one.runner._read = read  # type: ignore[method-assign]
        for _ in range(2):
            one.done(put("a", "x"))
            assert one.done(Patch("a", {"n": 1}, 1.0)).refusal == "patch-impossible"
            one.runner._next_behind = 0.0
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "senders are not slowed down", "documents cannot be patched",
    ]  # fmt: skip


def test_patches_cannot_pile_up_names_of_metadata(documents: Documents) -> None:
    with writing(documents) as one:
        one.done(put("a", "x"))
        for number in range(2):
            assert one.done(Patch("a", {f"n{number}-{n}": 1 for n in range(64)}, 1.0)).result == "changed"
        assert one.done(Patch("a", {"more": 1}, 1.0)).refusal == "patch-impossible"
        assert one.done(Patch("a", {"more": 1, "n0-0": None}, 1.0)).result == "changed"
