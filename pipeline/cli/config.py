"""``vectide config``: the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import as_json, configuration, configured, print_json
from pipeline.observe.logs import printable


@click.group()
def config() -> None:
    """Check the configuration."""


@config.command()
@as_json
@configured
def check(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Show the effective configuration, secrets masked; exit 2 and name every mistake if something is wrong.

    What may be right elsewhere and is not here, as a folder that is not there, is told on standard error only.
    """
    from pipeline.cli.checking import checked, remarks
    from pipeline.config import effective

    found = configuration(config_file, state)
    checked(found)
    for remark in remarks(found):
        click.echo(printable(f"vectide: {remark}"), err=True)
    tree = effective(found)
    if json_:
        print_json(tree)
        return
    for line in _lines(tree, ""):
        click.echo(line)


@config.command()
@as_json
@configured
def weights(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Find the model's files on this machine and show their hash, without loading them.

    Exits with 2 if they are not there, and with 5 if they are not those that model.weights_sha256 pins.
    """
    from pipeline.embedding.models import model_spec, tokenizer_of

    model = configuration(config_file, state).model
    spec = model_spec(model, tokenizer_of(model))
    found = {
        "model": spec.name,
        "weights_sha256": spec.weights_sha256,
        "pinned": model.weights_sha256 is not None,
        "fingerprint": spec.fingerprint,
    }
    if json_:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(printable(f"{name} = {value!r}"))


def _lines(tree: Mapping[str, Any], prefix: str) -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            lines += _lines(value, f"{prefix}{name}.")
        elif value is not None:
            lines.append(f"{prefix}{name} = {value!r}")
    return lines
