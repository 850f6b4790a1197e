"""``vectide serve``: searches over HTTP, in whatever generation is live."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.cli.assembly import LiveGeneration, search_service
from pipeline.cli.longlived import long_lived
from pipeline.cli.operations import Operations
from pipeline.cli.options import configured
from pipeline.cli.process import Pulse, attend, reporter


@click.command()
@configured
def serve(config_file: Path | None, state: Path | None) -> None:
    """Answer POST /search and GET /status; on another host than loopback http.token is needed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with long_lived("serve", config_file, state) as process:
        parts = process.parts
        live = LiveGeneration(parts)
        search = search_service(parts, live)
        process.patience.until_done("broker", search.warm)
        for (method, path), route in Operations(parts, search, live).routes().items():
            process.server.mount(method, path, route)
        report = reporter(parts.broker, parts.names, "serve", "", parts.health, parts.metrics)
        process.crew.start("pulse", Pulse([report.tick]).run)
        parts.health.set_started()
        try:
            attend(process.crew, parts, f"vectide serve: ready on {process.url}")
        finally:
            report.end()
            live.close()
