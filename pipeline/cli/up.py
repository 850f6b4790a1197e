"""``vectide up``: an index of folders, kept live in one process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pipeline.cli.access import Endpoint
from pipeline.cli.assembly import opened
from pipeline.cli.index import Index
from pipeline.cli.options import configuration, configure_logs, configured
from pipeline.cli.process import http_server, stopping, token_of
from pipeline.cli.progress import FirstSync
from pipeline.cli.stopping import asked, until_stopped
from pipeline.config import Config, SourceConfig
from pipeline.errors import Backpressure, ConfigError, Transient
from pipeline.observe.http import refuse_open


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@configured
def up(folders: tuple[Path, ...], config_file: Path | None, state: Path | None) -> None:
    """Keep an index of FOLDERS live until Ctrl-C; without any, of the sources in the configuration.

    Everything stays in one state folder (--state). Ask with `vectide search` from another terminal.
    """
    config = configuration(config_file, state)
    if config.broker != "embedded" or config.store != "embedded":
        raise ConfigError(
            "`up` keeps everything in one process",
            "leave out broker and store, or run `vectide connect`, `vectide work` and `vectide serve` instead",
        )
    configure_logs(config)
    refuse_open(config.http.host, token_of(config))
    sources = folder_sources(folders) if folders else dict(config.sources)
    if not sources:
        raise ConfigError("no folder to keep in step", "give one or more: `vectide up FOLDER`")
    # A tokenizer's threads and torch's own would fight over the same cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with until_stopped() as stop, opened(config, "up") as parts:
        server = http_server(config, parts.health, parts.metrics)
        server.start()
        stopping(stop, parts.health)
        endpoint = Endpoint(config.state)
        try:
            index = Index(parts, sources, stop)
            for (method, path), route in index.operations.routes().items():
                server.mount(method, path, route)
            server.mount("GET", "/instance", endpoint.route(), public=True)
            endpoint.announce(config.http.host, server.port)
            index.start()
            try:
                click.echo(f"vectide up: ready on http://127.0.0.1:{server.port}, {_described(index, config)}")
                FirstSync(index, sys.stderr).show()
                while not index.crew.wait(0.5):
                    pass
            finally:
                index.drain()
                endpoint.withdraw()
                server.close(config.work.drain_seconds)  # before what its answers are made of
                index.close()
            index.crew.raise_failure()
        except (Transient, Backpressure):
            if not asked():
                raise
            # Told to stop while it began: nothing is lost.
        finally:
            endpoint.withdraw()
            server.close()


def folder_sources(folders: tuple[Path, ...]) -> dict[str, SourceConfig]:
    """A filesystem source for each folder, named after it; equal names get their parents' before them.

    Raises:
        ConfigError: one is not a folder, or lies inside another.
    """
    roots = []
    for folder in folders:
        root = folder.expanduser().resolve()
        if not root.is_dir():
            raise ConfigError(f"{folder} is not a folder", "give an existing folder")
        roots.append(root)
    for one in roots:
        for other in roots:
            if one is not other and one.is_relative_to(other):
                raise ConfigError(f"{one} lies inside {other}, or is given twice", "give the outer folder only")
    depth = 1
    while len({_name(root, depth) for root in roots}) < len(roots):
        depth += 1
    return {
        _name(root, depth): SourceConfig.model_validate({"connector": "filesystem", "path": str(root)})
        for root in roots
    }


def _name(root: Path, depth: int) -> str:
    parts = [part for part in root.parts if part != root.anchor][-depth:]
    return "-".join(parts) or "root"


def _described(index: Index, config: Config) -> str:
    return f"state {config.state}, model {index.spec.model.name}, generation {index.spec.id}"
