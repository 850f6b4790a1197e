"""Step 5: by the head as it is now, delete what it does not list and align what it does."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Final

from pipeline.errors import Transient
from pipeline.points import Head
from pipeline.ports import Collection
from pipeline.sync import guards

#: A head moves under an aligner only when another writer of the same document is at work at that
#: very moment; so many times in a row means that something else is wrong.
ALIGN_ROUNDS: Final = 16


def settle(
    collection: Collection,
    docs: Sequence[str],
    expected: Mapping[str, int],
    held: Container[str] = (),
) -> tuple[dict[str, Head], set[str]]:
    """Step 5 for documents, by the heads just read and never by one's own event.

    Args:
        collection: where.
        docs: the documents' ids.
        expected: by document, the stamp that step 4 tried to write. A head below it means that the
            compare-and-set was lost: that document is left alone and has to start over.
        held: documents whose chunks stay as vector donors if they are deleted; ``sweep_deleted`` ends that.

    Returns:
        The heads as last read, and the documents whose compare-and-set was lost.

    Raises:
        Transient: heads kept moving while their chunks were aligned.
    """
    if not docs:
        return {}, set()
    heads = collection.heads(list(docs))
    lost = {doc for doc, stamp in expected.items() if doc not in heads or heads[doc].stamp < stamp}
    pending = [head for doc, head in heads.items() if doc not in lost]
    for _ in range(ALIGN_ROUNDS):
        pending = [head for head in pending if head.state != "deleted" or head.doc not in held]
        if not pending:
            return heads, lost
        collection.sweep([guards.sweep_of(head) for head in pending])
        aligned = _align(collection, pending)
        if not aligned:
            return heads, lost
        # Align changed something: an older head's fields may have gone over a newer one's.
        heads.update(collection.heads([head.doc for head in aligned]))
        pending = [heads[head.doc] for head in aligned if guards.moved(head, heads.get(head.doc))]
    raise Transient(f"{len(pending)} heads kept moving through {ALIGN_ROUNDS} rounds of align")


def sweep_deleted(collection: Collection, docs: Sequence[str]) -> None:
    """Step 5 for documents that were deleted some seconds ago: their chunks go, unless they are back.

    The worker commits the deletes' offsets only after this.
    """
    settle(collection, list(dict.fromkeys(docs)), {})


def repair(collection: Collection, docs: Sequence[str]) -> None:
    """Step 5 for documents that nobody is writing: after a rebalance, and slowly in the background.

    It removes what dead writers left. It is safe at any time, and needless where writers live.
    """
    settle(collection, list(dict.fromkeys(docs)), {})


def sweep_headless(collection: Collection, stamps: Mapping[str, int]) -> set[str]:
    """Delete the chunks of documents without a head that the log does not have either.

    Only after the log was looked at once more, to its end: a document that has just come has chunks
    before its head. One that comes after that look is at a later place of its partition, so that
    its chunks are above any stamp that was seen before.

    Args:
        collection: where.
        stamps: by document, the highest stamp that was seen of its chunks.

    Returns:
        Those that have no head; the others were left alone.
    """
    if not stamps:
        return set()
    headless = stamps.keys() - collection.heads(list(stamps)).keys()
    collection.sweep([guards.headless_sweep(doc, stamps[doc]) for doc in sorted(headless)])
    return headless


def _align(collection: Collection, heads: Sequence[Head]) -> list[Head]:
    """Align chunks with their heads; the heads for which something was changed."""
    if not collection.spec.filter_fields:
        return []  # nothing is copied to chunks, so all their filter hashes are equal
    alignments = {head.doc: guards.alignment_of(head) for head in heads if head.state != "deleted"}
    if not alignments:
        return []
    misaligned = collection.misaligned(list(alignments.values()))
    if misaligned:
        collection.align([alignments[doc] for doc in alignments if doc in misaligned])
    return [head for head in heads if head.doc in misaligned]
