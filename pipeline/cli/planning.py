"""What a migration would be, without doing it: measured on a sample where the corpus is large."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from pipeline.broker.reading import to_the_end
from pipeline.chunking.documents import chunked
from pipeline.cli.assembly import Models, Parts
from pipeline.codec import decode_event
from pipeline.config import Config
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker
from pipeline.embedding.models import located, tokenizer_of
from pipeline.errors import NewerSchema, Poison, Transient
from pipeline.identity import version_of
from pipeline.ports import Collection
from pipeline.records import ChunkedDocument, DocumentChanged
from pipeline.specs import GenerationSpec, differences
from pipeline.stages.reports import ALIVE_SECONDS, read_reports
from pipeline.sync import ToEmbed

#: Documents that are cut for real; of more, so many are read from the log's start.
_SAMPLE: Final = 2_000
_PAGE: Final = 500
_STALL_SECONDS: Final = 30.0
#: Enough for a speed within some percent; the model is warm by then.
_SPEED_SECONDS: Final = 5.0
_SPEED_TEXTS: Final = 2_000
#: A point's ids, stamps and filter fields beside its text and vector, as measured in the embedded store.
_POINT_BYTES: Final = 400
_FLOAT_BYTES: Final = 4


def plan(
    parts: Parts,
    config: Config,
    live: GenerationSpec,
    spec: GenerationSpec,
    models: Models,
    price: float | None,
    stopped: Callable[[], bool],
    at: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Documents, chunks, tokens, reuse, speed, time, room and cost of a migration to ``spec``.

    Args:
        parts: broker and store, open.
        config: says where the new model is.
        live: the generation that would be left.
        spec: the generation that would be built.
        models: loaded models.
        price: of a million tokens, in any currency; None: no cost.
        stopped: asked between pages.
        at: told how far it is.

    Raises:
        Transient: stopped, or no answer.
    """
    served = parts.store.open(parts.names.collection(live.id))
    documents = sum(count for state, count in served.count_heads().items() if state != "deleted")
    sample = _cut(parts, config, spec, min(documents, _SAMPLE), stopped, at)
    chunks, tokens, to_embed, embed_tokens, texts, characters = _needed(sample, served, spec, live)
    share = documents / len(sample) if sample else 0.0
    at("measuring the model", 0, 0)
    speed = _speed(config, spec, models, texts) if texts else None
    workers = sum(
        report.role in ("embed", "up") and not report.ended and time.time() - report.reported < ALIVE_SECONDS
        for report in read_reports(parts.broker, parts.names)
    )
    whole_tokens = round(embed_tokens * share)
    vector_bytes = round(chunks * share) * spec.model.dimension * _FLOAT_BYTES
    payload_bytes = round(characters * share) + round(chunks * share) * _POINT_BYTES
    return {
        "from": live.id,
        "to": spec.id,
        "same": live.fingerprint == spec.fingerprint,
        "differs": differences(live, spec),
        "documents": documents,
        "sampled_documents": len(sample),
        "chunks": round(chunks * share),
        "tokens": round(tokens * share),
        "chunks_to_embed": round(to_embed * share),
        "chunks_to_reuse": round((chunks - to_embed) * share),
        "tokens_to_embed": whole_tokens,
        "tokens_per_second_here": None if speed is None else round(speed, 1),
        "embed_workers": workers,
        "seconds": None if not speed else round(whole_tokens / speed / max(1, workers), 1),
        "disk_bytes": vector_bytes + payload_bytes,
        "memory_bytes": vector_bytes,
        "cost": None if price is None else round(float(price) * whole_tokens / 1e6, 4),
    }


def _cut(
    parts: Parts,
    config: Config,
    spec: GenerationSpec,
    most: int,
    stopped: Callable[[], bool],
    at: Callable[[str, int, int], None],
) -> Sequence[list[_Span]]:
    """Documents of the log as the new generation would cut them; an edited one counts once."""
    cut = chunker(spec, tokenizer_of(located(spec, config)))
    topic = parts.names.documents(config.pipeline.epoch)
    found: dict[str, list[_Span]] = {}
    kept = 0
    with closing(to_the_end(parts.broker.reader(topic), topic, _PAGE, _STALL_SECONDS)) as pages:
        for records in pages:
            for record in records:
                if stopped():
                    raise Transient("the plan was stopped")
                try:
                    event = decode_event(record)
                    if event is None:
                        continue
                    if not isinstance(event, DocumentChanged) or event.text is None:
                        found.pop(event.key.doc, None)
                    elif event.key.doc in found or len(found) < most:
                        version = version_of(config.pipeline.epoch, record.offset)
                        spans = _spans(chunked(event, version, spec.id, cut), _SPEED_TEXTS - kept)
                        kept += sum(span.text is not None for span in spans)
                        found[event.key.doc] = spans
                except (Poison, NewerSchema):
                    continue  # becomes a dead letter, or waits for an upgrade: nothing to embed now
            at("cutting documents", len(found), most)
            if len(found) >= most and most == _SAMPLE:
                break
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Span:
    """What is counted of a chunk; the text only of those that the model is measured with."""

    content_hash: str
    tokens: int
    characters: int
    text: str | None


def _spans(document: ChunkedDocument, texts: int) -> list[_Span]:
    made: list[_Span] = []
    for span in document.chunks:
        text = span.context + document.text[span.start : span.end]
        made.append(_Span(span.content_hash, span.tokens, len(text), text if len(made) < texts else None))
    return made


def _needed(
    sample: Sequence[list[_Span]], served: Collection, spec: GenerationSpec, live: GenerationSpec
) -> tuple[int, int, int, int, list[ToEmbed], int]:
    chunks = tokens = to_embed = embed_tokens = characters = 0
    texts: list[ToEmbed] = []
    seen: set[str] = set()
    for spans in sample:
        hashes = [span.content_hash for span in spans]
        there = set(served.vectors(hashes)) if spec.model.fingerprint == live.model.fingerprint and hashes else set()
        for span in spans:
            chunks, tokens, characters = chunks + 1, tokens + span.tokens, characters + span.characters
            if span.content_hash in there or span.content_hash in seen:
                continue
            seen.add(span.content_hash)
            to_embed, embed_tokens = to_embed + 1, embed_tokens + span.tokens
            if span.text is not None:
                texts.append(ToEmbed(span.content_hash, span.text, span.tokens))
    return chunks, tokens, to_embed, embed_tokens, texts, characters


def _speed(config: Config, spec: GenerationSpec, models: Models, texts: list[ToEmbed]) -> float:
    """Tokens a second of the new model on this machine, beside whatever else it does."""
    model = models.of(spec)
    embed = config.embed
    embed_all(model, texts[:8], embed.batch_tokens, embed.batch_items)  # warm
    done, started = 0, time.monotonic()
    for start in range(0, len(texts), embed.batch_items):
        part = texts[start : start + embed.batch_items]
        embed_all(model, part, embed.batch_tokens, embed.batch_items)
        done += sum(one.tokens for one in part)
        if time.monotonic() - started > _SPEED_SECONDS:
            break
    return done / max(1e-9, time.monotonic() - started)
