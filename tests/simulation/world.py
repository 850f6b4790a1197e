"""The log of a schedule: document versions as chunked records, and what may be true in the end."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from pipeline.identity import DocumentKey, content_hash
from pipeline.points import Vectors
from pipeline.ports import CollectionSpec
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.sync.batches import ToEmbed
from tests.simulation.profiles import Profile

DIMENSION = 2
SPEC = CollectionSpec(
    name="simulated",
    generation="g1",
    dimension=DIMENSION,
    distance="dot",
    model_fingerprint="model",
    chunking_fingerprint="chunking",
    filter_fields={"acl": "keyword"},
)


@lru_cache(maxsize=4096)
def vector_of(content: str) -> Vectors:
    """What the model makes of a text: two numbers from its hash."""
    return np.array([int(content[:4], 16) + 1, int(content[4:8], 16) + 1], dtype=np.float32)


def chunked(
    key: DocumentKey, version: int, letters: Sequence[str], acl: str, title: int = 0, salt: str = ""
) -> ChunkedDocument:
    """A version whose chunks are single paragraphs, one for each letter."""
    spans, parts, at = [], [], 0
    for letter in letters:
        part = f"{salt}{letter}"
        spans.append(ChunkSpan(at, at + len(part), content_hash(part), 1, ("Title",)))
        parts.append(part)
        at += len(part)
    return ChunkedDocument(
        key=key,
        version=version,
        generation=SPEC.generation,
        state="chunked",
        provenance=Provenance(event_time=float(version)),
        text="".join(parts),
        chunks=tuple(spans),
        metadata={"acl": acl, "title": title},
    )


def deleted(key: DocumentKey, version: int) -> ChunkedDocument:
    """A delete."""
    return ChunkedDocument(key, version, SPEC.generation, "deleted", Provenance(float(version)))


def failed(document: ChunkedDocument, state: str = "failed") -> ChunkedDocument:
    """The same version, as a chunker that could not cut it up (or had no text) records it."""
    return replace(document, state=state, text="", chunks=(), reason="too odd")


@dataclass
class World:
    """The chunks topic, what of it is still there, and which texts the model cannot embed now."""

    keys: list[DocumentKey]
    log: list[ChunkedDocument] = field(default_factory=list)
    end: int = 0
    """What has been published so far."""
    compacted: set[int] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    ever_broken: set[str] = field(default_factory=set)
    healing: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    breaking: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    embedded: int = 0
    replayed_last: bool = False

    def publish(self) -> None:
        """One more record becomes visible; with it texts break and heal."""
        self.broken |= self.breaking.get(self.end, set())
        self.ever_broken |= self.broken
        self.broken -= self.healing.get(self.end, set())
        self.end += 1

    def records(self, position: int, most: int) -> tuple[list[tuple[int, ChunkedDocument]], int]:
        """Up to ``most`` records from ``position`` on, and the next position."""
        found = []
        while position < self.end and len(found) < most:
            if position not in self.compacted:
                found.append((position, self.log[position]))
            position += 1
        return found, position

    def compact(self, random_: random.Random) -> None:
        """Forget some records that have a later version of their document behind them."""
        newest: dict[str, int] = {}
        for at in range(self.end - 1, -1, -1):
            record = self.log[at]
            if not record.replay and newest.get(record.key.doc, -1) > record.version and random_.random() < 0.5:
                self.compacted.add(at)
            newest[record.key.doc] = max(newest.get(record.key.doc, -1), record.version)

    def embed(self, items: Sequence[ToEmbed]) -> tuple[dict[str, Vectors], dict[str, str]]:
        """The model."""
        self.embedded += len(items)
        vectors = {item.content_hash: vector_of(item.content_hash) for item in items}
        bad = {content: "out of memory" for content in vectors if content in self.broken}
        return {content: vector for content, vector in vectors.items() if content not in bad}, bad

    def versions(self, doc: str) -> dict[int, list[ChunkedDocument]]:
        """What the log says about a document, by version."""
        found: dict[int, list[ChunkedDocument]] = defaultdict(list)
        for record in self.log[: self.end]:
            if record.key.doc == doc:
                found[record.version].append(record)
        return found


def world_of(profile: Profile, random_: random.Random, salt: str) -> World:
    """A log of changes, with the duplicates and replays that at-least-once brings."""
    letters = [chr(ord("a") + n) for n in range(profile.letters)]
    keys = [DocumentKey(f"s{salt}", f"d{n}") for n in range(profile.documents)]
    world = World(keys)
    past: dict[DocumentKey, list[list[str]]] = {key: [] for key in keys}
    acls = dict.fromkeys(keys, "x")
    documents: list[ChunkedDocument] = []
    for version in range(random_.randint(2, profile.changes)):
        key = random_.choice(keys)
        if past[key] and random_.random() < profile.delete:
            documents.append(deleted(key, version))
            continue
        if random_.random() < profile.metadata:
            acls[key] = random_.choice(profile.values) if profile.values else f"x{version}"
        if not past[key] or random_.random() < profile.edits:
            text = _edited(past[key], letters, profile.paragraphs, random_)
        else:
            text = past[key][-1]
        past[key].append(text)
        document = chunked(key, version, text, acls[key], version, salt)
        if random_.random() < profile.chunker_failure:
            failure = failed(document, random_.choice(["failed", "omitted"]))
            documents.append(failure)
            if random_.random() < profile.replay:
                documents.append(replace(document, replay=True))
        else:
            documents.append(document)
            if random_.random() < profile.replay:
                documents.append(replace(document, replay=True))
    world.log = _with_late_records(documents, profile, random_)
    for letter in letters:
        if random_.random() < profile.broken_text:
            start = random_.randrange(len(world.log))
            world.breaking[start].add(content_hash(f"{salt}{letter}"))
            world.healing[random_.randint(start + 1, len(world.log) + 2)].add(content_hash(f"{salt}{letter}"))
    return world


def _edited(past: list[list[str]], letters: list[str], most: int, random_: random.Random) -> list[str]:
    if not past:
        return [random_.choice(letters) for _ in range(random_.randint(0 if most > 2 else 1, most))]
    kind = random_.random()
    if kind < 0.2:
        return random_.choice(past)  # the same again, or an old state restored
    text = list(past[-1])
    if kind < 0.5 and len(text) < most:
        text.insert(random_.randint(0, len(text)), random_.choice(letters))
    elif kind < 0.7 and text:
        text.pop(random_.randrange(len(text)))
    elif text:
        text[random_.randrange(len(text))] = random_.choice(letters)
    return text


def _with_late_records(
    documents: list[ChunkedDocument], profile: Profile, random_: random.Random
) -> list[ChunkedDocument]:
    log: list[ChunkedDocument] = []
    late: list[ChunkedDocument] = []
    for document in documents:
        if document.replay:
            late.append(document)  # a replay comes after the record that failed, at any time
        else:
            log.append(document)
            if random_.random() < profile.duplicate:
                late.append(document)
        while late and random_.random() < 0.5:
            log.append(late.pop(random_.randrange(len(late))))
    random_.shuffle(late)
    return log + late
