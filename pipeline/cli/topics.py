"""``vectide topics``: the topics in Kafka."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.assembly import apply_topics, opened
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json


@click.group()
def topics() -> None:
    """Create and check the topics of a pipeline."""


@topics.command()
@as_json
@configured
def apply(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Create what is missing; refuse topics with settings that would lose data. Safe to run again."""
    config = configuration(config_file, state)
    configure_logs(config)
    with opened(config, "topics") as parts:
        created = apply_topics(parts)
        present = sorted(parts.broker.topics(parts.names.root))
    if json_:
        print_json({"created": created, "topics": present})
        return
    for name in created:
        click.echo(f"created {name}")
    click.echo(f"{len(present)} topics are as they should be")
