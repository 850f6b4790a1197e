"""Verdicts: what a verification has found, for people, scripts and the repair after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from pipeline.points import HeadState
from pipeline.verification.findings import Findings, Kind, Named

Step: TypeAlias = Literal["log", "heads", "counts", "suspects", "looks", "repairs"]
"""What a verification (or the repair after it) is at."""
OnProgress: TypeAlias = Callable[[Step, int, int], None]
"""Told after each page: the step, how far it is, of how much (0: not known). What it raises ends the verification."""
Pause: TypeAlias = Callable[[int], object]
"""Called between pages with the number of records or points of the page: returns when the next may be read."""

#: States of heads that the log does not foretell: something of the document could not be had.
UNSERVED: Final[tuple[HeadState, ...]] = ("incomplete", "failed", "omitted")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification has found; its findings lie in a temporary file until it is closed."""

    documents: int
    """Live documents of the log below the ends."""
    heads: Mapping[HeadState, int]
    """Heads of the collection in each state, newer ones than the ends cover included."""
    findings: Findings
    points_read: int
    """Points of the collection that were read one by one, those read twice counted twice."""
    points: int
    """Points of the collection."""
    requests: int
    """Requests to the store."""
    unexplained: int
    """Cells whose counts differ although every document that could explain it was read. What was
    written meanwhile leaves some; where nothing is, points carry cells that are not theirs.
    """
    seconds: float

    @property
    def named(self) -> Mapping[Kind, Named]:
        """Of every kind, also those without any: how many documents, and some of their names."""
        return self.findings.named()

    @property
    def ok(self) -> bool:
        """True if the collection equals the log. Incomplete, failed and omitted documents do: their heads say so."""
        return not any(one.count for one in self.named.values())

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the history of a generation."""
        named = self.named
        return {
            "ok": not any(one.count for one in named.values()),
            "documents": self.documents,
            "heads": dict(self.heads),
            "findings": {kind: {"count": one.count, "examples": list(one.examples)} for kind, one in named.items()},
            "points": self.points,
            "points_read": self.points_read,
            "requests": self.requests,
            "unexplained": self.unexplained,
            "seconds": round(self.seconds, 3),
        }

    def close(self) -> None:
        """Throw the findings away."""
        self.findings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
