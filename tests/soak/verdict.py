"""At a quiet point: is the store the writer's own truth, and every dead letter a planted one?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.broker.topics import pipeline_topics
from pipeline.cli.figures import lag_of
from pipeline.embedding.generation import chunker
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import CollectionMissing, VectideError
from pipeline.identity import DocumentKey, chunk_id, occurrences
from pipeline.points import Head, StoredChunk
from pipeline.ports import Collection
from pipeline.records import STAGES, ChunkSpan
from pipeline.specs import GenerationSpec
from pipeline.stages.dead_letters import standing
from pipeline.verification import verify
from tests.soak.cluster import Cluster
from tests.soak.truth import POISON, SOURCE, Document, Truth, key_of, on_disk
from tests.soak.weather import Weather

_LOOK_SECONDS = 1.0
_SAY_SECONDS = 15.0
#: A machine that is taken puts the deadline off, by so many times its length at most.
_MOST = 3.0
_EXAMPLES = 5
#: Of documents, where nothing lags.
_DIFFERENT = {"store is not the truth", "store is not the log", "dead letter"}
_COSINE = 0.999


def quiet(cluster: Cluster, truth: Truth, weather: Weather, seconds: float, sure: float | None = None) -> float:
    """Wait until nothing lags and nothing differs; what still does after so long is a violation, and so is what
    differs for ``sure`` seconds while nothing lags. Seconds taken.
    """
    started, said = time.monotonic(), _SAY_SECONDS
    differs: float | None = None
    found: dict[str, list[str]] = {"not looked": ["nothing could be asked yet"]}
    while True:
        try:
            found = _differences(cluster, truth) if cluster.ready() else {"not ready": _not_ready(cluster)}
        except CollectionMissing as error:
            found = {"collection missing": [str(error)]}
        except VectideError as error:
            found = {"no answer": [str(error)]}
        dead = {server.bootstrap: server.ended for server in cluster.brokers if server.ended is not None}
        if dead:
            found = {"harness": [f"somebody else has ended Kafka: {dead}"]}
            break
        waited = time.monotonic() - started
        if not found or waited > seconds + min(_MOST * seconds, weather.starved_since(started)):
            break
        differs = (differs or time.monotonic()) if found.keys() <= _DIFFERENT else None
        if sure is not None and differs is not None and time.monotonic() - differs > sure:
            break
        if waited > said:
            said += _SAY_SECONDS
            cluster.events.note("not quiet yet", found=found)
        time.sleep(_LOOK_SECONDS)
    for kind, texts in found.items():
        for text in texts:
            cluster.events.violation(kind, text)
    return time.monotonic() - started


def _not_ready(cluster: Cluster) -> list[str]:
    return [name for name, worker in cluster.workers.items() if not worker.url]


def _differences(cluster: Cluster, truth: Truth) -> dict[str, list[str]]:
    """By kind, what is wrong; empty if nothing is."""
    documents = truth.snapshot()
    parts, state = cluster.parts, cluster.control()
    found: dict[str, list[str]] = {}
    if on_disk(cluster.deployment.documents) != {path: document.text for path, document in documents.items()}:
        found["harness"] = ["the folder is not what the writer has written"]
    for generation in state.followed:
        lag, _ = lag_of(parts, generation.spec)
        if any(lag.values()):
            return {"lag": [f"{generation.id}: {lag}", *_lags(cluster, generation.spec)]}
    heads: dict[str, dict[str, Head]] = {}
    for generation in state.followed:
        collection = parts.store.open(parts.names.collection(generation.id))
        texts, heads[generation.id] = against_truth(collection, generation.spec, documents)
        if texts:
            found["store is not the truth"] = [f"{generation.id}: {text}" for text in texts[:_EXAMPLES]]
    if not found:
        # The dearer look last: it reads the log.
        for generation in state.followed:
            texts = against_log(cluster, generation.spec)
            if texts:
                found["store is not the log"] = [f"{generation.id}: {text}" for text in texts]
        texts = dead_letters(cluster, truth, documents, heads)
        if texts:
            found["dead letter"] = texts[:_EXAMPLES]
        left = set(parts.store.names(parts.names.root)) - {parts.names.collection(one.id) for one in state.followed}
        if left:
            found["left over"] = [f"collection {name}" for name in sorted(left)]
        topics = set(parts.broker.topics(parts.names.root)) - {parts.names.chunks(one.id) for one in state.followed}
        topics -= {spec.name for spec in pipeline_topics(parts.names, parts.config.pipeline)}
        if topics:
            found.setdefault("left over", []).extend(f"topic {name}" for name in sorted(topics))
    return found


def _lags(cluster: Cluster, spec: GenerationSpec) -> list[str]:
    """Where, for whoever has to find out why."""
    parts, found = cluster.parts, []
    topics = parts.names.documents(parts.config.pipeline.epoch), parts.names.chunks(spec.id)
    for stage, topic in zip(STAGES, topics, strict=True):
        committed = parts.broker.committed(parts.names.group(stage, spec.id), topic)
        open_ends = parts.broker.offsets(topic, uncommitted=True)
        for partition, bounds in parts.broker.offsets(topic).items():
            if committed.get(partition, bounds.start) < bounds.end:
                at = f"committed {committed.get(partition)} of {bounds.end}, {open_ends[partition].end} with open"
                found.append(f"{topic} {partition}: {at}")
    return found


def against_log(cluster: Cluster, spec: GenerationSpec) -> list[str]:
    """The product's own verification of a collection against the log, and that every cell is explained."""
    parts = cluster.parts
    topic, epoch = parts.names.documents(parts.config.pipeline.epoch), parts.config.pipeline.epoch
    ends = {partition: bounds.end for partition, bounds in parts.broker.offsets(topic).items()}
    cut, collection = chunker(spec, _TOKENIZER), parts.store.open(parts.names.collection(spec.id))

    def cut_or_fail(text: str, media_type: str) -> Sequence[ChunkSpan]:
        if POISON["chunk"] in text:
            raise RuntimeError("planted by the soak")
        return cut(text, media_type)

    with verify(parts.broker, topic, epoch, collection, ends, cut_or_fail) as found:
        wrong = [f"{kind}: {one.count}, {one.examples}" for kind, one in found.named.items() if one.count]
        return wrong + ([f"{found.unexplained} cells that nothing explains"] if found.unexplained else [])


def against_truth(
    collection: Collection, spec: GenerationSpec, documents: Mapping[str, Document]
) -> tuple[list[str], dict[str, Head]]:
    """Where a collection is not what the writer has written, and its heads by path."""
    cut = chunker(spec, tokenizer := _TOKENIZER)
    embedder = HashingEmbedder(spec.model, tokenizer)
    heads, chunks = _scanned(collection)
    wrong: list[str] = []
    by_path: dict[str, Head] = {}
    for path, document in documents.items():
        key = key_of(path)
        head, stored = heads.pop(key.doc, None), chunks.pop(key.doc, {})
        if head is None:
            wrong.append(f"{path}: no head, {len(stored)} chunks")
            continue
        by_path[path] = head
        state = {"": "complete", "chunk": "failed", "embed": "incomplete"}[document.poison]
        if head.state != state:
            wrong.append(f"{path}: head is {head.state}, not {state} ({head.reason})")
            continue
        if document.poison == "chunk":
            if stored:
                wrong.append(f"{path}: {len(stored)} chunks of a document that was never cut")
            continue
        fields = {
            "source": SOURCE, "media_type": "text/markdown", "group": document.group, "level": document.level
        }  # fmt: skip
        texts: dict[str, str] = {}
        spans = cut(document.text, "text/markdown")
        for span, occurrence in zip(spans, occurrences([span.content_hash for span in spans]), strict=True):
            text = span.context + document.text[span.start : span.end]
            if POISON["embed"] not in text:
                texts[chunk_id(key, span.content_hash, occurrence)] = text
        wrong += _document(path, document, head, stored, texts, fields, embedder)
    for doc, head in heads.items():
        left = len(chunks.pop(doc, {}))
        if head.state != "deleted":
            wrong.append(f"{head.key.path}: is gone, but its head is {head.state}")
        elif left:
            wrong.append(f"{head.key.path}: is gone, but {left} chunks are there")
    wrong += [f"{doc}: {len(left)} chunks without a head" for doc, left in chunks.items()]
    return wrong, by_path


def _document(
    path: str,
    document: Document,
    head: Head,
    stored: Mapping[str, StoredChunk],
    texts: Mapping[str, str],
    fields: Mapping[str, Any],
    embedder: HashingEmbedder,
) -> list[str]:
    wrong = []
    differing = {name: head.metadata.get(name) for name, value in document.metadata.items()
                 if head.metadata.get(name) != value}  # fmt: skip
    if differing:
        wrong.append(f"{path}: metadata {differing}, not {document.metadata}")
    if dict(head.filters) != fields:
        wrong.append(f"{path}: filters {dict(head.filters)}, not {fields}")
    if [chunk.id for chunk in head.chunks] != list(texts):
        wrong.append(f"{path}: the head lists {len(head.chunks)} chunks, and not these {len(texts)} in this order")
    if stored.keys() != texts.keys():
        wrong.append(f"{path}: {len(stored.keys() - texts.keys())} orphans, {len(texts.keys() - stored.keys())} lost")
        return wrong
    if not texts:
        return wrong
    vectors = dict(zip(texts, embedder.embed_documents(list(texts.values())), strict=True))
    for id, chunk in stored.items():
        if chunk.text != texts[id]:
            wrong.append(f"{path}: chunk {id} is of another text")
        if dict(chunk.filters) != fields or chunk.filter_hash != head.filter_hash:
            wrong.append(f"{path}: chunk {id} has filters {dict(chunk.filters)}, not {fields}")
        # Not the other way round: what is not a number is not below anything.
        if chunk.vector is None or not float(np.dot(chunk.vector, vectors[id])) >= _COSINE:
            wrong.append(f"{path}: chunk {id} has another vector than its text")
    return wrong


def dead_letters(
    cluster: Cluster, truth: Truth, documents: Mapping[str, Document], heads: Mapping[str, Mapping[str, Head]]
) -> list[str]:
    """Letters that nobody planted, and planted poison without exactly one letter in each generation."""
    wrong = []
    counts: Counter[tuple[str, str, int]] = Counter()
    for id, letter in standing(cluster.parts.broker, cluster.parts.names).items():
        path = DocumentKey.from_bytes(letter.record_key or b"").path
        with truth.lock:
            planted = truth.planted.get(path, "")
        if letter.stage != planted:
            wrong.append(f"{id}: {letter.reason} of {path} was not planted: {letter.detail}")
        counts[letter.generation, path, letter.version] += 1
    for (generation, path, version), count in counts.items():
        if count > 1:
            wrong.append(f"{count} letters of {path} at version {version} in {generation}")
    for generation, by_path in heads.items():
        for path, document in documents.items():
            if document.poison and not counts[generation, path, by_path[path].version]:
                wrong.append(f"{path}: no letter at its version in {generation}")
    return wrong


def _scanned(collection: Collection) -> tuple[dict[str, Head], dict[str, dict[str, StoredChunk]]]:
    heads: dict[str, Head] = {}
    chunks: dict[str, dict[str, StoredChunk]] = {}
    after = None
    while True:
        page, after = collection.scan_heads(after)
        heads.update((head.doc, head) for head in page)
        if after is None:
            break
    while True:
        found, after = collection.scan_chunks(after, vectors=True)
        for chunk in found:
            chunks.setdefault(chunk.doc, {})[chunk.id] = chunk
        if after is None:
            return heads, chunks


def _hashing() -> Any:
    from pipeline.config import ModelConfig

    return tokenizer_of(ModelConfig(provider="hashing", name="hashing"))


_TOKENIZER = _hashing()
