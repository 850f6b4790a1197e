"""What documents, chunks and points take: tokens, bytes of records and payloads, and of a collection on the disk.

    python -m tests.bench.room --documents 3000

The documents are those of the first sync, cut by MiniLM's tokens; vectors are random, of MiniLM's length, for
their values take no room. What a collection takes beside its points is left out: it is the growth between half
of the documents and all of them. `vectide size` reckons with these figures (docs/sizing.md).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.chunking.documents import chunked
from pipeline.codec import encode_chunked, encode_event
from pipeline.config import load
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.models import located, tokenizer_of
from pipeline.identity import DocumentKey, version_of
from pipeline.points import ChunkPoint, StoredChunk, Vectors
from pipeline.ports import Collection, CollectionSpec
from pipeline.records import DocumentChanged, Provenance
from pipeline.store.edge import EdgeStore
from pipeline.store.payload import chunk_payload, head_payload
from pipeline.sync import ToEmbed, synchronise
from tests.bench.setting import machine, write_documents

_BATCH: Final = 64
_SAMPLE: Final = 1_000
#: Of the engine's segments.
_PARTS: Final = ("vector_storage-text", "payload_storage", "payload_index", "mutable_id_tracker", "id_tracker")


def measure(documents: int) -> dict[str, Any]:
    """Averages over all documents."""
    config = load(None, {})
    spec = generation_spec(config)
    tokenizer = tokenizer_of(located(spec, config))
    cut = chunker(spec, tokenizer)
    random = np.random.default_rng(1)
    totals = dict.fromkeys(("text", "tokens", "chunks", "chunk tokens", "documents record", "chunks record"), 0)

    def embed(items: Sequence[ToEmbed]) -> tuple[dict[str, Vectors], dict[str, str]]:
        vectors = random.standard_normal((len(items), spec.model.dimension), dtype=np.float32)
        return {item.content_hash: vector for item, vector in zip(items, vectors, strict=True)}, {}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder / "docs", documents, seed=1)
        store = EdgeStore(folder / "store")
        collection = store.create(_described(spec))
        half: dict[str, int] = {}
        chunks_in_half, batch = 0, []
        for number, path in enumerate(sorted((folder / "docs").iterdir())):
            text = path.read_text()
            metadata = {"source": "bench", "media_type": "text/markdown", "title": f"Document {number}"}
            event = DocumentChanged(DocumentKey("bench", path.name), text, metadata, "text/markdown", "0" * 64, _now())
            made = chunked(event, version_of(0, number), spec.id, cut)
            totals["text"] += len(text.encode())
            totals["tokens"] += tokenizer.count([text])[0]
            totals["chunks"] += len(made.chunks)
            totals["chunk tokens"] += sum(span.tokens for span in made.chunks)
            totals["documents record"] += _length(encode_event(event))
            totals["chunks record"] += _length(encode_chunked(made))
            batch.append(made)
            if len(batch) == _BATCH or number + 1 in (documents // 2, documents):
                synchronise(collection, batch, embed, donor_seconds=0)
                batch = []
            if number + 1 == documents // 2:
                half, chunks_in_half = _disk(store, folder / "store"), totals["chunks"]
        whole = _disk(store, folder / "store")
        payloads = _payloads(collection)
        store.close()
    grown = documents - documents // 2
    chunks_grown = totals["chunks"] - chunks_in_half
    return {
        "documents": documents,
        "chunks": totals["chunks"],
        "bytes of text a token": round(totals["text"] / totals["tokens"], 2),
        "tokens of a chunk": round(totals["chunk tokens"] / totals["chunks"], 1),
        "tokens embedded / tokens of documents": round(totals["chunk tokens"] / totals["tokens"], 3),
        "documents record beside its text, bytes": round((totals["documents record"] - totals["text"]) / documents),
        "chunks record beside its text, bytes a chunk": round(
            (totals["chunks record"] - totals["text"]) / totals["chunks"]
        ),
        **payloads,
        "points": grown + chunks_grown,
        "on the disk, bytes a chunk": {
            part: round((whole[part] - half.get(part, 0)) / chunks_grown) for part in sorted(whole)
        },
    }


def _described(spec: Any) -> CollectionSpec:
    model = spec.model
    return CollectionSpec("room", spec.id, model.dimension, model.distance, "m", "c", spec.filter_fields)


def _now() -> Provenance:
    return Provenance(1_700_000_000.0)


def _length(encoded: tuple[bytes, bytes, Any]) -> int:
    key, value, headers = encoded
    return len(key) + len(value) + sum(len(name) + len(text or b"") for name, text in headers)


def _disk(store: EdgeStore, folder: Path) -> dict[str, int]:
    """Bytes on the disk by the part of the engine that has them, written anew: without room for more, and no log."""
    (name,) = store.names("")
    store.purge(name)
    found: dict[str, int] = {}
    for path in (folder / name).rglob("*"):
        part = next((part for part in _PARTS if part in path.parts or path.name.startswith(part)), None)
        if path.is_file() and part is not None:
            found[part] = found.get(part, 0) + path.stat().st_blocks * 512
    return found


def _payloads(collection: Collection) -> dict[str, float]:
    """As JSON: what a payload is beside the text of its chunk, and a head beside what it lists."""
    chunks, _ = collection.scan_chunks(None, _SAMPLE, vectors=True)
    beside = [len(_json(chunk_payload(_point(one)))) - len(one.text.encode()) for one in chunks]
    heads = collection.scan_heads(None, _SAMPLE)[0]
    listed = sum(len(head.chunks) for head in heads)
    lists = sum(len(head_payload(head)["list"].encode()) for head in heads)
    others = sum(len(_json(head_payload(head))) for head in heads) - lists
    return {
        "payload of a chunk beside its text, bytes": round(sum(beside) / len(beside)),
        "payload of a head beside its list, bytes": round(others / len(heads)),
        "bytes of a head for each chunk that it lists": round(lists / listed),
    }


def _json(payload: object) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _point(chunk: StoredChunk) -> ChunkPoint:
    assert chunk.vector is not None
    return ChunkPoint(
        chunk.id, chunk.doc, chunk.stamp, chunk.content_hash, chunk.text, chunk.filters, chunk.filter_hash, chunk.vector
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--documents", type=int, default=3_000)
    chosen = options.parse_args()
    print(machine())
    for name, value in measure(chosen.documents).items():
        print(f"{name:<48} {value}")


if __name__ == "__main__":
    main()
