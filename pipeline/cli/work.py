"""``vectide work``: a chunk or an embed worker, one of many that share the partitions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from pipeline.cli.assembly import Parts, chunk_worker, collection_of, embed_worker, founded, loaded
from pipeline.cli.longlived import long_lived
from pipeline.cli.options import configured
from pipeline.cli.process import Pulse, attend, reporter
from pipeline.records import Stage
from pipeline.specs import GenerationSpec
from pipeline.stages.lag import LagSampler
from pipeline.stages.worker import Worker

Make = Callable[[Parts, GenerationSpec], Worker]


@click.group()
def work() -> None:
    """Run a worker of a stage until SIGTERM; start as many as there are partitions."""


@work.command()
@configured
def chunk(config_file: Path | None, state: Path | None) -> None:
    """Cut documents into chunks. Needs the model's tokenizer, no torch."""
    _work("chunk", config_file, state, _chunker)


@work.command()
@configured
def embed(config_file: Path | None, state: Path | None) -> None:
    """Embed chunks and write them to the store."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _work("embed", config_file, state, _embedder)


def _work(stage: Stage, config_file: Path | None, state: Path | None, make: Make) -> None:
    with long_lived(f"work-{stage}", config_file, state) as process:
        parts = process.parts
        spec = process.patience.until_done("broker", lambda: founded(parts))
        worker = process.patience.until_done("store", lambda: make(parts, spec))
        report = reporter(parts.broker, parts.names, stage, spec.id, parts.health, parts.metrics)
        lag = LagSampler(
            parts.broker,
            parts.names.group(stage, spec.id),
            _topic(parts, stage, spec),
            worker,
            parts.health,
            parts.metrics,
        )
        process.crew.start(f"{stage}-worker", worker.run)
        process.crew.start("pulse", Pulse([report.tick, lag.tick]).run)
        parts.metrics.generation_info.labels(spec.id, spec.model.name).set(1)
        parts.health.set_started()
        try:
            attend(process.crew, parts, f"vectide work {stage}: ready on {process.url}, generation {spec.id}")
        finally:
            report.end()


def _chunker(parts: Parts, spec: GenerationSpec) -> Worker:
    return chunk_worker(parts, spec, parts.broker.publisher("chunk"))


def _embedder(parts: Parts, spec: GenerationSpec) -> Worker:
    # Before the model, which takes seconds to load: what is wrong with the store, or only not there yet.
    collection = collection_of(parts, spec)
    return embed_worker(parts, spec, collection, loaded(parts, spec.model), parts.broker.publisher("embed"))


def _topic(parts: Parts, stage: Stage, spec: GenerationSpec) -> str:
    return parts.names.documents(parts.config.pipeline.epoch) if stage == "chunk" else parts.names.chunks(spec.id)
