"""Is the heading path better embedded with a chunk, or only stored? And how long should chunks be?

    VECTIDE_BENCH_DATA=FOLDER python -m tests.bench.headings --json headings.json

Labelled sets (FOLDER/NAME/{corpus,queries}.jsonl, qrels.tsv), each title as a heading above its
text, cut so small that most chunks do not hold the title; and known items: sections of installed
packages' READMEs, asked for by a sentence from their middle, by their heading, and by both names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.chunking.structure import blocks
from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.loading import load
from pipeline.ports import Embedder
from pipeline.records import ChunkSpan
from pipeline.sync import ToEmbed
from tests.bench.corpus import Text, descriptions

MODELS = {"minilm": ModelConfig(), "wordllama": ModelConfig(provider="wordllama", name="wordllama")}
_TOP = 10


@dataclass(frozen=True, slots=True)
class Task:
    """Queries and what answers them: documents, or places in documents."""

    name: str
    texts: list[Text]
    queries: list[str]
    relevant: list[dict[str, float]]
    places: list[tuple[str, int, int]] | None = None
    """For known items: the document and the span that a hit must touch."""


@dataclass(frozen=True, slots=True)
class Result:
    task: str
    model: str
    max_tokens: int
    target_tokens: int
    context: str
    ndcg: float
    recall: float
    mrr: float
    chunks: int
    tokens: int
    seconds: float


def labelled(folder: Path, most: int, rng: random.Random) -> Task:
    """A labelled set; of more than ``most`` documents, those that some query needs and a sample."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = {row["id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        if float(score) > 0:
            relevant.setdefault(query, {})[document] = float(score)
    needed = {document for documents in relevant.values() for document in documents}
    others = [row["id"] for row in rows if row["id"] not in needed]
    kept = needed | set(rng.sample(others, max(0, min(len(others), most - len(needed)))))
    texts = [
        Text(row["id"], f"# {row['title']}\n\n{row['text']}", "text/markdown") for row in rows if row["id"] in kept
    ]
    ids = [query for query in queries if query in relevant]
    return Task(folder.name, texts, [queries[id] for id in ids], [relevant[id] for id in ids])


def known_items(texts: list[Text], kind: str, rng: random.Random) -> Task:
    """Sections of READMEs, found by ``sentence`` (from the section's middle), by its ``heading``, or
    by ``both`` (the document's name and the heading).
    """
    queries, places = [], []
    for text in texts:
        sections = [part for part in _sections(text) if len(part[2].split()) > 40]
        for start, title, body in rng.sample(sections, min(6, len(sections))):
            sentences = [part for part in re.split(r"(?<=[.!?])\s+", body) if 8 <= len(part.split()) <= 40]
            if sentences:
                sentence = sentences[len(sentences) // 2]
                queries.append({"sentence": sentence, "heading": title, "both": f"{text.name} {title}"}[kind])
                at = text.text.index(sentence, start) if kind == "sentence" else start
                end = at + len(sentence) if kind == "sentence" else start + len(body)
                places.append((text.name, at, end))
    return Task(f"readme {kind}", texts, queries, [{name: 1.0} for name, _, _ in places], places)


def _sections(text: Text) -> Iterator[tuple[int, str, str]]:
    heads = [block for block in blocks(text.text, text.media_type) if block.kind == "heading" and block.headings]
    ends = [*(block.start for block in heads[1:]), len(text.text)]
    for head, end in zip(heads, ends if heads else [], strict=True):
        yield head.end, head.headings[-1], text.text[head.end : end]


def measure(task: Task, name: str, embedder: Embedder, chunking: ChunkingConfig) -> Result:
    """One way of cutting, with one model."""
    spec = generation_spec(Config(model=MODELS[name], chunking=chunking))
    cut = chunker(spec, embedder.tokenizer)
    pieces: list[tuple[Text, ChunkSpan]] = [
        (text, span) for text in task.texts for span in cut(text.text, text.media_type)
    ]
    items = {
        span.content_hash: ToEmbed(span.content_hash, span.context + text.text[span.start : span.end], span.tokens)
        for text, span in pieces
    }
    started = time.monotonic()
    vectors, failed = embed_all(embedder, list(items.values()), 4096, 64)
    seconds = time.monotonic() - started
    assert not failed, failed
    matrix = np.stack([vectors[span.content_hash] for _, span in pieces])
    scores = []
    for number, query in enumerate(task.queries):
        order = np.argsort(-(matrix @ embedder.embed_query(query)), kind="stable")[:500]
        if task.places is None:
            ranked = list(dict.fromkeys(pieces[at][0].name for at in order))[:_TOP]
            scores.append(_scores(ranked, task.relevant[number]))
        else:
            document, start, end = task.places[number]
            hits = [
                pieces[at][0].name == document and pieces[at][1].start < end and pieces[at][1].end > start
                for at in order[:_TOP]
            ]
            # The first hit counts: a longer section must not be worth more for having more chunks.
            first = hits.index(True) if True in hits else None
            ranked = ["" if at != first else "item" for at in range(_TOP)]
            scores.append(_scores(ranked, {"item": 1.0}))
    ndcg, recall, mrr = (float(np.mean([score[column] for score in scores])) for column in range(3))
    tokens = sum(item.tokens for item in items.values())
    return Result(
        task.name,
        name,
        spec.chunking.max_tokens,
        spec.chunking.target_tokens,
        spec.chunking.context,
        ndcg,
        recall,
        mrr,
        len(pieces),
        tokens,
        seconds,
    )


def _scores(ranked: Sequence[str], relevant: Mapping[str, float]) -> tuple[float, float, float]:
    gain = sum(relevant.get(name, 0.0) / math.log2(place + 2) for place, name in enumerate(ranked))
    best = sum(
        score / math.log2(place + 2) for place, score in enumerate(sorted(relevant.values(), reverse=True)[:_TOP])
    )
    found = [place for place, name in enumerate(ranked) if name in relevant]
    return gain / best, len(found) / len(relevant), 1 / (found[0] + 1) if found else 0.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("VECTIDE_BENCH_DATA"),
        required="VECTIDE_BENCH_DATA" not in os.environ,
    )
    options.add_argument("--models", default="minilm,wordllama")
    options.add_argument("--sizes", default="64:64,128:128", help="max:target tokens, with commas between")
    options.add_argument("--contexts", default="none,headings")
    options.add_argument("--most", type=int, default=2_000, help="documents of a labelled set")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    rng = random.Random(chosen.seed)
    readmes = descriptions()
    tasks = [known_items(readmes, kind, random.Random(chosen.seed)) for kind in ("sentence", "heading", "both")]
    if chosen.data:
        tasks += [labelled(folder, chosen.most, rng) for folder in sorted(chosen.data.iterdir()) if folder.is_dir()]
    results = []
    print(f"seed {chosen.seed}")
    print("task               model      max target context   nDCG@10 Recall@10    MRR  chunks   tokens seconds")
    for name in chosen.models.split(","):
        embedder = load(MODELS[name])
        for task in tasks:
            for size in chosen.sizes.split(","):
                most, target = map(int, size.split(":"))
                for context in chosen.contexts.split(","):
                    chunking = ChunkingConfig(max_tokens=most, target_tokens=target, context=context)
                    result = measure(task, name, embedder, chunking)
                    results.append(result)
                    print(
                        f"{task.name:<18} {name:<10} {most:>3} {target:>6} {context:<9}{result.ndcg:>8.3f}"
                        f"{result.recall:>10.3f}{result.mrr:>7.3f}{result.chunks:>8}{result.tokens:>9}{result.seconds:>8.1f}",
                        flush=True,
                    )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
