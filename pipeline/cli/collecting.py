"""``gc``: what nothing needs any more, found by looking and, if asked, removed.

Names are listed before ``control`` is read: what it does not know then was not founded in between.
docs/adr/0004-erasure.md says why each thing can go.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from connectors.duties import OldDeletes
from pipeline.broker.partitioner import partition_of
from pipeline.broker.publishing import closed_after
from pipeline.broker.reading import to_the_end
from pipeline.cli import clearing
from pipeline.cli.asking import Asking
from pipeline.cli.assembly import Followed, Parts
from pipeline.cli.tasks import Task
from pipeline.codec import decode_dead_letter
from pipeline.deadline import Deadline
from pipeline.errors import CollectionMissing, ConfigError, NewerSchema, Poison, Refused, Transient
from pipeline.generations import operator, requests
from pipeline.generations.control import FOLLOWED, ControlState, Generation
from pipeline.identity import OFFSET_BITS, DocumentKey
from pipeline.points import Head
from pipeline.ports import Collection as StoredCollection
from pipeline.ports import Record
from pipeline.stages import dead_letters

#: Younger deletes can matter to dead letters, which live for 30 days, and to workers that hang.
OLDER_DAYS: Final = 30.0

_DAY_SECONDS: Final = 86_400.0
_LEAVE_SECONDS: Final = 60.0
_STALL_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 5.0
_PAGE: Final = 500
_HEADS: Final = 256
#: Tombstones of one generation that one gc looks into: some 20 MB.
_CANDIDATES: Final = 100_000
_GONE: Final = "not known to control"


@dataclass(frozen=True, slots=True)
class _Orphan:
    id: str
    why: str
    names: list[str]
    room: clearing.Room

    def as_json(self) -> dict[str, Any]:
        return {
            "generation": self.id,
            "why": self.why,
            "names": self.names,
            "points": self.room.points,
            "bytes": self.room.bytes + self.room.topic_bytes,
            "records": self.room.records,
        }


class Collecting:
    """One run of gc.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        sources: those that this very process runs.
        task: told how far it is.
        given: ``older_days``, ``apply`` and ``wait`` (seconds).

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        sources: Callable[[], Collection[str]],
        task: Task,
        given: Mapping[str, Any],
    ) -> None:
        days = float(given.get("older_days", OLDER_DAYS))
        if not 0 <= days < float("inf"):
            raise ConfigError(f"--older-than {days} is no number of days", "for example 30")
        self._parts = parts
        self._control = control
        self._task = task
        self._older = time.time() - days * _DAY_SECONDS
        self._topic = parts.names.documents(parts.config.pipeline.epoch)
        self._asking = Asking(parts, control, sources, task, Deadline.after(float(given.get("wait", 60.0))))

    def look(self) -> dict[str, Any]:
        """What would go, and why nothing may now if so."""
        state, orphans, letters = self._left()
        deletes, left = self._deletes(self._applied(state.followed))
        tombstones = {one.id: len(found) for one, found in self._tombstones(state)}
        return {
            "applied": False,
            "refused": self._refused(state),
            "deletes": dict(deletes),
            "deletes_left": left,
            "tombstones": tombstones,
            "orphans": [one.as_json() for one in orphans],
            "dead_letters": len(letters),
            "requests": len(requests.needless(state, self._older)),
        }

    def apply(self) -> dict[str, Any]:
        """Remove it.

        Raises:
            Refused: a generation is being built.
            Transient: a connector has not answered yet, or a worker is still at what should go; run it again.
        """
        building = self._refused(self._control.again())
        if building:
            raise Refused(building, "wait for the migration, or give it up with `vectide migrate abort`")
        deletes, left = self._collected()
        state, orphans, letters = self._left()
        for generation in state.followed:
            clearing.trim(self._parts, generation.id, over=False)  # what is applied cannot come again then
        tombstones = {}
        for one, found in self._tombstones(state):
            collection = self._parts.store.open(self._parts.names.collection(one.id))
            collection.drop_tombstones(found)
            collection.flush()
            tombstones[one.id] = len(found)
        for orphan in orphans:
            self._task.at(f"removing generation {orphan.id}", 0, 0)
            clearing.clear(self._parts, orphan.id, Deadline.after(_LEAVE_SECONDS))
        if letters:
            with closed_after(self._parts.broker.publisher("gc"), _CLOSE_SECONDS) as publisher:
                dead_letters.resolve(publisher, self._parts.names, letters)
        needless = requests.needless(state, self._older)
        operator.forget_requests(self._parts.broker, self._parts.names, lambda now: requests.needless(now, self._older))
        return {
            "applied": True,
            "refused": "",
            "deletes": deletes,
            "deletes_left": left,
            "tombstones": tombstones,
            "orphans": [one.as_json() for one in orphans],
            "dead_letters": len(letters),
            "requests": len(needless),
        }

    # --------------------------------------------------------------------- delete records

    def _collected(self) -> tuple[dict[str, int], int]:
        """Have the sources' writers put nulls in place of old deletes; how many, by source."""
        # What is superseded goes first: a delete stays while an older record of its document is there.
        self._parts.broker.purge([self._topic])
        before = self._applied(self._control.again().followed)
        found, left = self._deletes(before)
        wanted = [
            self._asking.request("gc", source, before=before, older=self._older) for source in sorted(found) if found
        ]
        opened = requests.open_of(self._control.again().requests.values(), "gc")  # of a gc that was killed
        if not wanted and not opened:
            return {}, left
        asked = {one.id: one for one in [*self._asking.asked([*wanted]), *opened]}
        done = self._asking.carried_out(list(asked.values()))
        waiting = [one.source for one in asked.values() if one.id not in done]
        if waiting:
            raise Transient(
                f"the connector of {waiting[0]!r} has not answered yet, and no migration can start until it has: "
                "run `vectide gc --apply` again"
            )
        self._parts.broker.purge([self._topic])  # a tombstone stays while its delete is there
        counts: Counter[str] = Counter()
        for id, one in done.items():
            counts[asked[id].source] += one.count
        return dict(counts), left + sum(one.left for one in done.values())

    def _deletes(self, before: Mapping[int, int]) -> tuple[Counter[str], int]:
        """Old deletes that can go, by source, and how many more there are."""
        self._task.at("looking for old deletes", 0, 0)
        old = OldDeletes(self._parts.broker, self._topic, before, self._older)
        counts: Counter[str] = Counter()
        try:
            while old.look():
                if self._task.stopped():
                    raise Transient("gc was stopped")
            while keys := old.take(_PAGE):
                counts.update(DocumentKey.from_bytes(key).source for key in keys)
        finally:
            old.close()
        return counts, old.left

    def _applied(self, followed: list[Generation]) -> dict[int, int]:
        """By partition, up to where every generation has applied the log: what its chunk stage has
        committed, once its embed stage is through with what it made of that.
        """
        self._task.at("waiting for the workers", 0, 0)
        bounds = self._parts.broker.offsets(self._topic)
        before = {partition: one.end for partition, one in bounds.items()}
        for one in followed:
            at = self._parts.broker.committed(self._parts.names.group("chunk", one.id), self._topic)
            before = {partition: min(end, at.get(partition, 0)) for partition, end in before.items()}
        self._asking.wait_passed(before)
        for one in self._control.again().followed:
            for partition in self._asking.behind(one, before):
                before[partition] = 0
        return before

    # ------------------------------------------------------------------------- tombstones

    def _tombstones(self, state: ControlState) -> Iterator[tuple[Generation, dict[str, int]]]:
        """By generation, stamps of tombstones under which nothing can come back: the log knows their
        documents no more, or only that they are forgotten.
        """
        if self._refused(state):
            return
        before = self._applied(state.followed)
        for one in state.followed:
            self._task.at(f"looking for tombstones of generation {one.id}", 0, 0)
            try:
                collection = self._parts.store.open(self._parts.names.collection(one.id))
                heads = self._old_tombstones(collection, before)
            except CollectionMissing:
                continue
            # Letters first: a replay sends its record into the chunks topic before it ends its letter.
            for letter in self._letters().values():
                if letter.generation == one.id:
                    heads.pop(letter.record_key or b"", None)
            for record in self._records(self._topic):
                if record.value is not None:
                    heads.pop(record.key or b"", None)
            for record in self._records(self._parts.names.chunks(one.id)):
                heads.pop(record.key or b"", None)
            yield one, {head.doc: head.stamp for head in heads.values()}

    def _old_tombstones(self, collection: StoredCollection, before: Mapping[int, int]) -> dict[bytes, Head]:
        """Of what every generation has applied; the records decide how old they are."""
        epoch = self._parts.config.pipeline.epoch
        found: dict[bytes, Head] = {}
        after: str | None = None
        while len(found) < _CANDIDATES:
            page, after = collection.scan_heads(after, _HEADS)
            for head in page:
                key = head.key.to_bytes()
                offset = head.version - (epoch << OFFSET_BITS)
                if head.state == "deleted" and offset < before[partition_of(key, len(before))]:
                    found[key] = head
            if after is None:
                break
        return found

    # ----------------------------------------------------------------- what nobody follows

    def _left(self) -> tuple[ControlState, list[_Orphan], list[str]]:
        """Generations that are over or unknown and have something left, and dead letters of such."""
        self._task.at("looking for what is left of generations that are over", 0, 0)
        owned = clearing.owners(self._parts)
        letters = self._letters()
        state = self._control.again()  # last: see above
        orphans = []
        for id, names in sorted(owned.items()):
            known = state.generations.get(id)
            if known is None or known.state not in FOLLOWED:
                why = _GONE if known is None else known.state
                orphans.append(_Orphan(id, why, names, clearing.room(self._parts, id)))
        followed = {one.id for one in state.followed}
        return state, orphans, [id for id, letter in letters.items() if letter.generation not in followed]

    def _letters(self) -> dict[str, _Letter]:
        """Unresolved dead letters, without their records."""
        found: dict[str, _Letter] = {}
        for record in self._records(self._parts.names.dead_letters):
            try:
                letter = decode_dead_letter(record)
            except (Poison, NewerSchema):
                continue
            if letter is None:
                found.pop((record.key or b"").decode(errors="replace"), None)
            else:
                found[letter.id] = _Letter(letter.generation, letter.record_key)
        return found

    def _records(self, topic: str) -> Iterator[Record]:
        if topic not in self._parts.broker.topics(topic):
            return
        with closing(to_the_end(self._parts.broker.reader(topic), topic, _PAGE, _STALL_SECONDS)) as pages:
            yield from chain.from_iterable(pages)

    def _refused(self, state: ControlState) -> str:
        building = [one.id for one in state.generations.values() if one.state == "building"]
        return f"generation {building[0]} is being built" if building else ""


@dataclass(frozen=True, slots=True)
class _Letter:
    generation: str
    record_key: bytes | None
