"""A connector that is killed at any moment, and one that comes back when another has taken its place."""

from __future__ import annotations

import time
from typing import Final

from connectors.certification.checks import Checks
from connectors.certification.interruptions import FaultyBroker, Killed, WatchedLog, watched
from connectors.certification.place import NotShown, Sends
from connectors.certification.rig import Documents
from connectors.certification.trial import Trial
from connectors.runner import RunnerLimits
from connectors.state import is_mark
from pipeline.errors import Fenced
from pipeline.ports import NewRecord

CHECKS: Final = Checks()

_DOCUMENTS: Final = 9
_BATCH: Final = 3
#: Calls of a source within which the random kills lie: a first sync of nine documents makes some 30.
_CALLS: Final = 30
#: The same with a log, which is asked at each turn how far it is.
_LOG_CALLS: Final = 60


@CHECKS.add
def killed_around_a_transaction_nothing_is_lost_or_repeated(trial: Trial) -> None:
    """Killed right before or after any transaction of the first sync: after a restart every document is
    in the log, once.
    """
    texts = _nine(trial)
    for number, after in ((1, False), (2, True), (3, False)):
        plan = _Nth(number, after)
        broker = FaultyBroker(trial.broker, plan)
        documents = Documents(broker, pipeline=f"kill-{number}")
        trial.documents, state = documents, trial.state
        trial.state = state / str(number)
        if isinstance(trial.place, Sends):
            _nine(trial)  # nobody sends to a new log what the last one has taken
        with trial.running(limits=RunnerLimits(batch_documents=_BATCH), documents=documents) as one:
            assert isinstance(one.wait_ended(), Killed), "the connector survived what kills a process"
        plan.number = 0
        trial.scanned()
        trial.state = state
        _complete(documents, texts, f"killed {'after' if after else 'before'} transaction {number}")


@CHECKS.add
def killed_anywhere_nothing_is_lost_or_repeated(trial: Trial) -> None:
    """Killed at random calls of the source, again and again, while documents change: once it is left
    alone the log equals the place, and no version is published twice.
    """
    if isinstance(trial.place, Sends):
        raise NotShown("a pushed source is called by nobody: it is killed around transactions")
    texts = _nine(trial)
    for round_ in range(trial.scale.kills):
        left = [0]

        def plan(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed

        source = watched(trial.source(), plan)
        left[0] = trial.chance.randrange(1, _LOG_CALLS if isinstance(source, WatchedLog) else _CALLS)
        limits = RunnerLimits(batch_documents=_BATCH, hints_seconds=0.01, position_seconds=0.0)
        with trial.running(source, limits) as one:
            path = f"{trial.chance.randrange(_DOCUMENTS)}.txt"
            text = texts[path] = f"text of round {round_}"
            trial.put(path, text)
            ended = one.wait_ended()
            assert isinstance(ended, Killed), f"it ended with {ended!r}"
    trial.scanned()
    seed = f"seed {trial.seed}"
    assert trial.documents.texts() == texts, f"the log has {trial.documents.texts()}, the place {texts}; {seed}"
    seen: set[tuple[str, str | None]] = set()
    for event in trial.documents.events():
        version = (event.key.path, getattr(event, "text", None))
        assert version not in seen, f"{version} was published twice; {seed}"
        seen.add(version)


@CHECKS.add
def events_and_state_are_one_transaction(trial: Trial) -> None:
    """Every transaction that holds an event holds what it makes known, and the other way round."""
    _nine(trial)
    broker = FaultyBroker(trial.broker, lambda after: None)
    documents = Documents(broker, pipeline="pairs")
    trial.documents = documents
    with trial.running(documents=documents) as one:
        one.wait_scanned()
        trial.put("0.txt", "edited")
        trial.remove("1.txt")
        expected: dict[str, str | None] = {f"{number}.txt": f"text {number}" for number in range(2, _DOCUMENTS)}
        trial.wait_for(expected | {"0.txt": "edited"}, one)
    topic, state = documents.names.documents(0), documents.names.connector_state
    assert broker.transactions, "nothing was published in a transaction"
    for records in broker.transactions:
        events, known = _keys(records, topic), _keys(records, state)
        assert events == known, f"events of {events} and state of {known} in one transaction"


@CHECKS.add
def a_zombie_copy_is_fenced_out(trial: Trial) -> None:
    """A second copy takes over; the first one ends, writes nothing more, and nothing is published twice."""
    texts = _nine(trial)
    with trial.running() as first:
        first.wait_scanned()
        # On another machine: a cache that both write would tell the first one what the second has published.
        trial.state = trial.state.with_name("state of the other copy")
        with trial.running() as second:
            second.wait_scanned()
            trial.put("0.txt", "edited")
            texts["0.txt"] = "edited"
            ended = first.wait_ended()
            assert isinstance(ended, Fenced), f"the first copy ended with {ended!r} and not as fenced"
            trial.wait_for(texts, second)
    time.sleep(trial.quiet_seconds)
    events = [event for event in trial.events_of("0.txt") if getattr(event, "text", None) == "edited"]
    assert len(events) == 1, f"the change was published {len(events)} times"


class _Nth:
    """Kills before or after the nth transaction is written."""

    def __init__(self, number: int, after: bool) -> None:
        self.number = number
        self._after = after

    def __call__(self, after: bool) -> None:
        if after is self._after:
            self.number -= 1
            if self.number == 0:
                raise Killed


def _nine(trial: Trial) -> dict[str, str | None]:
    texts = {f"{number}.txt": f"text {number}" for number in range(_DOCUMENTS)}
    trial.put_many(texts)
    return dict(texts)


def _complete(documents: Documents, texts: dict[str, str | None], when: str) -> None:
    found = documents.texts()
    assert found == texts, f"{when}: lost is {sorted(texts.keys() - found.keys())}, the log has {found}"
    count = len(documents.events())
    assert count == len(texts), f"{when}: {count} events of {len(texts)} documents"


def _keys(records: list[NewRecord], topic: str) -> set[bytes | None]:
    return {one.key for one in records if one.topic == topic and not is_mark(one.key)}
