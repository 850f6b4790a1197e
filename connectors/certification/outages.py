"""A place that is away, slow, refuses, or answers with rubbish."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from connectors.certification.checks import Checks, Run
from connectors.certification.place import Fault, NotShown
from connectors.certification.trial import Trial

CHECKS: Final = Checks()

_DOCUMENTS: Final = 5
#: Of a loop that is asked to stop while the source does not answer.
_STOP_SECONDS: Final = 20.0
_ASKING_SECONDS: Final = 0.5
#: The runner's pauses grow to a tenth of a second here, and to ten seconds in production; each attempt may be several
#: requests. Without a pause there are thousands.
_MOST_PER_SECOND: Final = 200


def _waited_out(trial: Trial, fault: Fault) -> None:
    """Live: it waits with a clear reason, nothing counts as deleted, and it goes on by itself."""
    texts = _some(trial)
    with trial.running() as one:
        one.wait_scanned()
        assert one.health.readyz().ok, f"it is not ready although nothing is wrong: {one.not_ready()}"
        trial.break_(fault)
        trial.put("0.txt", f"edited while it was {fault}")
        texts["0.txt"] = f"edited while it was {fault}"
        trial.wait(lambda: one.not_ready() or one.failure, lambda: f"it is ready although its place is {fault}")
        assert one.failure is None, f"it ended with {one.failure!r}: a source that is away is waited for"
        why = one.not_ready()
        assert "source.place" in why, f"it is not ready for another reason: {why}"
        assert len(why) > len("source.place: "), "it does not say why it is not ready"
        time.sleep(trial.quiet_seconds)
        gone = texts.keys() - trial.documents.texts().keys()
        assert not gone, f"{sorted(gone)} were deleted from the log while the place was {fault}"
        trial.mend()
        trial.wait_for(texts, one)
        trial.wait(lambda: one.health.readyz().ok, lambda: f"it is not ready again: {one.not_ready()}")


def _waited_for_at_the_start(trial: Trial, fault: Fault) -> None:
    """Started while the place is broken, it waits; nothing counts as deleted."""
    texts = _some(trial)
    trial.scanned()
    trial.break_(fault)
    with trial.running() as one:
        trial.wait(lambda: one.not_ready() or one.failure, lambda: f"it is ready although its place is {fault}")
        assert one.failure is None, f"it ended with {one.failure!r}: a source that is away is waited for"
        time.sleep(trial.quiet_seconds)
        assert not one.runner.scanned.is_set(), f"a scan of a place that is {fault} counts as complete"
        assert trial.documents.texts() == texts, f"the log has {trial.documents.texts()}"
        trial.mend()
        one.wait_scanned()
    assert trial.documents.texts() == texts, f"the log has {trial.documents.texts()}"
    assert trial.documents.count() == len(texts), "documents that did not change were published again"


def _stopped_meanwhile(trial: Trial, fault: Fault) -> None:
    """Told to stop while the place is broken, it ends within seconds."""
    _some(trial)
    trial.break_(fault)
    with trial.running() as one:
        time.sleep(0.2)
        one.stop.set()
        assert one.thread is not None
        one.thread.join(min(_STOP_SECONDS, trial.scale.patience_seconds))
        alive = one.thread.is_alive()
        trial.mend()
        assert not alive, f"it does not stop while its place is {fault}"


@CHECKS.add
def a_slow_place_is_synced_and_can_be_stopped(trial: Trial) -> None:
    """Where every answer takes its time, everything arrives, the loop shows that it lives, and it can be
    stopped in between.
    """
    texts = _some(trial)
    trial.break_("slow")
    with trial.running() as one:
        trial.wait_for(texts, one)
        trial.put("0.txt", "edited")
        trial.wait_for(texts | {"0.txt": "edited"}, one)
        alive = one.health.livez()
        assert alive.ok, f"the loop does not show that it lives: {alive.reasons}"
        one.stop.set()
        assert one.thread is not None
        one.thread.join(min(_STOP_SECONDS, trial.scale.patience_seconds))
        assert not one.thread.is_alive(), "it does not stop while its place is slow"
    trial.mend()


@CHECKS.add
def a_broken_place_is_asked_again_with_pauses(trial: Trial) -> None:
    """While it is away, refuses or talks rubbish, a place is asked again from time to time, and not all of the time."""
    trial.asked()
    if not trial.faults:
        raise NotShown("the place cannot break: it has no `break_`, or names no `faults` but `slow`")
    with trial.running() as one:
        one.wait_scanned()
        for fault in trial.faults:
            trial.break_(fault)
            trial.put("0.txt", f"edited while it was {fault}")
            trial.wait(one.not_ready, lambda fault=fault: f"it is ready although its place is {fault}")  # type: ignore[misc]
            before, started = trial.asked(), time.monotonic()
            time.sleep(_ASKING_SECONDS)
            asked, seconds = trial.asked() - before, time.monotonic() - started
            trial.mend()
            assert asked <= _MOST_PER_SECOND * seconds, (
                f"{asked} times in {seconds:.1f} s was it asked while it was {fault}: it is tried again without a pause"
            )
            trial.wait_for({"0.txt": f"edited while it was {fault}"}, one)


def _some(trial: Trial) -> dict[str, str | None]:
    texts = {f"{number}.txt": f"text {number}" for number in range(_DOCUMENTS)}
    trial.put_many(texts)
    return dict(texts)


def _of(check: Callable[[Trial, Fault], None], fault: Fault) -> Run:
    return lambda trial: check(trial, fault)


_HOW: Final[dict[Fault, str]] = {
    "down": "A place that is away",
    "unauthorised": "A place that refuses the credentials",
    "garbled": "A place whose answers are broken",
}
for _fault, _how in _HOW.items():
    CHECKS.add_named(
        f"{_fault}-is-waited-out-and-deletes-nothing",
        f"{_how} is waited for, not ready, with a reason; nothing counts as deleted; it goes on by itself.",
        _of(_waited_out, _fault),
    )
    CHECKS.add_named(
        f"{_fault}-at-the-start-is-waited-out",
        f"{_how} when the connector starts is waited for, and nothing counts as deleted.",
        _of(_waited_for_at_the_start, _fault),
    )
    CHECKS.add_named(
        f"{_fault}-does-not-hold-up-the-end",
        f"{_how} does not keep the connector from ending.",
        _of(_stopped_meanwhile, _fault),
    )
