"""The workers of a schedule: what the embed stage and its worker do, one request at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.errors import Transient
from pipeline.points import Vectors
from pipeline.records import ChunkedDocument
from pipeline.sync import Outcome, prepare, settling, synchronise, writing
from tests.simulation.moments import Moments
from tests.simulation.profiles import Profile
from tests.simulation.requests import Diverged, Stepped
from tests.simulation.world import World

T = TypeVar("T")


@dataclass
class Group:
    """The consumer group: the committed offset, and who holds the partition."""

    committed: int = 0
    owner: Owner | None = None


@dataclass
class Owner:
    """One embed worker, from its assignment on. It stays at work for a while after it lost it."""

    world: World
    group: Group
    collection: Stepped
    moments: Moments
    profile: Profile
    donor_seconds: float
    unaware: int = 0
    """As a zombie: batches that it still begins, for it has read them already."""
    position: int = 0
    open: list[int] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    held: list[tuple[str, list[int]]] = field(default_factory=list)
    idle: bool = False

    @property
    def in_charge(self) -> bool:
        return self.group.owner is self

    def run(self) -> None:
        """Until the log is worked off and committed, or until it notices that it has lost the partition."""
        random = self.moments.random
        self.position = self.group.committed
        while True:
            if not self.in_charge:
                self.unaware -= 1
                if self.unaware < 0:
                    return
            records, position = self.world.records(self.position, random.randint(1, self.profile.batch))
            if self.held and (not records or random.random() < 0.2):
                self._sweep()
            elif records:
                self.open += [at for at, _ in records]
                self.position = position
                self._work(records)
            else:
                self.position = position
                self._commit()
                if self.group.committed == len(self.world.log) or not self.in_charge:
                    return
                self.idle = True
                self.moments.wait("polls", "")
                self.idle = False
                continue
            if random.random() < 0.6:
                self._commit()

    def _work(self, records: list[tuple[int, ChunkedDocument]]) -> None:
        offsets: dict[str, list[int]] = defaultdict(list)
        for at, document in records:
            offsets[document.key.doc].append(at)
        documents = [document for _, document in records]
        shown = [f"{d.key.doc[:4]} v{d.version}{' replay' if d.replay else ''} {d.state}" for d in documents]
        self.moments.note("takes", ", ".join(shown))
        prepared = self._patiently(lambda: prepare(self.collection, documents))
        vectors: dict[str, Vectors] = {}
        bad: dict[str, str] = {}
        items = prepared.to_embed
        size = max(1, len(items))
        if self.moments.random.random() < self.profile.slices:
            size = self.moments.random.randint(1, 2)
        for start in range(0, len(items), size):
            made, failures = self._embed(items[start : start + size])
            vectors.update(made)
            bad.update(failures)
            if start + size < len(items):
                self._patiently(lambda part=made: writing.upsert_slice(prepared, part))  # type: ignore[misc]
        outcomes = self._patiently(lambda: writing.write(prepared, vectors, bad, self.donor_seconds))
        again = [outcome.document for outcome in outcomes if outcome.result == "again"]
        if again:
            outcomes = [outcome for outcome in outcomes if outcome.result != "again"]
            outcomes += self._patiently(
                lambda: synchronise(self.collection, again, self._embed, donor_seconds=self.donor_seconds)
            )
        self._account(outcomes, offsets)

    def _embed(self, items: list) -> tuple[dict[str, Vectors], dict[str, str]]:
        if not (self.profile.zombies or self.profile.power_cut):
            there = self.collection.inner.vectors([item.content_hash for item in items])
            if there:
                raise Diverged(f"embedded although a point holds the vector: {[content[:4] for content in there]}")
        return self.world.embed(items)

    def _account(self, outcomes: list[Outcome], offsets: dict[str, list[int]]) -> None:
        for outcome in outcomes:
            doc = outcome.document.key.doc
            if outcome.sweep_after is not None:
                self.held.append((doc, offsets[doc]))
            else:
                self.done.update(offsets[doc])

    def _sweep(self) -> None:
        count = self.moments.random.randint(1, len(self.held))
        due = self.held[:count]
        self._patiently(lambda: settling.sweep_deleted(self.collection, [doc for doc, _ in due]))
        del self.held[:count]
        for _, offsets in due:
            self.done.update(offsets)

    def _commit(self) -> None:
        while self.open and self.open[0] in self.done:
            self.done.discard(self.open.pop(0))
        offset = self.open[0] if self.open else self.position
        if not self.collection.flush_each_batch:
            if offset == self.group.committed or (self.open and self.moments.random.random() < 0.5):
                return
            self.moments.wait("flush", "")
            self.collection.inner.flush()
        if self.in_charge and offset > self.group.committed:
            self.moments.wait("commit", offset)
            if self.in_charge:
                self.group.committed = offset

    def _patiently(self, operation: Callable[[], T]) -> T:
        for _ in range(50):
            try:
                return operation()
            except Transient:
                continue
        raise Diverged("50 attempts, and still not done")
