"""Guards that can be switched off in the workers, so that it is known that the soak can fail."""

from __future__ import annotations

from tests.simulation.mutants import MUTANTS as SIMULATED

#: Those of the simulation's whose weaker code needs nothing of the simulation.
USABLE = (
    "last-of-batch",
    "no-fence",
    "own-event",
    "sweep-any-stamp",
    "stale-is-done",
    "align-once",
    "failure-keeps-fields",
    "failure-drops-list",
    "failure-no-head",
    "delete-unswept",
    "head-first",
)


def switch_off(name: str) -> None:
    """In this process, for good."""
    for where, attribute, replacement in SIMULATED[name].changes:
        setattr(where, attribute, replacement)
