"""``vectide up``: an index of folders and other sources, kept live in one process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.access import Endpoint, token_of
from pipeline.cli.options import configuration, configure_logs, configured
from pipeline.cli.stopping import asked, until_stopped
from pipeline.errors import Backpressure, ConfigError, Transient
from pipeline.observe.logs import printable

if TYPE_CHECKING:
    from pipeline.cli.index import Index
    from pipeline.config import Config


@click.command()
@click.argument("given", metavar="SOURCE...", nargs=-1)
@configured
def up(given: tuple[str, ...], config_file: Path | None, state: Path | None) -> None:
    """Keep an index of each SOURCE live until Ctrl-C; without any, of those in the configuration.

    A SOURCE is a folder, or the URI of whatever has a connector: git+https://host/team/handbook.git

    Everything stays in one state folder (--state). Ask with `vectide search` from another terminal.
    """
    config = configuration(config_file, state)
    if config.broker != "embedded" or config.store != "embedded":
        raise ConfigError(
            "`up` keeps everything in one process",
            "leave out broker and store, or run `vectide connect`, `vectide work` and `vectide serve` instead",
        )
    # Not for `--help`, nor for what is refused above.
    from pipeline.cli.assembly import opened
    from pipeline.cli.given import given_sources, no_longer_given, remember
    from pipeline.cli.index import Index
    from pipeline.cli.process import http_server, stopping
    from pipeline.cli.progress import FirstSync
    from pipeline.generations.requests import suppressed
    from pipeline.observe.http import refuse_open

    configure_logs(config)
    refuse_open(config.http.host, token_of(config))
    sources = given_sources(given) if given else dict(config.sources)
    if not sources:
        raise ConfigError("no source to keep in step", "give one or more: `vectide up FOLDER`")
    # A tokenizer's threads and torch's own would fight over the same cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with until_stopped() as stop, opened(config, "up") as parts:
        server = http_server(config, parts.health, parts.metrics)
        server.start()
        stopping(stop, parts.health)
        endpoint = Endpoint(config.state)
        try:
            index = Index(parts, sources, stop)
            # What was forgotten is gone: nobody needs to be told again.
            for line in no_longer_given(config.state, {*sources, *suppressed(index.control()).sources}):
                click.echo(printable(f"vectide up: {line}"), err=True)
            if given:
                remember(config.state, sources)
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


def _described(index: Index, config: Config) -> str:
    return f"state {config.state}, model {index.spec.model.name}, generation {index.spec.id}"
