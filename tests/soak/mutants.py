"""Guards that can be switched off in the workers, so that it is known that the soak can fail."""

from __future__ import annotations

from typing import Any

from pipeline.ports import TopicPartition
from pipeline.stages import window
from pipeline.sync import guards, settling
from tests.simulation.mutants import MUTANTS as SIMULATED

#: Those of the simulation's whose weaker code needs nothing of the simulation. Some show only in an interleaving
#: that real processes meet once in hours.
_SIMULATED = (
    "last-of-batch",
    "no-fence",
    "own-event",
    "sweep-any-stamp",
    "stale-is-done",
    "align-once",
    "failure-keeps-fields",
    "failure-drops-list",
    "failure-no-head",
    "head-first",
)


def _commit_what_was_read(self: window.Window) -> dict[TopicPartition, int | None]:
    return dict.fromkeys(self._flights)


_sweep_of = guards.sweep_of


def _keep_everything(head: Any) -> Any:
    sweep = _sweep_of(head)
    return type(sweep)(sweep.doc, sweep.keep, -1)


#: Name: module or class, attribute and replacement.
_OWN: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "commit-first": ((window.Window, "committable", _commit_what_was_read),),
    "sweep-nothing": ((guards, "sweep_of", _keep_everything),),
    "align-nothing": ((settling, "_align", lambda collection, heads: []),),
}
USABLE = (*_OWN, *_SIMULATED)


def switch_off(name: str) -> None:
    """In this process, for good."""
    for where, attribute, replacement in _OWN.get(name) or SIMULATED[name].changes:
        setattr(where, attribute, replacement)
