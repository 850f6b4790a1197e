"""What ``migrate status`` shows: each generation that is followed, and how far the one being built is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from pipeline.cli.assembly import Parts
from pipeline.cli.figures import lag_of, once_made
from pipeline.errors import Fatal
from pipeline.generations import gate
from pipeline.generations.control import UNDER_WAY, ControlState, Generation
from pipeline.ports import Collection

#: Documents whose tokens are counted; to count all would read every head.
_SAMPLE: Final = 200


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is in a generation's collection."""

    documents: int
    chunks: int
    tokens: int
    """Of all of it, from a sample of the documents."""
    unserved: int


def migration_status(parts: Parts, state: ControlState) -> dict[str, Any]:
    """The generations as they are now.

    Raises:
        BrokerUnavailable, StoreUnavailable: no answer.
    """
    target = state.target
    return {
        "state": "none" if target is None else target.state,
        "target": None if target is None else target.id,
        "live": None if state.live is None else state.live.id,
        "previous": None if state.previous is None else state.previous.id,
        "generations": [_progress(parts, one, state) for one in state.followed],
        "over": _over(state),
        "gate": _last_gate(state, target),
    }


def described(one: Generation) -> dict[str, Any]:
    """A generation, for people and scripts."""
    return {
        "id": one.id,
        "state": one.state,
        "since": one.since,
        "begun": one.begun,
        "paused": one.paused,
        "throttle": one.throttle,
        "model": one.spec.model.name,
        "provider": one.spec.model.provider,
        "dimension": one.spec.model.dimension,
        "model_fingerprint": one.spec.model.fingerprint,
        "chunking_fingerprint": one.spec.chunking.fingerprint,
        "transitions": one.transitions,
    }


def _progress(parts: Parts, one: Generation, state: ControlState) -> dict[str, Any]:
    stored = _stored(parts, one)
    whole = stored if state.live is None or one.id == state.live.id else _stored(parts, state.live)
    try:
        lag, oldest = lag_of(parts, one.spec)
    except Fatal:
        lag, oldest = {}, 0.0  # retired or aborted between two looks: its topic is gone
    found = {
        **described(one),
        "documents": stored.documents,
        "documents_in_live": whole.documents,
        "tokens": stored.tokens,
        "chunks": stored.chunks,
        "incomplete_or_failed": stored.unserved,
        "lag": sum(lag.values()),
        "oldest_unprocessed_event_age_seconds": round(oldest, 1),
    }
    if one.state in UNDER_WAY:
        # Of its own documents; until there are some, as large as the live generation's are.
        each = stored.tokens / stored.documents if stored.documents else whole.tokens / max(1, whole.documents)
        found["tokens_whole"] = round(each * max(whole.documents, stored.documents))
        seconds = max(1e-9, time.time() - one.begun)
        left = max(0, whole.documents - stored.documents)
        found["documents_per_second"] = round(stored.documents / seconds, 3)
        found["tokens_per_second"] = round(stored.tokens / seconds, 1)
        found["eta_seconds"] = round(left * seconds / stored.documents, 1) if stored.documents else None
    return found


def _stored(parts: Parts, one: Generation) -> _Stored:
    name = parts.names.collection(one.id)
    return once_made(lambda: _looked_into(parts.store.open(name))) or _Stored(0, 0, 0, 0)


def _looked_into(collection: Collection) -> _Stored:
    states = collection.count_heads()
    sample = [head for head in collection.scan_heads(None, _SAMPLE)[0] if head.state != "deleted"]
    documents = sum(states.values()) - states.get("deleted", 0)
    tokens = sum(chunk.tokens for head in sample for chunk in head.chunks)
    return _Stored(
        documents,
        collection.count_chunks(),
        round(tokens * documents / len(sample)) if sample else 0,
        gate.unserved(states),
    )


def _over(state: ControlState) -> list[dict[str, Any]]:
    """What was given up or has failed and still takes room, with the reason."""
    found = []
    for one in state.generations.values():
        if one.state in ("aborted", "failed"):
            reason = next(entry.reason for entry in reversed(state.history) if entry.generation == one.id)
            found.append({**described(one), "reason": reason})
    return found


def _last_gate(state: ControlState, target: Generation | None) -> dict[str, Any] | None:
    if target is None:
        return None
    found = [one for one in state.history if one.generation == target.id and one.reason.startswith("gate ")]
    return dict(found[-1].details) if found else None
