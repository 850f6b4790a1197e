"""Repair: what was found wrong is made right by the store protocol, while everything else goes on.

1. Read the log once more, to its end now, for the last record of each document that was found.
2. A document that the log has: run its version again as a replay, at the head's attempt + 1.
   One that it says is deleted, or does not have: a tombstone over its head; chunks without a head
   are swept up to the stamp that was seen.

Each of these is fenced by stamps like any writer's: it can do nothing to a newer version, and what
is killed in the middle leaves what a killed worker leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.chunking.documents import Chunk
from pipeline.ports import Broker, Collection
from pipeline.sync import Embed
from pipeline.verification.comparison import OnProgress, Pause
from pipeline.verification.findings import Findings


@dataclass(slots=True)
class Repaired:
    """What a repair has done; verify again to see what is left."""

    documents: dict[str, int] = field(default_factory=dict)
    """Documents by what was done to them (or why nothing was): a bounded set of words."""
    embedded: int = 0
    """Chunks whose vectors came from the model."""
    left: list[str] = field(default_factory=list)
    """Names of some that cannot be repaired, each with the reason."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"documents": dict(self.documents), "embedded": self.embedded, "left": list(self.left)}


def repair(
    broker: Broker,
    topic: str,
    epoch: int,
    collection: Collection,
    ends: Mapping[int, int],
    findings: Findings,
    chunk: Chunk,
    embed: Embed,
    siblings: Sequence[Collection] = (),
    on_progress: OnProgress = lambda step, done, whole: None,
    pause: Pause = lambda done: None,
) -> Repaired:
    """Make documents that were found wrong what the log says, and touch nothing else.

    Args:
        broker: has the log.
        topic: of the documents.
        epoch: of that topic.
        collection: of the generation.
        ends: as the verification had them.
        findings: of the verification, and of any other check.
        chunk: the generation's chunker.
        embed: the generation's model.
        siblings: collections that may hold vectors of the same model.
        on_progress: told after every page.
        pause: between pages.

    Raises:
        Transient: the broker, the store or the model does not answer: verify and repair again.
        Poison: the model failed on everything (see the embedder); nothing half done is left.
    """
    raise NotImplementedError
