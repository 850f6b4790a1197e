"""Faults: ways in which a collection can differ from its log, each with what verification must say of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pipeline.identity import DocumentKey, attempt_in, filter_hash, stamp_of, version_in, version_of
from pipeline.points import Alignment, Head, StoredChunk, Sweep
from pipeline.verification import Kind
from tests.support.indexes import EPOCH, TOP, Index

Expected = set[tuple[str, Kind]]
"""Names of documents, each with what is wrong with it."""
Fault = Callable[[Index, DocumentKey, random.Random], Expected]
"""Spoils one document, a whole one with two chunks at least."""

OTHER: dict[str, Any] = {"filters": {"acl": "other"}, "filter_hash": filter_hash({"acl": "other"})}


def head_gone(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.drop_head(key)
    return {(key.text, "missing")}


def document_gone(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.drop_head(key)
    index.collection.sweep([Sweep(key.doc, frozenset(), TOP)])
    return {(key.text, "missing")}


def tombstone_in_its_place(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, state="deleted", chunks=())
    return {(key.text, "missing")}


def older_head(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    head = index.head(key)
    index.set_head(key, stamp=stamp_of(random_.randrange(head.version)), content_version=head.version - 1)
    return {(key.text, "stale")}


def older_tombstone(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, state="deleted", chunks=(), stamp=index.head(key).stamp - 64)
    return {(key.text, "stale")}


def chunk_gone(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.drop_chunk(key, random_.randrange(len(index.head(key).chunks)))
    return {(key.text, "unfinished")}


def all_chunks_gone(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.collection.sweep([Sweep(key.doc, frozenset(), TOP)])
    return {(key.text, "unfinished")}


def shorter_list(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, chunks=index.head(key).chunks[1:])
    return {(key.text, "wrong list")}


def other_order(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, chunks=index.head(key).chunks[::-1])
    return {(key.text, "wrong list")}


def other_span(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    first, *others = index.head(key).chunks
    index.set_head(key, chunks=(replace(first, end=first.end - 1), *others))
    return {(key.text, "wrong list")}


def other_headings(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    first, *others = index.head(key).chunks
    index.set_head(key, chunks=(replace(first, headings=("Z",)), *others))
    return {(key.text, "wrong list")}


def other_content_version(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, content_version=index.head(key).version - 1)
    return {(key.text, "wrong list")}


def other_metadata(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, metadata={**index.head(key).metadata, "title": "another"})
    return {(key.text, "wrong metadata")}


def other_fields(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    """A permission that was never revoked: head and chunks agree, and are wrong."""
    head = index.head(key)
    index.set_head(key, **OTHER)
    index.collection.align([Alignment(key.doc, OTHER["filters"], OTHER["filter_hash"], head.stamp)])
    return {(key.text, "wrong metadata")}


def other_fields_of_the_head(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_head(key, **OTHER)
    return {(key.text, "wrong metadata")}


def other_fields_of_a_chunk(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_chunk(random_.choice(index.chunks(key)), **OTHER)
    return {(key.text, "wrong metadata")}


def other_fields_of_a_chunk_above_its_head(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.set_chunk(random_.choice(index.chunks(key)), **OTHER, stamp=index.head(key).stamp + 1)
    return {(key.text, "wrong metadata")}


def chunk_too_many(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    head = index.head(key)
    fields = {"filters": head.filters, "filter_hash": head.filter_hash}
    index.add_chunk(key, "left over", head.stamp - random_.choice([0, 64]), **fields)
    return {(key.text, "orphan")}


def chunk_too_many_above_its_head(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    index.add_chunk(key, "left over", index.head(key).stamp + 1)
    return {(key.text, "orphan")}


def chunk_twice(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    head, chunk = index.head(key), random_.choice(index.chunks(key))
    index.add_chunk(key, chunk.text, head.stamp, nth=7, filters=head.filters, filter_hash=head.filter_hash)
    return {(key.text, "duplicate")}


def chunk_swapped(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    """As many chunks as there must be, one of them another: no count of the document differs."""
    head = index.head(key)
    index.drop_chunk(key)
    index.add_chunk(key, "left over", head.stamp, filters=head.filters, filter_hash=head.filter_hash)
    return {(key.text, "unfinished"), (key.text, "orphan")}


def chunk_of_nobody(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    stranger = DocumentKey("stranger", key.path)
    index.add_chunk(stranger, "text of a stranger", stamp_of(version_of(EPOCH, 0)))
    return {(stranger.doc, "orphan")}


def document_of_nobody(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    stranger = DocumentKey("unknown", key.path)
    version = version_of(EPOCH, 0)
    id = index.add_chunk(stranger, "text of a stranger", stamp_of(version))
    listed = replace(index.head(key).chunks[0], id=id)
    index.add_head(stranger, version, chunks=(listed,))
    return {(stranger.text, "orphan")}


def chunk_under_another_name(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    """A point of the document that says it is another's, which the log does not have."""
    chunk = random_.choice(index.chunks(key))
    stranger = DocumentKey("impostor", key.path)
    index.collection.sweep([Sweep(key.doc, frozenset(one.id for one in index.chunks(key) if one.id != chunk.id), TOP)])
    index.set_chunk(chunk, doc=stranger.doc)
    return {(key.text, "unfinished"), (stranger.doc, "orphan")}


def deleted_and_still_there(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    """The log says that it was deleted; the head of before is there, at the version of the delete."""
    head = index.head(key)
    index.delete(key)
    (tombstone,) = [one for one in index.unread() if one.key == key]
    index.committed = index.ends()
    index.set_head(key, stamp=stamp_of(random_.choice([head.version, tombstone.version])))
    return {(key.text, "orphan")}


def deleted_and_not_swept(index: Index, key: DocumentKey, random_: random.Random) -> Expected:
    """A tombstone in place, whose chunks nobody has swept."""
    index.delete(key)
    (tombstone,) = [one for one in index.unread() if one.key == key]
    index.committed = index.ends()
    index.set_head(
        key,
        state="deleted",
        stamp=stamp_of(tombstone.version),
        content_version=tombstone.version,
        chunks=(),
        metadata={},
        filters={},
        filter_hash=filter_hash({}),
    )
    return {(key.text, "orphan")}


FAULTS: Sequence[Fault] = (
    head_gone,
    document_gone,
    tombstone_in_its_place,
    older_head,
    older_tombstone,
    chunk_gone,
    all_chunks_gone,
    shorter_list,
    other_order,
    other_span,
    other_headings,
    other_content_version,
    other_metadata,
    other_fields,
    other_fields_of_the_head,
    other_fields_of_a_chunk,
    other_fields_of_a_chunk_above_its_head,
    chunk_too_many,
    chunk_too_many_above_its_head,
    chunk_twice,
    chunk_swapped,
    chunk_of_nobody,
    document_of_nobody,
    chunk_under_another_name,
    deleted_and_still_there,
    deleted_and_not_swept,
)


def document(number: int) -> DocumentKey:
    """One of :func:`populate`'s."""
    return DocumentKey("s", f"d{number}")


#: Documents that may be spoilt; those above are deleted and forgotten ones.
WHOLE = 60


def populate(index: Index) -> None:
    """Seventy documents of two versions and two to five chunks, and one in each other state, followed."""
    for number in range(WHOLE + 10):
        for version in range(2):
            parts = [f"paragraph {part} of {number} in {version}" for part in range(2 + number % 4)]
            index.put(
                document(number), "|".join(parts), acl=["x", "y"][number % 2], year=number % 3, title=f"T{number}"
            )
    index.put(DocumentKey("s", "incomplete"), "good|poison", acl="x")
    index.put(DocumentKey("s", "failed"), "poison", acl="x")
    index.put(DocumentKey("s", "omitted"), None, acl="x")
    index.spoil(DocumentKey("s", "malformed"))
    index.put(DocumentKey("s", "rejected"), "text", acl=7, year="not a number")
    index.delete(document(69))
    index.follow()
    index.delete(document(68))
    index.follow()
    index.forget(document(68))


class Untouched:
    """What lies in a collection before it is spoilt, to see that a repair touches nothing else."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._points = _points(index)

    def check(self, expected: Expected) -> None:
        """What was not spoilt is as it was, to the stamp; what was is what the log decides, few attempts on."""
        spoilt = {DocumentKey.from_text(name).doc if ":" in name else name for name, _ in expected}
        now = _points(self._index)
        for id, point in now.items():
            if point.doc in spoilt:
                # A document that is deleted, or was nobody's, has nothing but a tombstone.
                assert _decided(point) == (_decided(self._points[id]) if id in self._points else None) or (
                    isinstance(point, Head) and point.state == "deleted"
                ), id
                assert attempt_in(point.stamp) <= 1 or not isinstance(point, Head)
            else:
                assert _whole(point) == _whole(self._points[id]), id
        assert {point.doc for id, point in self._points.items() if id not in now} <= spoilt


def _points(index: Index) -> dict[str, Head | StoredChunk]:
    heads, after = index.collection.scan_heads(None, 1_000)
    while after is not None:
        page, after = index.collection.scan_heads(after, 1_000)
        heads += page
    return {**{head.doc: head for head in heads}, **{chunk.id: chunk for chunk in index.chunks()}}


def _whole(point: Head | StoredChunk) -> Any:
    if isinstance(point, Head):
        return point
    assert point.vector is not None
    return replace(point, vector=None), point.vector.tolist()


def _decided(point: Head | StoredChunk) -> Any:
    """Attempts aside: what the log alone decides."""
    if isinstance(point, Head):
        return replace(point, stamp=0), version_in(point.stamp)
    assert point.vector is not None
    return replace(point, vector=None, stamp=0), point.vector.tolist()
