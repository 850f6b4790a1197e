"""What must be true when everything is quiet: the store holds the chunks of each highest version."""

from __future__ import annotations

from pipeline.identity import ATTEMPTS, stamp_of
from pipeline.points import Head, StoredChunk
from pipeline.ports import Collection
from pipeline.records import ChunkedDocument
from pipeline.sync.filters import filter_fields
from pipeline.sync.reading import embedded_text, point_ids
from tests.simulation.requests import Diverged
from tests.simulation.world import World, vector_of


def check(world: World, collection: Collection, *, power_was_cut: bool) -> None:
    """Compare the store with the log.

    After a power cut a chunk may be one attempt above its head: of a re-run that restored it and
    was itself cut off before its head. It is the same chunk, and any later version is above both.

    Raises:
        Diverged: they differ; the text says where.
    """
    for key in world.keys:
        head = collection.heads([key.doc]).get(key.doc)
        chunks = _chunks(collection, key.doc)
        versions = world.versions(key.doc)
        if not versions:
            _require(head is None and not chunks, key.doc, "there is something of a document that never was")
            continue
        _require(head is not None, key.doc, "there is no head")
        assert head is not None
        _require(head.version == max(versions), key.doc, f"the head is at {head.version}, the log at {max(versions)}")
        _check_points(head, chunks, power_was_cut)
        _check_content(world, head, versions)


def _chunks(collection: Collection, doc: str) -> list[StoredChunk]:
    found, after = collection.scan_chunks(docs=[doc], vectors=True)
    while after is not None:
        more, after = collection.scan_chunks(after, docs=[doc], vectors=True)
        found += more
    return found


def _check_points(head: Head, chunks: list[StoredChunk], power_was_cut: bool) -> None:
    listed = [chunk.id for chunk in head.chunks]
    _require(len(set(listed)) == len(listed), head.doc, "an id is listed twice")
    there = {chunk.id for chunk in chunks}
    extra, gone = there - set(listed), set(listed) - there
    _require(not extra, head.doc, f"points that the head does not list: {sorted(id[:4] for id in extra)}")
    _require(not gone, head.doc, f"the head lists what is not there: {sorted(id[:4] for id in gone)}")
    for chunk in chunks:
        top = stamp_of(head.version, ATTEMPTS - 1) if power_was_cut else head.stamp
        _require(chunk.stamp <= top, head.doc, f"chunk {chunk.id[:4]} is above its head: {chunk.stamp}")
        _require(
            chunk.filter_hash == head.filter_hash and dict(chunk.filters) == dict(head.filters),
            head.doc,
            f"chunk {chunk.id[:4]} has the fields {dict(chunk.filters)}, its head {dict(head.filters)}",
        )
        _require(chunk.vector is not None, head.doc, "a chunk without a vector")
        _require(
            bool((chunk.vector == vector_of(chunk.content_hash)).all()), head.doc, "a vector that is of another text"
        )


def _check_content(world: World, head: Head, versions: dict[int, list[ChunkedDocument]]) -> None:
    events = versions[head.version]
    states = {event.state for event in events}
    fields = filter_fields(events[-1], {"acl": "keyword"})
    _require(dict(head.filters) == fields.values, head.doc, "the head's fields are not those of its version")
    _require(dict(head.metadata) == dict(events[-1].metadata), head.doc, "the metadata is not of its version")
    if "deleted" in states:
        _require(head.state == "deleted" and not head.chunks, head.doc, f"deleted, but the head is {head.state}")
        return
    listed = [chunk.id for chunk in head.chunks]
    if head.state in ("failed", "omitted"):
        own = head.state in states or any(_all_broken(world, event) for event in events if event.state == "chunked")
        _require(own, head.doc, f"the head is {head.state} without a reason")
        content = [set(point_ids(event)) for event in versions.get(head.content_version, ())]
        _require(
            not listed or any(set(listed) <= ids for ids in content), head.doc, "the list is of no version of the log"
        )
        _require(not world.replayed_last or "chunked" not in states, head.doc, f"replayed, and still {head.state}")
        return
    _require("chunked" in states, head.doc, f"the head is {head.state}, the log has {states}")
    event = next(event for event in events if event.state == "chunked")
    ids = point_ids(event)
    missing = [place for place in range(len(ids)) if place in head.missing]
    _require(listed == [id for place, id in enumerate(ids) if place not in head.missing], head.doc, "another list")
    spans = [(span.start, span.end) for place, span in enumerate(event.chunks) if place not in head.missing]
    _require([(chunk.start, chunk.end) for chunk in head.chunks] == spans, head.doc, "other spans")
    _require(head.content_version == event.version, head.doc, "another content version")
    _require((head.state == "incomplete") == bool(missing), head.doc, f"{head.state}, with {missing} missing")
    for place in missing:
        _require(event.chunks[place].content_hash in world.ever_broken, head.doc, f"chunk {place} never was broken")
        _require(bool(embedded_text(event, event.chunks[place])), head.doc, "an empty text")
    _require(not world.replayed_last or head.state == "complete", head.doc, "replayed, and still incomplete")


def _all_broken(world: World, event: ChunkedDocument) -> bool:
    return bool(event.chunks) and all(span.content_hash in world.ever_broken for span in event.chunks)


def _require(true: bool, doc: str, text: str) -> None:
    if not true:
        raise Diverged(f"{doc[:4]}: {text}")
