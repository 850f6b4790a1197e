"""Crashes, fencing and outages around a transaction: the log must equal the source afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from pipeline.errors import BrokerUnavailable
from pipeline.ports import Listed
from pipeline.records import DocumentDeleted
from tests.support.sources import Documents, runner, running, scanned, wait_until
from tests.unit.connectors.faults import FaultyBroker, Killed, Spy, reopened


def planned(documents: Documents, plan: Callable[[bool], None]) -> FaultyBroker:
    broker = FaultyBroker(documents.broker, plan)
    documents.broker = broker  # type: ignore[assignment]
    return broker


def nth(number: int, wanted_after: bool, error: BaseException) -> Callable[[bool], None]:
    """A plan that raises once, before or after the nth transaction is written."""
    seen = [0]

    def plan(after: bool) -> None:
        if after is wanted_after:
            seen[0] += 1
            if seen[0] == number:
                raise error

    return plan


@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_kill_between_transaction_and_cache(documents: Documents, tmp_path: Path, number: int, after: bool) -> None:
    """Given a process killed right before or after a transaction, when it starts again, then every
    document is in the log and none is published twice.
    """
    source = MemorySource("m")
    for name in range(9):
        source.put(str(name), f"text {name}")
    broker = planned(documents, nth(number, after, Killed()))
    one = runner(source, documents, tmp_path, RunnerLimits(batch_documents=3))
    one.run()
    assert isinstance(one.failure, Killed)
    broker.plan = lambda after: None
    scanned(reopened(source), documents, tmp_path)
    assert documents.texts() == {str(name): f"text {name}" for name in range(9)}
    assert len(documents.events()) == 9


def test_kill_before_an_event_whose_document_was_touched_meanwhile(documents: Documents, tmp_path: Path) -> None:
    """Given a document that waits to be published and shows the same content under a new revision, when
    the process is killed, then the cache does not believe that it was published.
    """

    class Touched(Spy):
        def scan(self) -> Iterator[Listed]:
            yield from super().scan()
            source.put("doc", "text")
            yield from super().scan()

    source = MemorySource("m")
    source.put("a document before it, published by itself", "text")
    source.put("doc", "text")
    source = reopened(source)  # without hints, which would publish both at once
    broker = planned(documents, nth(2, False, Killed()))
    one = runner(Touched(source), documents, tmp_path)
    one.run()
    assert isinstance(one.failure, Killed)
    broker.plan = lambda after: None
    scanned(reopened(source), documents, tmp_path)
    assert "doc" in documents.texts()


def test_kill_between_event_and_delete_of_a_rename(documents: Documents, tmp_path: Path) -> None:
    """Given a kill after the create of a rename was published, then the next start publishes the delete."""
    source = MemorySource("m")
    source.put("old", "text")
    scanned(source, documents, tmp_path)
    broker = planned(documents, nth(1, True, Killed()))
    with running(source := reopened(source), documents, tmp_path) as one:
        one.wait_scanned()
        source.rename("old", "new")
        assert isinstance(one.wait_ended(), Killed)
    broker.plan = lambda after: None
    assert documents.texts() == {"old": "text", "new": "text"}
    scanned(reopened(source), documents, tmp_path)
    assert documents.texts() == {"new": "text"}
    assert len(documents.events()) == 3


@pytest.mark.parametrize("after", [False, True], ids=["aborted", "outcome-unknown-but-written"])
def test_an_outage_in_the_middle_publishes_everything_once(documents: Documents, tmp_path: Path, after: bool) -> None:
    """Given a broker that does not answer at every other transaction, written or not, then the runner
    takes its id over again, reads back what was written, and nothing is lost or published twice.
    """
    calls = [0]

    def plan(now_after: bool) -> None:
        if now_after is after:
            calls[0] += 1
            if calls[0] % 2:
                raise BrokerUnavailable("connection reset")

    source = MemorySource("m")
    for name in range(12):
        source.put(str(name), "x")
    broker = planned(documents, plan)
    with running(source, documents, tmp_path, RunnerLimits(batch_documents=4)) as one:
        one.wait_scanned()
        source.put("0", "edited")
        source.remove("1")
        documents.wait_for({"0": "edited", **{str(name): "x" for name in range(2, 12)}})
        wait_until(lambda: one.health.readyz().ok)
    assert len(documents.events()) == 14
    assert broker.taken_over > 2


def test_a_long_outage_is_not_ready_and_ends_by_itself(documents: Documents) -> None:
    down = [True]

    def plan(after: bool) -> None:
        if down[0]:
            raise BrokerUnavailable("no brokers")

    planned(documents, plan)
    source = MemorySource("m")
    source.put("doc", "x")
    with running(source, documents) as one:
        wait_until(lambda: "broker" in one.health.readyz().reasons)
        assert not one.runner.scanned.is_set()
        down[0] = False
        one.wait_scanned()
        wait_until(lambda: one.health.readyz().ok)
    assert documents.texts() == {"doc": "x"}


def test_stopping_does_not_wait_for_an_outage(documents: Documents) -> None:
    def plan(after: bool) -> None:
        raise BrokerUnavailable("no brokers")

    planned(documents, plan)
    source = MemorySource("m")
    source.put("doc", "x")
    with running(source, documents) as one:
        wait_until(lambda: "broker" in one.health.readyz().reasons)
    assert documents.texts() == {}


def test_any_history_of_edits_kills_and_outages_ends_with_log_and_source_equal(
    documents: Documents, tmp_path: Path
) -> None:
    """Random edits, live and while it is down, with kills, outages and lost caches in between."""
    seed = int(os.environ.get("VECTIDE_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed} (VECTIDE_TEST_SEED repeats it)")
    chance = random.Random(seed)
    paths = [f"{folder}/{name}" for folder in "abc" for name in "123"]
    source = MemorySource("m")

    def edit() -> None:
        there = list(source._documents)
        match chance.randrange(5):
            case 0 | 1:
                source.put(chance.choice(paths), f"text {chance.randrange(4)}", {"n": chance.randrange(2)})
            case 2 if there:
                source.remove(chance.choice(there))
            case 3 if there:
                source.rename(chance.choice(there), chance.choice(paths))
            case _ if there:
                path = chance.choice(there)
                document = source._documents[path]
                source.put(path, document.text, document.metadata)

    def plan(after: bool) -> None:
        fate = chance.random()
        if fate < 0.05:
            raise Killed
        if fate < 0.15:
            raise BrokerUnavailable("chance")

    broker = planned(documents, plan)
    for round_ in range(12):
        for _ in range(chance.randrange(6)):
            edit()
        if chance.random() < 0.2:
            for file in tmp_path.iterdir():
                file.unlink()
        broker.plan = plan
        with running(source, documents, tmp_path, RunnerLimits(batch_documents=chance.randrange(1, 4))) as one:
            wait_until(lambda one=one: one.runner.scanned.is_set() or one.failure)
            for _ in range(chance.randrange(8)):
                edit()
            if one.failure is None and round_ % 3 == 0:
                wait_until(
                    lambda one=one: (
                        one.failure or documents.texts() == {p: d.text for p, d in source._documents.items()}
                    )
                )
            one.stop.set()
            failure = one.wait_ended()
            assert failure is None or isinstance(failure, Killed)
        source = reopened(source)
    broker.plan = lambda after: None
    scanned(source, documents, tmp_path)
    expected = {path: (one.text, dict(one.metadata)) for path, one in source._documents.items()}
    assert {path: (one.text, dict(one.metadata)) for path, one in documents.now().items()} == expected, f"seed {seed}"
    events = len(documents.events())
    scanned(reopened(source), documents, None)
    assert len(documents.events()) == events
    assert any(isinstance(event, DocumentDeleted) for event in documents.events()) or events < 5
