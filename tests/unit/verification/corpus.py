"""A log and a generation that follows it, with a real model and the embedded engine under them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import pipeline_topics
from pipeline.chunking.documents import chunked
from pipeline.codec import decode_event, encode_event
from pipeline.config import Config, ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import tokenizer_of
from pipeline.identity import DocumentKey, version_of
from pipeline.points import Head, StoredChunk, Vectors
from pipeline.ports import CollectionSpec, NewRecord
from pipeline.records import DocumentChanged, DocumentDeleted, Provenance
from pipeline.specs import GenerationSpec
from pipeline.store.collection import PointCollection
from pipeline.store.edge import EdgeStore
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.store.payload import CELLS_OF, chunk_payload, head_payload
from pipeline.sync import synchronise
from pipeline.verification.vectors import VectorCheck
from tests.support.workers import NAMES

PIPELINE = PipelineConfig(prefix=NAMES.prefix, name=NAMES.pipeline, partitions=2)
TOPIC = NAMES.documents(0)
MODEL = ModelConfig(provider="hashing", name="hashing", dimension=32)
TOKENIZER = tokenizer_of(MODEL)


def generation(**settings: Any) -> GenerationSpec:
    """A generation of small chunks."""
    model = MODEL.model_copy(update=settings)
    return generation_spec(Config(model=model, pipeline=PIPELINE, chunking={"max_tokens": 20}))  # type: ignore[arg-type]


SPEC = generation()


@dataclass
class Corpus:
    """One generation."""

    broker: EmbeddedBroker
    collection: PointCollection | MemoryCollection
    spec: GenerationSpec = SPEC

    @property
    def model(self) -> HashingEmbedder:
        return HashingEmbedder(self.spec.model, TOKENIZER)

    @property
    def check(self) -> VectorCheck:
        return VectorCheck(self.model, None, 64)

    def publish(self, *events: DocumentChanged | DocumentDeleted) -> None:
        records = [NewRecord(TOPIC, *encode_event(event)) for event in events]
        self.broker.publisher("t").publish(records, Deadline.after(5))

    def put(self, path: str, *paragraphs: str, **metadata: Any) -> DocumentKey:
        key = DocumentKey("s", path)
        text = "\n\n".join(paragraphs)
        self.publish(DocumentChanged(key, text, metadata, "text/plain", "d", Provenance(1.0)))
        return key

    def delete(self, path: str) -> None:
        self.publish(DocumentDeleted(DocumentKey("s", path), Provenance(1.0)))

    def follow(self, model: HashingEmbedder | None = None) -> None:
        """What both stages make of the log."""
        cut, embedder = chunker(self.spec, TOKENIZER), model or self.model
        reader, documents = self.broker.reader(TOPIC), []
        while not reader.caught_up():
            for record in reader.poll(0.0, 100):
                event = decode_event(record)
                if event is not None:
                    documents.append(chunked(event, version_of(0, record.offset), self.spec.id, cut))
        synchronise(self.collection, documents, lambda items: embed_all(embedder, items, None, 64), donor_seconds=0)

    def ends(self) -> dict[int, int]:
        return {partition: one.end for partition, one in self.broker.offsets(TOPIC).items()}

    def head(self, key: DocumentKey) -> Head:
        return self.collection.heads([key.doc])[key.doc]

    def chunks(self, key: DocumentKey) -> list[StoredChunk]:
        """In reading order, with vectors."""
        found = {one.id: one for one in self.collection.scan_chunks(None, 1000, [key.doc], vectors=True)[0]}
        return [found[listed.id] for listed in self.head(key).chunks]

    def plant(self, chunk: StoredChunk, vector: Vectors | None = None, **changes: Any) -> None:
        """Write a chunk past the protocol and the adapter's checks, its cells as they were."""
        made = replace(chunk, **({} if vector is None else {"vector": np.asarray(vector, np.float32)}), **changes)
        if isinstance(self.collection, MemoryCollection):
            point = replace(self.collection._chunks[chunk.id], **{one: getattr(made, one) for one in _CHUNK})
            self.collection._remove(chunk.id)
            self.collection._put(point)
            return
        (before,) = self.collection._engine.retrieve([chunk.id], payload=True, vector=False)
        payload = chunk_payload(replace(made, vector=None))  # type: ignore[arg-type]
        self._upsert(chunk.id, made.vector, before.payload, payload)

    def plant_head(self, head: Head) -> None:
        """Write a head past the protocol, its cells as they were."""
        if isinstance(self.collection, MemoryCollection):
            self.collection._heads[head.doc] = head
            return
        (before,) = self.collection._engine.retrieve([head.doc], payload=True, vector=False)
        self._upsert(head.doc, None, before.payload, head_payload(head))

    def remove(self, chunk: StoredChunk) -> None:
        """Delete a chunk past the protocol."""
        if isinstance(self.collection, MemoryCollection):
            self.collection._remove(chunk.id)
            return
        self.collection._engine.delete({"must": [{"has_id": [chunk.id]}]})

    def _upsert(self, id: str, vector: Vectors | None, before: dict[str, Any], payload: dict[str, Any]) -> None:
        assert isinstance(self.collection, PointCollection)
        cells = {name: before[name] for name in CELLS_OF.values() if name in before}
        self.collection._engine.upsert([(id, vector, {**payload, **cells})], None, "upsert")


#: What a planted chunk may differ in.
_CHUNK = ("text", "content_hash", "filters", "filter_hash", "stamp", "vector")


@contextmanager
def opened(spec: GenerationSpec = SPEC, folder: Path | None = None) -> Iterator[Corpus]:
    """An empty corpus, in memory or, in a folder, over Qdrant's engine, where planted points keep their cells."""
    broker = EmbeddedBroker(None)
    store = MemoryStore() if folder is None else EdgeStore(folder / "store")
    broker.ensure_topics(pipeline_topics(NAMES, PIPELINE))
    collection = store.create(
        CollectionSpec(
            NAMES.collection(spec.id),
            spec.id,
            spec.model.dimension,
            spec.model.distance,
            spec.model.fingerprint,
            spec.chunking.fingerprint,
            spec.filter_fields,
        )
    )
    try:
        yield Corpus(broker, collection, spec)
    finally:
        store.close()
        broker.close()
