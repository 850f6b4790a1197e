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


def wrong_with(
    known: Known | None, head: Head | None, chunks: Sequence[Seen], covered: int, superseded: bool
) -> frozenset[Kind]:
    """Everything that is wrong with a document; empty if nothing is.

    A head that is wrong is all that is said: its chunks are held against the right one later.

    Args:
        known: what the log says below the ends; None: nothing.
        head: of the document; None: there is none.
        chunks: all of the document.
        covered: the first version of the document's partition that the ends do not cover.
        superseded: the log has a newer version beyond the ends, in favour of which compaction may
            have taken any that are below.
    """
    kind = wrong_head(known, head, covered, superseded)
    if kind is not None:
        return frozenset({kind})
    if head is None:
        left = known is None and superseded
        return frozenset() if left or not _settled(chunks, covered) else frozenset({"orphan"})
    if head.version >= covered:
        return frozenset()
    return wrong_chunks(head, chunks, covered)


def wrong_head(known: Known | None, head: Head | None, covered: int, superseded: bool) -> Kind | None:
    """What is wrong with a head, its chunks aside; arguments as above."""
    live = known is not None and known.state == "live"
    if head is None:
        return "missing" if live else None
    if head.version >= covered:
        return None
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


def wrong_chunks(head: Head, chunks: Sequence[Seen], covered: int) -> frozenset[Kind]:
    """What is wrong with the chunks of a head that is right."""
    found: set[Kind] = set()
    listed = {chunk.id for chunk in head.chunks}
    if not listed <= {chunk.id for chunk in chunks}:
        found.add("unfinished")
    texts = {chunk.content_hash for chunk in chunks if chunk.id in listed}
    # What is of a version beyond the ends is on its way in: its head comes after it.
    for chunk in _settled(chunks, covered):
        if chunk.id not in listed:
            found.add("duplicate" if chunk.content_hash in texts else "orphan")
        elif chunk.filter_hash != head.filter_hash:
            found.add("wrong metadata")
    return frozenset(found)


def _settled(chunks: Sequence[Seen], covered: int) -> list[Seen]:
    return [chunk for chunk in chunks if version_in(chunk.stamp) < covered]
