"""The certification itself: each check finds the fault that it is there for, and a report says what is not shown."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.batches import Batch
from connectors.certification import CHECKS, Check, NotShown, Scale, certify, outcome_of
from connectors.memory import MemorySource
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.ports import Fetched, Skipped, Source
from tests.contract import certification_mutants as mutants
from tests.contract.certification_mutants import Broken, placed
from tests.contract.places import MemoryPlace
from tests.unit.connectors.logged import LoggedSource, Server

#: A mutant that hangs is waited for so long.
SCALE = Scale(documents=400, document_bytes=30_000, kills=4, latencies=2, patience_seconds=3.0, seed=7)
#: What is to pass is waited for so long, on a machine that is busy with something else.
PATIENCE = 40.0
BY_NAME = {check.name: check for check in CHECKS}

#: By check: connectors that it must refuse, each with a word of the reason.
MUTANTS: dict[str, list[tuple[type[Broken], str]]] = {
    "a-scan-lists-every-document-once": [(mutants.ListsTwice, "listed were")],
    "an-empty-place-lists-nothing": [(mutants.ListsItsFolder, "listed were")],
    "a-revision-changes-when-the-document-does": [
        (mutants.HasOneRevision, "edited is the same"),
        (mutants.HasAnotherRevisionEachTime, "nobody touched"),
    ],
    "a-fetched-document-is-the-listed-one": [
        (mutants.FetchesAnotherRevision, "fetched as another"),
        (mutants.StripsTexts, "the text of"),
    ],
    "fetching-twice-gives-the-same": [(mutants.CountsInMetadata, "then")],
    "a-copy-embeds-nothing": [
        (mutants.HasPathsInMetadata, "in the metadata"),
        (mutants.HasPathsInDigests, "in the digest"),
    ],
    "metadata-are-scalars-and-lists-of-text": [(mutants.NestsMetadata, "'author'")],
    "what-is-not-listed-cannot-be-fetched": [(mutants.FindsEverything, "fetching 'absent'")],
    "a-removed-document-is-gone": [(mutants.FindsEverything, "fetching it gave")],
    "every-change-is-hinted": [
        (mutants.HintsNoDeletes, "was not hinted"),
        (mutants.HintsOfAnotherTime, "of another time"),
    ],
    "a-change-during-the-scan-is-hinted": [(mutants.BeginsToWatchAfterTheScan, "was not hinted")],
    "a-quiet-place-gives-no-hints": [(mutants.HintsForNothing, "hints never cease")],
    "close-wakes-a-waiting-thread": [(mutants.IsNotWokenByClose, "still waits")],
    "two-sources-over-one-place-agree": [(mutants.DependsOnTheProcess, "the other")],
    "the-first-sync-publishes-everything": [(mutants.SkipsATextFile, "the log has")],
    "nothing-is-published-when-nothing-changed": [(mutants.HasAnotherRevisionEachTime, "read again")],
    "creates-edits-and-deletes-are-published-live": [
        (mutants.HintsNothing, "the log has"),
        (mutants.HintsNoDeletes, "the log has"),
    ],
    "what-changed-while-it-was-down-is-published-at-the-next-start": [(mutants.HasOneRevision, "the log has")],
    "a-rename-is-published-as-create-then-delete": [(mutants.HasPathsInDigests, "another digest")],
    "a-change-is-not-undone-by-an-older-one": [(mutants.ReadsFromALaggingReplica, "version")],
    "normal-operation-emits-no-logs": [(mutants.LogsWhatItDoes, "fetching a document")],
    "secrets-are-not-shown": [
        (mutants.LogsItsSettings, "<THE SECRET>"),
        (mutants.ShowsItsPasswordInErrors, "<THE SECRET>"),
        (mutants.ShowsItsPasswordInItsRepr, "<THE SECRET>"),
    ],
    "a-poison-document-harms-no-other": [
        (mutants.LosesWhatItCannotRead, "nothing tells"),
        (mutants.IsPoisonedAsAWhole, "never ended"),
        (mutants.TriesThePoisonForEver, "nothing tells"),
    ],
    "a-rename-onto-another-document-replaces-it": [(mutants.KeepsTheFirstText, "the log has")],
    "killed-around-a-transaction-nothing-is-lost-or-repeated": [(mutants.KeepsACursorOfItsOwn, "lost is")],
    "killed-anywhere-nothing-is-lost-or-repeated": [(mutants.KeepsACursorOfItsOwn, "the log has")],
    "down-is-waited-out-and-deletes-nothing": [
        (mutants.TakesAnOutageForAnEmptyPlace, "it is ready"),
        (mutants.SaysThatItWaitsAndDeletes, "were deleted"),
        (mutants.EndsWithAnOutage, "is waited for"),
    ],
    "unauthorised-is-waited-out-and-deletes-nothing": [(mutants.EndsWithAnOutage, "is waited for")],
    "garbled-is-waited-out-and-deletes-nothing": [(mutants.PublishesTheErrorPage, "it is ready")],
    "down-at-the-start-is-waited-out": [(mutants.TakesAnOutageForAnEmptyPlace, "it is ready")],
    "unauthorised-at-the-start-is-waited-out": [(mutants.EndsWithAnOutage, "is waited for")],
    "garbled-at-the-start-is-waited-out": [(mutants.PublishesTheErrorPage, "it is ready")],
    "down-does-not-hold-up-the-end": [(mutants.WaitsWithoutALimit, "does not stop")],
    "unauthorised-does-not-hold-up-the-end": [(mutants.WaitsWithoutALimit, "does not stop")],
    "garbled-does-not-hold-up-the-end": [(mutants.WaitsWithoutALimit, "does not stop")],
    "a-broken-place-is-asked-again-with-pauses": [(mutants.TriesAgainAtOnce, "without a pause")],
    "a-slow-place-is-synced-and-can-be-stopped": [(mutants.GivesUpOnSlowAnswers, "timed out")],
    "a-large-place-is-synced-in-bounded-memory-with-progress": [(mutants.KeepsEverything, "memory grew")],
    "a-change-reaches-the-log-and-how-fast": [(mutants.HintsNothing, "never reached the log")],
}
#: For the command's own test.
NESTING = placed(mutants.NestsMetadata)
#: Of these the runner is to blame, and its part is broken below.
OF_THE_RUNNER = {"events-and-state-are-one-transaction", "a-zombie-copy-is-fenced-out"}


def test_every_check_has_a_mutant() -> None:
    assert MUTANTS.keys() | OF_THE_RUNNER == BY_NAME.keys()


@pytest.mark.parametrize(
    "name, broken, reason",
    [(name, broken, reason) for name, rows in MUTANTS.items() for broken, reason in rows],
    ids=lambda one: one.__name__ if isinstance(one, type) else None,
)  # fmt: skip
def test_a_broken_connector_is_refused(name: str, broken: type[Broken], reason: str, tmp_path: Path) -> None:
    outcome = outcome_of(BY_NAME[name], placed(broken), tmp_path / "one", SCALE)
    if reason not in outcome.detail:  # a machine that is busy with something else
        outcome = outcome_of(
            BY_NAME[name], placed(broken), tmp_path / "other", replace(SCALE, patience_seconds=PATIENCE)
        )
    assert outcome.verdict == "failed"
    assert reason in outcome.detail


@pytest.mark.parametrize("name", sorted(OF_THE_RUNNER))
def test_a_broken_runner_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Batch.records
    if name == "a-zombie-copy-is-fenced-out":
        monkeypatch.setattr(EmbeddedBroker, "check_epoch", lambda *of: None)
    else:
        # The last event's state is left to be written some other time.
        monkeypatch.setattr(Batch, "records", lambda batch: records(batch)[: 2 * len(batch) - 1])
    outcome = outcome_of(BY_NAME[name], placed(Broken), tmp_path, SCALE)
    assert outcome.verdict == "failed", outcome


class _Logs(Broken):
    """Its client writes down what it was answered."""

    def fetch(self, path: str) -> Fetched | Skipped | None:
        logging.getLogger("client").debug("answered: %s", bytes(300_000))
        return super().fetch(path)


def test_what_a_client_logs_is_not_its_memory(tmp_path: Path) -> None:
    check = BY_NAME["a-large-place-is-synced-in-bounded-memory-with-progress"]
    outcome = outcome_of(check, placed(_Logs), tmp_path, replace(SCALE, patience_seconds=PATIENCE))
    assert outcome.verdict == "passed", outcome.detail


class _ResumesAtTheEnd(LoggedSource):
    """It says that nothing was missed, and forgets what was not published yet."""

    def resume(self, position: str | None) -> bool:
        resumed = super().resume(position)
        self._next = self._server.next
        return resumed


@pytest.mark.parametrize(("kind", "verdict"), [(LoggedSource, "passed"), (_ResumesAtTheEnd, "failed")])
def test_a_source_with_a_log_is_killed_as_one(kind: type[LoggedSource], verdict: str, tmp_path: Path) -> None:
    """Given a source whose log goes on at the wrong place after a kill, then it is refused."""

    class LoggedPlace:
        def __init__(self, folder: Path) -> None:
            self.server = Server()
            self.put, self.remove = self.server.put, self.server.remove

        def source(self) -> Source:
            return kind(self.server)

    check = BY_NAME["killed-anywhere-nothing-is-lost-or-repeated"]
    scale = replace(SCALE, kills=12, patience_seconds=PATIENCE if verdict == "passed" else SCALE.patience_seconds)
    outcome = outcome_of(check, LoggedPlace, tmp_path, scale)
    assert outcome.verdict == verdict, outcome


class Bare:
    """A place that can do nothing but what it must."""

    def __init__(self, folder: Path) -> None:
        self.one = MemorySource("place")

    def put(self, path: str, text: str) -> None:
        if not path.endswith(".txt"):
            raise NotShown("only texts")
        self.one.put(path, text)

    def remove(self, path: str) -> None:
        self.one.remove(path)

    def source(self) -> Source:
        return self.one


def test_what_a_place_cannot_show_is_not_called_passed() -> None:
    names = ["a-scan-lists-every-document-once", "secrets-are-not-shown", "a-rename-onto-another-document-replaces-it",
             "down-at-the-start-is-waited-out", "a-poison-document-harms-no-other"]  # fmt: skip
    begun: list[Check] = []
    report = certify(Bare, [BY_NAME[name] for name in names], SCALE, begun.append)
    assert [one.verdict for one in report.outcomes] == ["passed", *["not shown"] * 4]
    assert report.ok
    assert [one.name for one in begun] == names
    assert all(one.detail for one in report.outcomes[1:])
    assert not certify(Bare, [BY_NAME["secrets-are-not-shown"]], SCALE).ok


def test_a_source_that_raises_has_failed_and_the_error_is_named(tmp_path: Path) -> None:
    class Raises(Broken):
        def fetch(self, path: str) -> None:
            raise RuntimeError("a bug")

    outcome = outcome_of(BY_NAME["fetching-twice-gives-the-same"], placed(Raises), tmp_path, SCALE)
    assert outcome.verdict == "failed"
    assert "RuntimeError: a bug" in outcome.detail


def test_memory_is_not_shown_by_a_place_that_is_too_small_for_it(tmp_path: Path) -> None:
    """Before the 200th document libraries are loaded, and nothing can be said."""
    check = BY_NAME["a-large-place-is-synced-in-bounded-memory-with-progress"]
    patient = replace(SCALE, document_bytes=10, patience_seconds=PATIENCE)
    small, larger = (replace(patient, documents=count) for count in (200, 201))
    outcome = outcome_of(check, MemoryPlace, tmp_path / "small", small)
    assert outcome.verdict == "not shown"
    assert "all 200 documents were published" in outcome.detail
    assert outcome_of(check, MemoryPlace, tmp_path / "larger", larger).verdict == "passed"
