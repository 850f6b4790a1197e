"""The log of a schedule, what models make of its texts, and what a collection must hold in the end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.chunking import chunk
from pipeline.chunking.documents import chunked
from pipeline.chunking.tokens import WordTokenizer
from pipeline.codec import encode_event
from pipeline.config import ChunkingConfig, Config, MigrateConfig, ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.identity import DocumentKey, version_of
from pipeline.naming import Names
from pipeline.points import Vectors
from pipeline.ports import Broker, Collection, NewRecord
from pipeline.records import ChunkSpan, DocumentChanged, DocumentDeleted, DocumentEvent, Provenance
from pipeline.specs import ChunkingSpec, GenerationSpec, ModelSpec
from pipeline.sync.filters import filter_fields
from pipeline.sync.reading import embedded_text, point_ids

NAMES = Names("t", "p")
EPOCH = 0
#: What a configuration proposes before anything is migrated, and what all of a schedule works with.
CONFIG = Config(
    pipeline=PipelineConfig(prefix="t", name="p", partitions=2, filter_fields={"acl": "keyword"}),
    model=ModelConfig(provider="hashing", name="hashing", dimension=32),
    chunking=ChunkingConfig(target_tokens=16, max_tokens=64, context="none"),
    # A gate by few questions that refuses no answer: what it makes of answers is tested elsewhere.
    migrate=MigrateConfig(known_items=3, known_item_tolerance=1.0, tolerance=1.0, lag_seconds=2.0),
)
#: What an operator may migrate to: another dimension, another chunking with the same vectors, another
#: model of the same dimension, and what there was in the beginning.
PROPOSALS: Sequence[dict[str, Any]] = (
    {"model_settings": {"dimension": 24}},
    {"chunking_settings": {"target_tokens": 40}},
    {"model_settings": {"document_prompt": "d: ", "query_prompt": "q: "}},
    {},
)
TOKENIZER = WordTokenizer()
_PARAGRAPHS = "abcdef"
_MOST_PARAGRAPHS = 4


@lru_cache(maxsize=64)
def embedder_of(spec: ModelSpec) -> HashingEmbedder:
    """The model of a spec."""
    return HashingEmbedder(spec, TOKENIZER)


@lru_cache(maxsize=20_000)
def vector_of(spec: ModelSpec, text: str, *, query: bool) -> Vectors:
    """What a model makes of a text."""
    model = embedder_of(spec)
    return model.embed_query(text) if query else model.embed_documents([text])[0]


@lru_cache(maxsize=20_000)
def spans_of(spec: ChunkingSpec, text: str, media_type: str) -> tuple[ChunkSpan, ...]:
    """How a generation cuts a text."""
    return tuple(chunk(text, media_type, spec, TOKENIZER))


class Corpus:
    """Documents that are edited, deleted and brought back, and all that was ever published of them.

    Args:
        broker: has the topic.
        random_: of the schedule.
        documents: how many there are.
        now: seconds since 1970.
    """

    def __init__(self, broker: Broker, random_: random.Random, documents: int, now: Callable[[], float]) -> None:
        self.keys = [DocumentKey("s", f"d{number}") for number in range(documents)]
        self.events: dict[DocumentKey, list[tuple[int, DocumentEvent]]] = {key: [] for key in self.keys}
        self._now = now
        self._publisher = broker.publisher("writer")
        self._random = random_
        self._count = 0

    def change(self) -> str:
        """Something happens to a document; what."""
        key = self._random.choice(self.keys)
        last = self.last(key)
        chance = self._random.random()
        if last is None or isinstance(last, DocumentDeleted):
            return self.put(key, self._text(key, []), "x")
        assert isinstance(last, DocumentChanged)
        acl = str(last.metadata["acl"])
        if chance < 0.25:
            return self.delete(key)
        if chance < 0.5:
            return self.put(key, last.text or "", self._random.choice("xyz"))
        return self.put(key, self._text(key, (last.text or "").split("\n\n")[1:]), acl)

    def put(self, key: DocumentKey, text: str, acl: str) -> str:
        """A new version."""
        self._count += 1
        metadata = {"acl": acl, "count": self._count}
        happened = Provenance(self._now())
        self._publish(DocumentChanged(key, text, metadata, "text/plain", f"digest {self._count}", happened))
        return f"{key.path} v{self.events[key][-1][0]} acl={acl} {len(text)} characters"

    def delete(self, key: DocumentKey) -> str:
        """The document is gone."""
        self._publish(DocumentDeleted(key, Provenance(self._now())))
        return f"{key.path} v{self.events[key][-1][0]} deleted"

    def last(self, key: DocumentKey) -> DocumentEvent | None:
        """The newest event of a document."""
        return self.events[key][-1][1] if self.events[key] else None

    def versions(self, seconds: float = 0.0) -> dict[DocumentKey, int]:
        """The newest version of each document that has been in the log for so long."""
        until = self._now() - seconds
        old = {
            key: [version for version, event in events if event.provenance.event_time <= until]
            for key, events in self.events.items()
        }
        return {key: versions[-1] for key, versions in old.items() if versions}

    def _publish(self, event: DocumentEvent) -> None:
        record = NewRecord(NAMES.documents(EPOCH), *encode_event(event))
        (written,) = self._publisher.publish([record], Deadline.never())
        self.events[event.key].append((version_of(EPOCH, written.offset), event))

    def _text(self, key: DocumentKey, paragraphs: list[str]) -> str:
        kind = self._random.random()
        if paragraphs and kind < 0.3:
            paragraphs[self._random.randrange(len(paragraphs))] = self._paragraph()
        elif paragraphs and kind < 0.5:
            paragraphs.pop(self._random.randrange(len(paragraphs)))
        elif len(paragraphs) < _MOST_PARAGRAPHS:
            paragraphs.insert(self._random.randint(0, len(paragraphs)), self._paragraph())
        return "\n\n".join([f"This is what document {key.path} has to say.", *paragraphs])

    def _paragraph(self) -> str:
        letter = self._random.choice(_PARAGRAPHS)
        return " ".join(f"{letter}{number}" for number in range(10)) + "."


def differences(corpus: Corpus, spec: GenerationSpec, collection: Collection) -> list[str]:
    """Where a collection is not what the log says of a generation."""
    found: list[str] = []
    heads = {head.doc: head for head in collection.scan_heads(limit=1_000)[0]}
    chunks = {one.id: one for one in collection.scan_chunks(limit=10_000, vectors=True)[0]}
    for key, events in corpus.events.items():
        head = heads.pop(key.doc, None)
        if not events:
            found += [] if head is None else [f"{key.path}: a head of what never was"]
            continue
        version, event = events[-1]
        wanted = chunked(event, version, spec.id, lambda text, kind: spans_of(spec.chunking, text, kind))
        if head is None or head.version != version:
            found.append(f"{key.path}: the log is at {version}, the head at {head and head.version}")
            continue
        state = "deleted" if isinstance(event, DocumentDeleted) else "complete"
        fields = filter_fields(wanted, spec.filter_fields)
        ids = point_ids(wanted)
        if (head.state, [one.id for one in head.chunks], head.filters) != (state, ids, fields.values):
            found.append(
                f"{key.path} v{version}: the head says {head.state}, {len(head.chunks)} chunks, {head.filters}"
            )
        for id, span in zip(ids, wanted.chunks, strict=True):
            point = chunks.pop(id, None)
            if point is None:
                found.append(f"{key.path} v{version}: a listed chunk is not there")
            elif point.filters != fields.values:
                found.append(f"{key.path} v{version}: a chunk has the fields {point.filters}, not {fields.values}")
            elif not np.array_equal(point.vector, vector_of(spec.model, embedded_text(wanted, span), query=False)):
                found.append(f"{key.path} v{version}: a chunk has another model's vector")
    found += [f"{head.key.path}: a head that the log does not know" for head in heads.values()]
    found += [f"a chunk that no head lists: {chunk.text[:30]!r}@{chunk.stamp}" for chunk in chunks.values()]
    return found
