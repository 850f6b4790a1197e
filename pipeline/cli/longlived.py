"""What every long-lived command begins with: signals, logs, probes, and a broker that may be down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.cli.access import token_of
from pipeline.cli.assembly import Parts, metrics_of, open_parts
from pipeline.cli.crew import Crew
from pipeline.cli.options import configuration, configure_logs
from pipeline.cli.process import http_server, stopping
from pipeline.cli.stopping import asked, until_stopped
from pipeline.errors import Backpressure, ConfigError, Transient
from pipeline.observe.health import Health
from pipeline.observe.http import HttpServer, refuse_open
from pipeline.patience import Patience
from pipeline.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Process:
    """A long-lived command's process: broker and store are open, the probes answer."""

    parts: Parts
    crew: Crew
    server: HttpServer
    patience: Patience
    """For what must succeed before the work begins; gives up when the process is told to stop."""

    @property
    def url(self) -> str:
        """Where its probes, metrics and routes are."""
        return f"http://{self.parts.config.http.host}:{self.server.port}"


@contextmanager
def long_lived(
    client: str, config_file: Path | None, state: Path | None, *, answers: bool = False, stores: bool = True
) -> Iterator[Process]:
    """Begin and end a long-lived process; an outage at its start is waited out, not-ready.

    Args:
        client: names it in the broker's logs.
        config_file: see :func:`pipeline.cli.options.configuration`.
        state: the same.
        answers: routes will be mounted that not everybody may ask.
        stores: it works with the store; one that does not needs no key for it, nor a way to it.

    Raises:
        ConfigError: the pipeline is an embedded one, which admits one process; or other machines
            could ask the routes without a token.
    """
    config = configuration(config_file, state)
    if config.broker == "embedded":
        raise ConfigError(
            'with broker = "embedded" everything runs in one process',
            'use `vectide up`, or set broker = "kafka" and store = "qdrant"',
        )
    configure_logs(config)
    if answers:
        refuse_open(config.http.host, token_of(config))
    health, metrics = Health(), metrics_of(config)
    with until_stopped() as stop, ExitStack() as ending:
        retry = config.retry
        patience = Patience(RetryPolicy(retry.initial_seconds, retry.maximum_seconds), health, metrics)
        stopping(stop, health, patience.give_up)
        server = http_server(config, health, metrics)
        ending.callback(server.close)
        server.start()
        try:
            parts = patience.until_done("broker", lambda: open_parts(config, client, health, metrics))
            ending.callback(parts.close)
            if stores:
                patience.until_done("store", parts.store.check)
            yield Process(parts, Crew(stop), server, patience)
        except (Transient, Backpressure):
            if not asked():
                raise
            # Told to stop while it still waited for Kafka, the store or its model: nothing was begun.
            raise click.exceptions.Exit(0) from None
