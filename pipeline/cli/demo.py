"""``vectide demo``: the main job on real documents, in a minute, with every figure measured."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from pipeline.cli.stopping import until_stopped
from pipeline.observe import logs


@click.command()
def demo() -> None:
    """Sync real documents, search them, edit them live, restart, migrate to another model: with times.

    The documents are the descriptions of the Python packages installed here and vectide's own docs,
    in a temporary folder that is removed at the end.
    """
    from rich.console import Console

    from pipeline.cli.showing import Demo

    logs.configure("error", "text")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with until_stopped() as stop, tempfile.TemporaryDirectory(prefix="vectide-demo-") as folder:
        Demo(Path(folder), stop, Console(highlight=False)).run()
