"""The life of one document: what the log, every generation and the dead letters know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from pipeline.cli import traces
from pipeline.cli.assembly import Parts
from pipeline.cli.traces import Wanted
from pipeline.codec import decode_event, event_time
from pipeline.errors import CollectionMissing, ConfigError, NewerSchema, Poison
from pipeline.generations import requests
from pipeline.generations.control import ControlState
from pipeline.identity import DocumentKey, attempt_in, version_of
from pipeline.points import Head
from pipeline.ports import Record
from pipeline.records import DocumentDeleted, Request
from pipeline.stages.dead_letters import describe
from pipeline.verification.published import Verified, last_verified

#: Versions that are shown, the newest ones: a log that is not compacted can hold many thousands.
_VERSIONS: Final = 200


def explained(parts: Parts, state: ControlState, key: DocumentKey) -> dict[str, Any]:
    """Everything that is known of a document.

    Raises:
        ConfigError: nothing is.
        BrokerUnavailable, StoreUnavailable: no answer.
    """
    wanted = Wanted([key])
    topic = parts.names.documents(parts.config.pipeline.epoch)
    versions = [_version(parts, record) for record in traces.records(parts, topic, wanted)]
    verified = last_verified(parts.broker, parts.names)
    newest = versions[-1]["version"] if versions else -1
    generations = list(_generations(parts, state, key, newest, verified))
    letters = [describe(letter) for letter in traces.letters(parts, wanted).standing.values()]
    kept_out = requests.suppressed(state).by(key)
    published = _published(parts, wanted)
    seen = [one for one in generations if one["head"] is not None or one["chunks"]]
    if not (versions or seen or letters or kept_out or published):
        raise ConfigError(
            f"nothing is known of {key.text}",
            "`vectide search --json` shows keys; the log may have forgotten it, and gc its tombstone",
        )
    return {
        "key": key.text,
        "doc": key.doc,
        "versions": versions[-_VERSIONS:],
        "versions_left_out": max(0, len(versions) - _VERSIONS),
        "connector": published,
        "generations": generations,
        "dead_letters": letters,
        "kept_out": None if kept_out is None else _request(kept_out),
        "requests": [
            _request(one)
            for one in state.asked
            if one.kind != "gc" and one.source == key.source and (not one.paths or key.path in one.paths)
        ],
    }


def _version(parts: Parts, record: Record) -> dict[str, Any]:
    """One record of it, newest schema or not."""
    found: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "version": version_of(parts.config.pipeline.epoch, record.offset),
        "appended": record.timestamp,
        "event_time": event_time(record),
        "record_bytes": len(record.value or b""),
    }
    try:
        event = decode_event(record)
    except (Poison, NewerSchema) as error:
        return {**found, "kind": "unreadable", "why": str(error)}
    if event is None:
        return {**found, "kind": "null"}
    if isinstance(event, DocumentDeleted):
        return {**found, "kind": "deleted"}
    return {
        **found,
        "kind": "changed" if event.text is not None else "omitted",
        "size": event.size,
        "digest": event.digest,
        "media_type": event.media_type,
        "omitted": event.omitted,
        "backfill": event.provenance.backfill,
    }


def _generations(
    parts: Parts, state: ControlState, key: DocumentKey, newest: int, verified: Mapping[str, Verified]
) -> Iterator[dict[str, Any]]:
    """What each collection has of it, followed or not; ``newest`` is the log's last version."""
    for collection in traces.collections(parts):
        id = collection.spec.generation
        known = state.generations.get(id)
        try:
            head = collection.heads([key.doc]).get(key.doc)
            chunks = traces.count_chunks(collection, [key.doc])
        except CollectionMissing:
            continue  # dropped meanwhile
        yield {
            "generation": id,
            "state": None if known is None else known.state,
            "head": None if head is None else _head(head),
            "chunks": chunks,
            "verified": _verified(verified.get(id), key, newest if head is None else head.version),
        }


def _verified(last: Verified | None, key: DocumentKey, version: int) -> dict[str, Any] | None:
    """The generation's last verification, and whether it has looked at this version."""
    return None if last is None else {**last.as_json(), "covers": last.covers(key, version)}


def _head(head: Head) -> dict[str, Any]:
    return {
        "state": head.state,
        "reason": head.reason,
        "version": head.version,
        "attempt": attempt_in(head.stamp),
        "stamp": head.stamp,
        "content_version": head.content_version,
        "event_time": head.event_time,
        "chunks": len(head.chunks),
        "tokens": sum(chunk.tokens for chunk in head.chunks),
        "missing": list(head.missing),
        "embedded": None if head.made is None else head.made.embedded,
        "reused": None if head.made is None else {"kept": head.made.kept, "copied": head.made.copied},
        "metadata": dict(head.metadata),
    }


def _published(parts: Parts, wanted: Wanted) -> dict[str, Any] | None:
    """The last word of its source's connector."""
    last: bytes | None = None
    for record in traces.records(parts, parts.names.connector_state, wanted):
        last = record.value
    if last is None:
        return None
    try:
        entry = msgspec.json.decode(last)
        return {
            "published": bool(entry["digest"]),
            "digest": entry["digest"],
            "revision": entry["revision"],
            "forgotten": entry.get("forgotten", ""),
        }
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return {"published": True, "digest": "", "revision": "", "forgotten": ""}


def _request(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "kind": request.kind,
        "asked": request.at,
        "whole_source": not request.paths,
        "closed": request.closed or None,
    }
