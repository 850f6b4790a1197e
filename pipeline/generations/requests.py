"""What may be asked of the sources' writers, and what is in effect: pure, on what ``control`` says.

docs/adr/0004-erasure.md has the picture. Whether a request is done stands with the source, in its
part of ``connector-state``; here it is asked, and closed once somebody has seen that it is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import Refused
from pipeline.generations.control import ControlState
from pipeline.identity import DocumentKey
from pipeline.records import Request


def ask(state: ControlState, wanted: Sequence[Request]) -> Sequence[Request]:
    """Those of ``wanted`` that are not asked already, numbered.

    Raises:
        Refused: a gc, while a generation is being built.
    """
    number = max((one.number for one in state.requests.values()), default=0)
    new = [one for one in wanted if joined(state, one) is None]
    building = [one for one in state.generations.values() if one.state == "building"]
    if building and any(one.kind == "gc" for one in new):
        raise Refused(
            f"generation {building[0].id} is being built: it may have read what a gc would remove the delete of",
            "wait for the migration, or give it up with `vectide migrate abort`",
        )
    return [replace(one, number=number + place) for place, one in enumerate(new, 1)]


def joined(state: ControlState, wanted: Request) -> Request | None:
    """The request that is as good as this one: itself, or an open one that asks for the same and was
    not reversed since: nobody would carry that out once more.
    """
    if wanted.id in state.requests:
        return state.requests[wanted.id]
    for one in state.requests.values():
        same = (one.kind, one.source, set(one.paths)) == (wanted.kind, wanted.source, set(wanted.paths))
        if same and not one.closed and not _reversed(state, one):
            return one
    return None


def _reversed(state: ControlState, asked: Request) -> bool:
    """Whether the opposite was asked later for any of it."""
    opposite = {"forget": "lift", "lift": "forget"}.get(asked.kind)
    return any(
        one.kind == opposite and one.number > asked.number and overlap(one, asked) for one in state.requests.values()
    )


def overlap(one: Request, other: Request) -> bool:
    """Whether both are about something in common; a whole source and its single documents are not."""
    same = one.source == other.source and bool(one.paths) == bool(other.paths)
    return same and (not one.paths or not set(one.paths).isdisjoint(other.paths))


def close(state: ControlState, ids: Collection[str], now: float) -> Sequence[Request]:
    """Take note that these are done; nothing happens to those that are closed or gone."""
    found = (state.requests.get(id) for id in ids)
    return [replace(one, closed=now) for one in found if one is not None and not one.closed]


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What stays out of the index, whatever its source says."""

    documents: dict[DocumentKey, Request] = field(default_factory=dict)
    """By key, the request that had it forgotten."""
    sources: dict[str, Request] = field(default_factory=dict)
    """Whole sources."""

    def by(self, key: DocumentKey) -> Request | None:
        """The request that keeps this document out; None: it is not kept out."""
        return self.documents.get(key) or self.sources.get(key.source)


def suppressed(state: ControlState) -> Suppressed:
    """What was forgotten and not lifted since; a request counts from when it is asked."""
    found = Suppressed()
    for one in state.asked:
        keys = [DocumentKey(one.source, path) for path in one.paths]
        match one.kind:
            case "forget" if keys:
                found.documents.update(dict.fromkeys(keys, one))
            case "forget":
                found.sources[one.source] = one
            case "lift" if keys:
                for key in keys:
                    found.documents.pop(key, None)
            case "lift":
                found.sources.pop(one.source, None)  # documents that were forgotten one by one stay so
    return found


def needless(state: ControlState, before: float) -> list[Request]:
    """Requests that were closed before some moment and have no effect any more; a lift has one as
    long as what it lifts is there, if only for other documents.
    """
    effective = suppressed(state)
    kept = {one.id for one in (*effective.documents.values(), *effective.sources.values())}
    over = [one for one in state.requests.values() if 0 < one.closed < before and one.id not in kept]
    ids = {one.id for one in over}
    forgets = [one for one in state.requests.values() if one.kind == "forget" and one.id not in ids]
    return [
        one
        for one in over
        if one.kind != "lift" or not any(forget.number < one.number and overlap(forget, one) for forget in forgets)
    ]


def refuse_while_collecting(state: ControlState) -> None:
    """A generation that is begun while deletes are collected could miss one.

    Raises:
        Refused: a gc is open.
    """
    collecting = open_of(state.requests.values(), "gc")
    if collecting:
        raise Refused(
            f"a gc is under way for source {collecting[0].source!r}", "`vectide gc --apply` brings it to its end"
        )


def open_of(requests: Iterable[Request], kind: str) -> list[Request]:
    """Those of a kind that nobody has seen done."""
    return [one for one in requests if one.kind == kind and not one.closed]
