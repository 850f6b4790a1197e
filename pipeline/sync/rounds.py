"""A batch all the way: prepare, embed, write, and again for documents whose head was moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from pipeline.errors import Transient
from pipeline.points import Vectors
from pipeline.ports import Collection
from pipeline.records import ChunkedDocument
from pipeline.sync.batches import TRUSTING, Distrust, Outcome, ToEmbed
from pipeline.sync.reading import prepare
from pipeline.sync.writing import DONOR_SECONDS, write

Embed: TypeAlias = Callable[[Sequence[ToEmbed]], tuple[Mapping[str, Vectors], Mapping[str, str]]]
"""Vectors by content hash, and the reasons of those that could not be embedded."""

#: A round is lost only to another writer's success with an older version of the same document.
ROUNDS: Final = 8


def synchronise(
    collection: Collection,
    documents: Sequence[ChunkedDocument],
    embed: Embed,
    siblings: Sequence[Collection] = (),
    donor_seconds: float = DONOR_SECONDS,
    distrusted: Distrust = TRUSTING,
) -> list[Outcome]:
    """All steps for a batch, without overlap; one outcome per document, none of them ``again``.

    The arguments are those of ``prepare`` and ``write``.

    Raises:
        Transient: documents were contended for in every round; nothing may be committed.
    """
    outcomes: dict[str, Outcome] = {}
    waiting = list(documents)
    for _ in range(ROUNDS):
        prepared = prepare(collection, waiting, siblings, distrusted)
        vectors, failed = embed(prepared.to_embed) if prepared.to_embed else ({}, {})
        written = write(prepared, vectors, failed, donor_seconds)
        outcomes.update((outcome.document.key.doc, outcome) for outcome in written)
        waiting = [outcome.document for outcome in written if outcome.result == "again"]
        if not waiting:
            return list(outcomes.values())
    raise Transient(f"{len(waiting)} documents were contended for through {ROUNDS} rounds")
