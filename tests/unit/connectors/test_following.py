"""Sources with a log: what is acknowledged is published, and a restart misses nothing without a scan."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.following import Following
from connectors.mapping import rules_of, with_rules
from connectors.runner import RunnerLimits
from pipeline.errors import BrokerUnavailable
from pipeline.ports import Listed, LogSource
from pipeline.records import Request
from tests.support.positions import position
from tests.support.sources import Documents, Running, runner, running, wait_until
from tests.unit.connectors.faults import FaultyBroker, Killed
from tests.unit.connectors.logged import LoggedSource, Server
from tests.unit.connectors.test_duties import Asked, taken_over

LIMITS = RunnerLimits(position_seconds=0.0, hints_seconds=0.01)


def broken(documents: Documents) -> FaultyBroker:
    broker = FaultyBroker(documents.broker, lambda after: None)
    documents.broker = broker  # type: ignore[assignment]
    return broker


def killed(server: Server, documents: Documents, directory: Path, number: int = 1) -> Running:
    """A runner that dies before one of its next transactions."""
    broker, left = broken(documents), [number]

    def kill(after: bool) -> None:
        left[0] -= not after
        if left[0] == 0:
            raise Killed

    one = runner(LoggedSource(server), documents, directory, LIMITS)
    broker.plan = kill
    one.run()
    assert isinstance(one.failure, Killed)
    broker.plan = lambda after: None
    return one


def synced(server: Server, documents: Documents, directory: Path) -> LoggedSource:
    """One run, until everything is published and its position noted."""
    source = LoggedSource(server)
    with running(source, documents, directory, LIMITS) as one:
        one.wait_scanned()
        documents.wait_for(server.texts())
        wait_until(lambda: position(documents) == f"{server.slot}@{server.next}")
    return source


def test_the_port_tells_them_apart() -> None:
    server = Server()
    assert isinstance(LoggedSource(server), LogSource)
    assert not isinstance(server.documents, LogSource)


def test_a_restart_goes_on_without_a_scan(documents: Documents, tmp_path: Path) -> None:
    """Given changes while it was down, then they are published from the log, and nothing is listed."""
    server = Server()
    server.put("a", "1")
    assert synced(server, documents, tmp_path).scans == 1
    server.put("b", "2")
    server.remove("a")
    assert synced(server, documents, tmp_path).scans == 0
    assert documents.texts() == {"b": "2"}
    assert len(documents.events()) == 3


def test_a_restart_without_a_scan_says_when_the_last_one_began(documents: Documents, tmp_path: Path) -> None:
    """Given a week between two scans, then no alert takes the restarted process for one that never scanned."""
    server = Server()
    before = time.time()
    source = synced(server, documents, tmp_path)
    assert source.scans == 1
    after, again = time.time(), LoggedSource(server)
    with running(again, documents, tmp_path, LIMITS) as one:
        one.wait_scanned()
        shown = one.metrics.registry.get_sample_value(
            "vectide_source_last_scan_timestamp_seconds", {"source": again.id}
        )
    assert again.scans == 0
    assert before <= (shown or 0.0) <= after


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_acknowledged_that_is_not_published(documents: Documents, tmp_path: Path, number: int) -> None:
    """Given a kill before the event's transaction, or before the one that notes the position, then the log
    still has the hint, and it is published.
    """
    server = Server()
    server.put("a", "1")
    synced(server, documents, tmp_path)
    server.put("a", "2")
    before = server.kept
    killed(server, documents, tmp_path, number)
    assert server.kept == before
    assert documents.texts() == {"a": str(number)}
    assert synced(server, documents, tmp_path).scans == 0
    assert documents.texts() == {"a": "2"}


def test_a_document_that_cannot_be_read_holds_the_position_and_later_ones_do_not_pass_it(
    documents: Documents, tmp_path: Path
) -> None:
    """Given a change that is still waited for, when the connector ends, then the restart is told of it again."""
    server = Server()
    server.put("a", "1")
    synced(server, documents, tmp_path)
    source = LoggedSource(server)
    source.unreadable.add("a")
    with running(source, documents, tmp_path, LIMITS):
        server.put("a", "2")
        place = server.next - 1
        wait_until(lambda: source.position() == f"slot@{server.next}")
        for number in range(5):
            server.put("b", str(number))
        documents.wait_for({"a": "1", "b": "4"})
    assert max(source.acknowledged, default=0) <= place
    assert synced(server, documents, tmp_path).scans == 0
    assert documents.texts() == {"a": "2", "b": "4"}


def test_what_is_given_up_is_looked_at_after_a_restart(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a document that stays unreadable, then the log need not keep it, and a restart scans."""
    monkeypatch.setattr("connectors.runner._UNREADABLE_SECONDS", (0.0, 0.0))
    server = Server()
    server.put("a", "1")
    synced(server, documents, tmp_path)
    source = LoggedSource(server)
    source.unreadable.add("a")
    with running(source, documents, tmp_path, LIMITS):
        server.put("a", "2")
        wait_until(lambda: server.kept == server.next)
    assert source.scans == 0
    assert position(documents) is None
    assert synced(server, documents, tmp_path).scans == 1
    assert documents.texts() == {"a": "2"}


def test_what_is_given_up_in_the_middle_of_a_scan_is_looked_at_after_a_restart(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a change of a document that the scan has passed, and that stays unreadable until it is given up before
    the scan ends, then no position stands, and a restart scans.
    """
    monkeypatch.setattr("connectors.runner._UNREADABLE_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("connectors.runner._BREATH_SECONDS", 0.0)
    server = Server()
    for name in "abc":
        server.put(name, "1")
    synced(server, documents, tmp_path)

    class Long(LoggedSource):
        def scan(self) -> Iterator[Listed]:
            for number, one in enumerate(super().scan()):
                if number == 1:
                    self.unreadable.add("a")
                    server.put("a", "2")
                yield one
                if number == 1:
                    at_work.runner._follow(0.0)  # as many looks as it takes
                    at_work.runner._follow(0.0)
                    at_work.runner._follow(0.0)

    source = Long(server)
    with running(source, documents, tmp_path, LIMITS) as at_work:
        wait_until(at_work.runner.scanned.is_set)
        at_work.runner._scan_wanted = True
        wait_until(lambda: source.scans == 1 and server.kept == server.next and at_work.runner._given_up == 1)
    assert position(documents) is None
    assert synced(server, documents, tmp_path).scans == 1
    assert documents.texts() == server.texts()


def test_a_log_that_has_lost_its_past_is_scanned(documents: Documents, tmp_path: Path) -> None:
    """Given a slot that somebody else has read, or that was made anew, then everything is compared."""
    server = Server()
    server.put("a", "1")
    synced(server, documents, tmp_path)
    for slot in ("slot", "another"):
        server.put("a", f"text that only a scan finds, {slot}")
        server.log.clear()
        server.kept, server.slot = server.next, slot
        assert synced(server, documents, tmp_path).scans == 1
        assert documents.texts() == server.texts()


def test_a_scan_that_was_asked_for_is_owed_until_it_is_published(documents: Documents, tmp_path: Path) -> None:
    """Given a hint that anything may have changed and a kill in its scan, then the restart scans."""
    server = Server()
    server.put("a", "1")
    synced(server, documents, tmp_path)
    server.documents.put("b", "without a hint of its own")
    server.note(None)
    killed(server, documents, tmp_path)
    assert synced(server, documents, tmp_path).scans == 1
    assert documents.texts() == server.texts()


def test_while_a_scan_is_owed_the_log_may_forget_and_no_position_stands(documents: Documents, tmp_path: Path) -> None:
    """A first scan can take days: the server's disk must not fill for it."""
    server = Server()
    for number in range(20):
        server.put(str(number), "x")
    synced(server, documents, tmp_path)
    source = LoggedSource(server)
    with running(source, documents, tmp_path, LIMITS) as one:
        one.wait_scanned()
        one.runner._scan_owed = True
        server.put("0", "y")
        wait_until(lambda: server.kept == server.next)
        assert position(documents) is None
        one.runner._scan_wanted = True
        wait_until(lambda: position(documents) is not None)


@pytest.mark.parametrize("running_", [True, False], ids=["by the runner", "by a command while it is down"])
def test_what_is_lifted_is_found_again(documents: Documents, tmp_path: Path, running_: bool) -> None:
    """Given a document that changed while it was forgotten, when that is lifted, then a scan finds it:
    its hints are long past.
    """
    server, asked = Server(), Asked()
    server.put("a", "1")
    server.put("b", "1")
    synced(server, documents, tmp_path)
    request: Request = asked.add("forget", "a")
    assert taken_over(documents, request, asked) is not None
    server.put("a", "2")
    with running(LoggedSource(server), documents, tmp_path, LIMITS, asked):
        documents.wait_for({"b": "1"})
        wait_until(lambda: position(documents) == f"slot@{server.next}")
    lifted = asked.add("lift", "a")
    if not running_:
        assert taken_over(documents, lifted, asked) is not None
        assert position(documents) is None
    with running(LoggedSource(server), documents, tmp_path, LIMITS, asked):
        documents.wait_for({"a": "2", "b": "1"})


def test_a_lost_cache_is_scanned(documents: Documents, tmp_path: Path) -> None:
    """What the cache believed in may be missing from the log."""
    server = Server()
    server.put("a", "1")
    synced(server, documents, tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    assert synced(server, documents, tmp_path).scans == 1


def test_a_restart_does_not_put_the_next_scan_off() -> None:
    """Given 600 s between scans and one 599 s ago, then the next one is due in a second."""
    now = [1000.0]
    following = Following(LoggedSource(Server()), clock=lambda: now[0])
    following.scanned(900.0)
    assert following.until_scan(600.0) == 500.0
    now[0] = 1499.0
    assert following.until_scan(600.0) == 1.0
    now[0] = 9999.0
    assert following.until_scan(600.0) == 0.0
    now[0] = 0.0
    assert following.until_scan(600.0) == 600.0, "a clock that was put back"


def test_positions_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.following._LIMIT", 3)
    server = Server()
    source = LoggedSource(server, portion=1)
    source.resume(None)
    following = Following(source, seconds=0.0)
    for number in range(10):
        server.put(str(number), "x")
        source.hints(0.0)
        following.heard()
    assert following.published(oldest=1) is None
    assert following.published(oldest=2) == "slot@1"
    assert following.published(oldest=10) == "slot@2", "what was merged waits for the newest of it"
    assert following.published(oldest=None) == "slot@10"


def test_the_backlog_is_a_metric(documents: Documents) -> None:
    server = Server()
    server.put("a", "1")
    with running(LoggedSource(server), documents, None, LIMITS) as one:
        labels = {"source": "m", "unit": "records"}
        read = one.metrics.registry.get_sample_value
        wait_until(lambda: read("vectide_source_backlog", labels) is not None)


def test_any_history_of_changes_kills_and_outages_ends_with_log_and_source_equal(
    documents: Documents, tmp_path: Path
) -> None:
    """Random changes, with kills before and after transactions, outages, lost caches and lost slots between.
    What the log does not tell, only a scan that was not skipped can find.
    """
    seed = int(os.environ.get("VECTIDE_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed} (VECTIDE_TEST_SEED repeats it)")
    chance = random.Random(seed)
    server, broker = Server(), broken(documents)
    scans = 0

    def change() -> None:
        path = chance.choice("abcdef")
        if chance.random() < 0.3 and path in server.documents._documents:
            server.remove(path)
        else:
            server.put(path, f"text {chance.randrange(4)}")

    def plan(after: bool) -> None:
        fate = chance.random()
        if fate < 0.1:
            raise Killed
        if fate < 0.2:
            raise BrokerUnavailable("chance")

    for _ in range(30):
        for _ in range(chance.randrange(5)):
            change()
        if chance.random() < 0.1:
            for file in tmp_path.iterdir():
                file.unlink()
        if chance.random() < 0.1:
            server.kept = server.next
            server.log.clear()
        broker.plan = plan
        source = LoggedSource(server, chance.randrange(1, 4))
        with running(source, documents, tmp_path, LIMITS) as one:
            wait_until(lambda one=one: one.runner.scanned.is_set() or one.failure)
            for _ in range(chance.randrange(6)):
                change()
                time.sleep(chance.choice([0.0, 0.02]))
            one.stop.set()
            failure = one.wait_ended()
            assert failure is None or isinstance(failure, Killed)
        scans += source.scans
    broker.plan = lambda after: None
    last = synced(server, documents, tmp_path)
    assert documents.texts() == server.texts(), f"seed {seed}"
    assert scans + last.scans < 31, f"seed {seed}: every restart has scanned"


def test_metadata_by_configuration_goes_on_where_the_log_was_and_other_rules_scan(
    documents: Documents, tmp_path: Path
) -> None:
    """Given a source with a log behind rules for metadata, then a restart does not scan, and one with other rules does
    and publishes what they say.
    """
    server = Server()
    server.put("a", "one")

    def one_run(owner: str) -> LoggedSource:
        source = LoggedSource(server)
        mapped = with_rules(source, rules_of("m", {"owner": owner}))
        assert isinstance(mapped, LogSource)
        with running(mapped, documents, tmp_path, LIMITS) as one:
            one.wait_scanned()
            wait_until(lambda: {path: event.text for path, event in documents.now().items()} == server.texts())
            wait_until(lambda: (documents.position() or "").endswith(f"~slot@{server.next}"))
        return source

    assert one_run("ada").scans == 1
    server.put("b", "two")
    again = one_run("ada")
    assert again.scans == 0
    assert again.acknowledged[-1] == server.next
    assert one_run("bob").scans == 1
    assert {event.metadata["owner"] for event in documents.now().values()} == {"bob"}
