"""What a check is, and how one is made of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from connectors.certification.trial import Trial

Run: TypeAlias = Callable[[Trial], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a connector must do."""

    name: str
    """For the command line and reports: words with dashes."""
    claim: str
    """What is shown if it passes."""
    run: Run
    """Raises AssertionError if the connector does not, NotShown if the place cannot tell."""


class Checks:
    """A collection of checks in the order in which they are defined."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def add(self, run: Run) -> Run:
        """Make a check of a function: its name, and the first paragraph of its docstring."""
        claim = " ".join((run.__doc__ or "").strip().split("\n\n")[0].split())
        self._checks.append(Check(run.__name__.replace("_", "-"), claim, run))
        return run

    def add_named(self, name: str, claim: str, run: Run) -> None:
        """Add one of a family."""
        self._checks.append(Check(name, claim, run))

    def __iter__(self) -> Iterator[Check]:
        return iter(self._checks)
