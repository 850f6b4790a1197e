"""``vectide connect``: the connectors of one kind, as a long-lived process."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from pipeline.cli.options import as_json, configuration, configured
from pipeline.errors import ConfigError

#: Reports of connectors belong to no generation: they write the log that all generations read.
_NO_GENERATION: Final = ""


@click.command()
@click.argument("connector")
@click.option("--source", "wanted", multiple=True, help="Only these sources; repeatable.  [default: all of CONNECTOR]")
@click.option("--dry-run", is_flag=True, help="Show what would be published, and publish nothing.")
@as_json
@configured
def connect(
    connector: str,
    wanted: tuple[str, ...],
    dry_run: bool,
    json_: bool,
    config_file: Path | None,
    state: Path | None,
) -> None:
    """Publish the changes of every configured source of CONNECTOR (for example filesystem).

    With --dry-run, say instead what would be published, in the first run or since the last one, and end.
    """
    from pipeline.cli.rehearsing import chosen_sources, rehearsed

    if dry_run:
        rehearsed(connector, wanted, configuration(config_file, state), json_=json_)
        return
    if json_:
        raise ConfigError("--json is of --dry-run", "leave it out")
    from connectors.registry import open_source
    from pipeline.cli.assembly import Followed, connector_state, log_identity
    from pipeline.cli.longlived import long_lived
    from pipeline.cli.process import Pulse, attend, generations_shown, reporter
    from pipeline.cli.runners import runner_of

    with long_lived("connect", config_file, state, stores=False) as process:
        parts = process.parts
        chosen = chosen_sources(parts.config, connector, wanted)
        process.patience.until_done("broker", lambda: log_identity(parts))
        limit = parts.config.pipeline.document_limit_bytes
        sources = [open_source(id, parts.config.sources[id], limit, connector_state(parts.config)) for id in chosen]
        control = Followed(parts)
        report = reporter(parts.broker, parts.names, "connect", _NO_GENERATION, parts.health, parts.metrics, chosen)
        report.now()  # first: a command takes over a source that nobody says to run
        for source in sources:
            runner = runner_of(parts, source, parts.config.sources[source.id], control)
            process.crew.start(f"connector {source.id}", runner.run)
        process.crew.start("pulse", Pulse([report.tick, generations_shown(parts.metrics, control)]).run)
        parts.health.set_started()
        try:
            attend(process.crew, parts, f"vectide connect {connector}: ready on {process.url}, {', '.join(chosen)}")
        finally:
            for source in sources:
                source.close()
            report.end()
            control.close()
