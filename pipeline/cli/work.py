"""``vectide work``: a chunk or an embed worker, one of many that share the partitions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import configured
from pipeline.errors import Refused

if TYPE_CHECKING:
    from pipeline.records import Stage

_generation = click.option(
    "--generation", metavar="ID", help="Only this generation: a migration with workers of its own.  [default: all]"
)


@click.group()
def work() -> None:
    """Run a worker of a stage until SIGTERM; start as many as there are partitions."""


@work.command()
@_generation
@configured
def chunk(generation: str | None, config_file: Path | None, state: Path | None) -> None:
    """Cut documents into chunks. Needs the model's tokenizer, no torch."""
    _work("chunk", generation, config_file, state)


@work.command()
@_generation
@configured
def embed(generation: str | None, config_file: Path | None, state: Path | None) -> None:
    """Embed chunks and write them to the store."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _work("embed", generation, config_file, state)


def _work(stage: Stage, only: str | None, config_file: Path | None, state: Path | None) -> None:
    from pipeline.cli.assembly import Followed, Models, founded, proposed
    from pipeline.cli.lines import Lines
    from pipeline.cli.longlived import long_lived
    from pipeline.cli.patrolling import patrol_of
    from pipeline.cli.process import Pulse, attend, reporter

    with long_lived(f"work-{stage}", config_file, state, stores=stage == "embed") as process:
        parts = process.parts
        known = process.patience.until_done("broker", lambda: founded(parts))
        if only is not None and only not in {one.id for one in known.followed}:
            raise Refused(f"there is no generation {only} to follow", "`vectide migrate status` shows which there are")
        control, models = Followed(parts), Models(parts.config, stop=process.crew.stop)
        lines = Lines(
            parts,
            control,
            models,
            (stage,),
            only,
            on_state=lambda now: models.keep(one.spec for one in now.followed),
            proposed=proposed(parts.config),
        )
        process.patience.until_done("store", lambda: lines.start_live(known))
        report = reporter(parts.broker, parts.names, stage, only or "", parts.health, parts.metrics)
        process.crew.start("lines", lines.run)
        if stage == "embed":
            process.crew.start("patrol", patrol_of(parts, control, models, lines).run)
        process.crew.start("pulse", Pulse([report.tick]).run)
        parts.health.set_started()
        followed = only or ", ".join(one.id for one in known.followed)
        try:
            attend(process.crew, parts, f"vectide work {stage}: ready on {process.url}, generation {followed}")
        finally:
            report.end()
            control.close()
