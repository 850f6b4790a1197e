"""What reaches the log: first sync, restarts, edits, deletes and renames, live and while it was down."""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from typing import Final

from connectors.certification.checks import Checks
from connectors.certification.contract import PATHS
from connectors.certification.interruptions import watched
from connectors.certification.place import Renames, Sends
from connectors.certification.rig import Documents
from connectors.certification.trial import Trial
from connectors.state import is_mark
from pipeline.errors import VectideError
from pipeline.records import DocumentChanged, DocumentDeleted, DocumentEvent

CHECKS: Final = Checks()

_VERSIONS: Final = 12


@CHECKS.add
def the_first_sync_publishes_everything(trial: Trial) -> None:
    """What was there before the first start is published, once, as backfill."""
    paths = trial.put_any(PATHS)
    trial.scanned()
    expected = {path: f"text of {path}\n" for path in paths}
    assert trial.documents.texts() == expected, f"the log has {trial.documents.texts()}"
    events = trial.documents.events()
    assert len(events) == len(paths), f"{len(events)} events of {len(paths)} documents"
    if not isinstance(trial.place, Sends):  # what is sent late is as new to the source as anything else
        assert all(event.provenance.backfill for event in events)


@CHECKS.add
def nothing_is_published_when_nothing_changed(trial: Trial) -> None:
    """A restart reads no document whose revision is the published one, and writes nothing."""
    paths = trial.put_any(PATHS)
    trial.scanned()
    events, states = trial.documents.count(), _states(trial)
    source = watched(trial.source())
    trial.scanned(source)
    assert source.fetched == [], f"{sorted(set(source.fetched) & set(paths))} were read again"
    assert trial.documents.count() == events, f"{trial.documents.count() - events} events for nothing"
    assert _states(trial) == states, "the state was written again for nothing"


def _states(trial: Trial) -> list[tuple[int, int]]:
    """Places of the records that tell what is published. How far a source's log was read is another thing."""
    records = trial.documents.records(trial.documents.names.connector_state)
    return [(one.partition, one.offset) for one in records if not is_mark(one.key)]


@CHECKS.add
def creates_edits_and_deletes_are_published_live(trial: Trial) -> None:
    """While it runs, each change reaches the log."""
    trial.put("kept", "kept")
    trial.put("edited", "one")
    trial.put("deleted", "x")
    with trial.running() as one:
        one.wait_scanned()
        trial.put("edited", "two")
        trial.wait_for({"kept": "kept", "edited": "two", "deleted": "x"}, one)
        trial.remove("deleted")
        trial.put("created", "new")
        trial.wait_for({"kept": "kept", "edited": "two", "created": "new"}, one)
        trial.remove("created")
        trial.wait_for({"kept": "kept", "edited": "two"}, one)
    assert len(trial.events_of("kept")) == 1, "a document that nobody touched was published again"


@CHECKS.add
def what_changed_while_it_was_down_is_published_at_the_next_start(trial: Trial) -> None:
    """Creates, edits and deletes of while the connector was down; and of those that it never saw, nothing."""
    for name in ("kept", "edited", "deleted"):
        trial.put(name, name)
    trial.scanned()
    events = trial.documents.count()
    trial.put("edited", "edited again")
    trial.remove("deleted")
    trial.put("created", "new")
    trial.put("passing", "x")
    trial.remove("passing")
    trial.scanned()
    expected = {"kept": "kept", "edited": "edited again", "created": "new"}
    assert trial.documents.texts() == expected, f"the log has {trial.documents.texts()}"
    assert trial.documents.count() == events + 3, f"{trial.documents.count() - events} events of 3 changes"


@CHECKS.add
def a_rename_is_published_as_create_then_delete(trial: Trial) -> None:
    """A rename, live and while it was down, is a create with the same digest and then a delete: the
    vectors of the old name are found.
    """
    documents = trial.documents = Documents(trial.broker, partitions=1, pipeline="renames")
    trial.put("a.txt", "the text")
    with trial.running() as one:
        one.wait_scanned()
        trial.rename("a.txt", "b.txt")
        trial.wait_for({"b.txt": "the text"}, one)
    trial.rename("b.txt", "z.txt")
    trial.scanned()
    _check_renames(documents.events(), ["a.txt", "b.txt", "z.txt"])


def _check_renames(events: list[DocumentEvent], names: list[str]) -> None:
    expected: list[tuple[type[DocumentEvent], str]] = [(DocumentChanged, names[0])]
    for old, new in pairwise(names):
        expected += [(DocumentChanged, new), (DocumentDeleted, old)]
    found = [(type(event), event.key.path) for event in events]
    assert found == expected, f"events were {[(kind.__name__, path) for kind, path in found]}"
    digests = {event.digest for event in events if isinstance(event, DocumentChanged)}
    assert len(digests) == 1, "the same text has another digest under another name"


@CHECKS.add
def a_change_is_not_undone_by_an_older_one(trial: Trial) -> None:
    """The versions of a document come in the order in which they were made, the last one last."""
    with trial.running() as one:
        one.wait_scanned()
        for version in range(_VERSIONS):
            trial.put("doc", f"version {version}")
            time.sleep(trial.chance.uniform(0, 0.05))
        trial.wait_for({"doc": f"version {_VERSIONS - 1}"}, one)
    texts = [event.text for event in trial.events_of("doc") if isinstance(event, DocumentChanged)]
    versions = [int((text or "version -1").split()[-1]) for text in texts if text]
    assert versions == sorted(set(versions)), f"versions were published in the order {versions}"


@CHECKS.add
def normal_operation_emits_no_logs(trial: Trial) -> None:
    """A first sync, live changes and a restart say nothing at all, from the level of information on."""
    trial.put("doc", "one")
    with trial.listening() as logged:
        with trial.running() as one:
            one.wait_scanned()
            trial.put("doc", "two")
            trial.put("other", "x")
            trial.wait_for({"doc": "two", "other": "x"}, one)
            trial.remove("other")
            trial.wait_for({"doc": "two"}, one)
        trial.scanned()
    said = [f"{one.name}: {one.getMessage()}" for one in logged if one.levelno >= logging.INFO]
    assert not said, f"logged were {said[:5]}"


@CHECKS.add
def secrets_are_not_shown(trial: Trial) -> None:
    """No secret of the settings is in a log line of any level, an error, a reason for not being ready,
    a document, or what the source shows of itself.
    """
    secrets = trial.secrets
    trial.put("doc", "text")
    shown: list[str] = []
    with trial.listening() as logged, trial.running(source := trial.source()) as one:
        one.wait_scanned()
        trial.put("doc", "another")
        trial.wait_for({"doc": "another"}, one)
        shown += [repr(source), str(source)]
        for fault in trial.faults:
            trial.break_(fault)
            trial.put("doc", f"text while it is {fault}")
            trial.wait(one.not_ready, lambda fault=fault: f"it is ready although its place is {fault}")  # type: ignore[misc]
            shown += [one.not_ready(), *_errors_of(trial)]
            trial.mend()
            trial.wait_for({"doc": f"text while it is {fault}"}, one)
    shown += [f"{record.getMessage()} {record.__dict__}" for record in logged]
    shown += [repr(event) for event in trial.documents.events()]
    for secret in secrets:
        found = [text for text in shown if secret in text]
        assert not found, f"a secret is shown: {_around(secret, found[0])}"


def _around(secret: str, text: str) -> str:
    before, _, after = text.partition(secret)
    return f"{before[-100:]}<THE SECRET>{after.replace(secret, '<THE SECRET>')[:100]}"


def _errors_of(trial: Trial) -> list[str]:
    """What a new source says while the place is broken."""
    source = trial.source()
    try:
        list(source.scan())
        source.fetch("doc")
    except VectideError as error:
        return [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    return []


@CHECKS.add
def a_poison_document_harms_no_other(trial: Trial) -> None:
    """A document that can never be read is published without its text, with the reason; the others go on."""
    trial.put("before", "x")
    trial.poison("poison")
    with trial.running() as one:
        one.wait_scanned()
        trial.put("after", "y")
        trial.wait(
            lambda: {"before": "x", "after": "y"}.items() <= trial.documents.texts().items() or one.failure,
            lambda: f"the log has {trial.documents.texts()}",
        )
    found = trial.documents.now().get("poison")
    assert found is not None, "nothing tells of the poison document"
    assert found.text is None, f"its text was published: {(found.text or '')[:80]!r}"
    assert found.omitted, "nothing says why its text is missing"
    events = trial.documents.count()
    trial.scanned()
    assert trial.documents.count() == events, "a restart publishes it again"


@CHECKS.add
def a_rename_onto_another_document_replaces_it(trial: Trial) -> None:
    """A document that is moved onto another one takes its place."""
    trial.put("one", "the first")
    trial.put("two", "the second")
    if not isinstance(trial.place, Renames):
        trial.rename("one", "two")  # says why it cannot be shown
    with trial.running() as one:
        one.wait_scanned()
        trial.rename("one", "two")
        trial.wait_for({"two": "the first"}, one)
