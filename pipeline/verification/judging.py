"""What is wrong with one document, by what the log says of it and what lies in the store. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.identity import version_in
from pipeline.points import Head
from pipeline.sync.foretelling import Deviation, deviation
from pipeline.verification.expectations import Known
from pipeline.verification.findings import Kind

_OF_DEVIATION: Final[dict[Deviation, Kind]] = {
    "state": "missing",
    "list": "wrong list",
    "metadata": "wrong metadata",
}


class Seen(NamedTuple):
    """A chunk as it lies in the store, without its text."""

    id: str
    stamp: int
    content_hash: str
    filter_hash: str


class Reach(NamedTuple):
    """How far the log of a document's partition goes, as versions; each is the first that is beyond."""

    covered: int
    """What the verification answers for: all of it is applied."""
    read: int
    """What was read, and once more from there: a newer record of a document that has one is known."""
    present: int
    """What there is, asked after the document was looked at: what is above it no record has made."""


def wrong_with(
    known: Known | None, head: Head | None, chunks: Sequence[Seen], reach: Reach, superseded: bool, replayed: bool
) -> frozenset[Kind]:
    """Everything that is wrong with a document; empty if nothing is.

    A head that is wrong is all that is said: its chunks are held against the right one later.

    Args:
        known: what the log says below the ends; None: nothing.
        head: of the document; None: there is none.
        chunks: all of the document.
        reach: how far the log of the document's partition goes.
        superseded: the log has a newer version beyond the ends, in favour of which compaction may
            have taken any that are below.
        replayed: versions may be running again just now.
    """
    kind = wrong_head(known, head, reach, superseded)
    if kind is not None:
        return frozenset({kind})
    if head is None:
        left = known is None and superseded
        return frozenset() if left or not _settled(chunks, reach.covered) else frozenset({"orphan"})
    if head.version >= reach.covered:
        return frozenset()
    return wrong_chunks(head, chunks, reach.covered, replayed)


def wrong_head(known: Known | None, head: Head | None, reach: Reach, superseded: bool) -> Kind | None:
    """What is wrong with a head, its chunks aside; arguments as above."""
    live = known is not None and known.state == "live"
    if head is None:
        return "missing" if live else None
    if head.version >= reach.present:
        return "ahead"
    if head.version >= reach.covered:
        # On its way through the stages, if the log has it; of a delete it may have nothing but a null.
        lost = head.version < reach.read and not superseded and head.state != "deleted"
        return "ahead" if lost else None
    if superseded and (known is None or head.version > known.version):
        return None
    if known is None or known.state == "gone":
        return None if head.state == "deleted" else "orphan"
    if head.version > known.version:
        return "ahead"
    if not live and head.state != "deleted":
        return "orphan"
    if head.version < known.version:
        return "stale"
    differs = None if known.told is None else deviation(head, known.told)
    return None if differs is None else _OF_DEVIATION[differs]


def wrong_chunks(head: Head, chunks: Sequence[Seen], covered: int, replayed: bool) -> frozenset[Kind]:
    """What is wrong with the chunks of a head that is right.

    Args:
        head: of the document.
        chunks: all of it.
        covered: the first version that the verification does not answer for.
        replayed: the version may be running again just now: chunks above its head are on their way in.
    """
    found: set[Kind] = set()
    listed = {chunk.id for chunk in head.chunks}
    if not listed <= {chunk.id for chunk in chunks}:
        found.add("unfinished")
    texts = {chunk.content_hash for chunk in chunks if chunk.id in listed}
    # What is of a version beyond the ends is on its way in: its head comes after it.
    for chunk in _settled(chunks, covered):
        if chunk.id not in listed:
            if replayed and version_in(chunk.stamp) == head.version and chunk.stamp > head.stamp:
                continue
            found.add("duplicate" if chunk.content_hash in texts else "orphan")
        elif chunk.filter_hash != head.filter_hash:
            found.add("wrong metadata")
    return frozenset(found)


def _settled(chunks: Sequence[Seen], covered: int) -> list[Seen]:
    return [chunk for chunk in chunks if version_in(chunk.stamp) < covered]
