"""Whether a generation's collection equals the log, proved while connectors and stages go on writing (ADR 0003).

1. Read the documents topic to its end; of each document's last record make the head that it leads
   to, and keep its cells.
2. Read the heads that are not complete: what they list cannot be foretold.
3. Let the store count its points by cell, and take the log's counts from these.
4. Read the documents and the points whose cells differ, until they explain every difference.
5. What looks wrong is looked at again, a few times: only what stays wrong is a finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from pipeline.chunking.documents import Chunk
from pipeline.points import HeadState
from pipeline.ports import Broker, Collection
from pipeline.verification.findings import Findings, Kind, Named

Step: TypeAlias = Literal["log", "heads", "counts", "suspects", "looks"]
"""What a verification is at."""
OnProgress: TypeAlias = Callable[[Step, int, int], None]
"""Told after each page: the step, how far it is, of how much (0: not known). What it raises ends the verification."""
Pause: TypeAlias = Callable[[int], object]
"""Called between pages with the number of records or points of the page: returns when the next may be read."""


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
    seconds: float

    @property
    def named(self) -> Mapping[Kind, Named]:
        """Of every kind, also those without any: how many documents, and some of their names."""
        return self.findings.named()

    @property
    def ok(self) -> bool:
        """True if the collection equals the log. Incomplete, failed and omitted documents do: their heads say so."""
        return not any(one.count for one in self.named.values())

    @property
    def unserved(self) -> int:
        """Documents that are not wholly served: incomplete, failed or omitted."""
        return sum(self.heads.get(state, 0) for state in UNSERVED)

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


#: States of heads that the log does not foretell: something of the document could not be had.
UNSERVED: tuple[HeadState, ...] = ("incomplete", "failed", "omitted")


def verify(
    broker: Broker,
    topic: str,
    epoch: int,
    collection: Collection,
    ends: Mapping[int, int],
    chunk: Chunk,
    on_progress: OnProgress = lambda step, done, whole: None,
    wait: Callable[[float], object] = time.sleep,
    pause: Pause = lambda done: None,
) -> Verdict:
    """Hold a collection against the log below ``ends``; nothing is written.

    Args:
        broker: has the log.
        topic: of the documents.
        epoch: of that topic.
        collection: of a generation that has committed everything below ``ends``, in both stages.
        ends: by partition, the next offset of the topic at some moment before.
        chunk: the generation's chunker.
        on_progress: told after every page.
        wait: for so many seconds, before each second look.
        pause: between pages.

    Returns:
        The verdict; close it.

    Raises:
        LogDiverged: the topic is not the one that ``ends`` were taken of.
        Transient: the broker or the store does not answer, or there is no room for the temporary
            file; call again, from the start.
        StoreBusy, NewerSchema: likewise, when that has passed.
    """
    raise NotImplementedError
