"""``vectide config``: the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from connectors.registry import open_source
from pipeline.cli.options import as_json, configuration, configured, print_json
from pipeline.config import effective
from pipeline.naming import Names


@click.group()
def config() -> None:
    """Check the configuration."""


@config.command()
@click.option("--weights", is_flag=True, help="Find the model's files too, and hold them against model.weights_sha256.")
@as_json
@configured
def check(weights: bool, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Show the effective configuration, secrets masked; exit 2 and say where if something is wrong.

    With --weights model.weights_sha256 is what the files have; exit 5 if another is configured.
    """
    found = configuration(config_file, state)
    Names(found.pipeline.prefix, found.pipeline.name)
    for id, source in found.sources.items():
        open_source(id, source, found.pipeline.document_limit_bytes).close()
    tree = effective(found)
    if weights:
        from pipeline.embedding.models import model_spec, tokenizer_of

        tree["model"]["weights_sha256"] = model_spec(found.model, tokenizer_of(found.model)).weights_sha256
    if json_:
        print_json(tree)
        return
    for line in _lines(tree, ""):
        click.echo(line)


def _lines(tree: Mapping[str, Any], prefix: str) -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            lines += _lines(value, f"{prefix}{name}.")
        elif value is not None:
            lines.append(f"{prefix}{name} = {value!r}")
    return lines
