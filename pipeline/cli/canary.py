"""``vectide canary``: one document all the way round, published, found, deleted and gone, with the time of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.broker.rights import CANARY
from pipeline.cli.access import Ask, posted, reached, token_of
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.cli.stopping import until_stopped
from pipeline.deadline import Deadline
from pipeline.errors import UNAVAILABLE, ConfigError
from pipeline.observe.logs import printable

if TYPE_CHECKING:
    from pipeline.config import Config

_WAIT_SECONDS: Final = 60.0
#: Half of the time after which another canary deletes what this one left.
_MOST_SECONDS: Final = 1800.0
_ASK_SECONDS: Final = 10.0
_INTERRUPTED: Final = 130


@click.command()
@click.option("--url", help="Ask the search service there (http://host:port).  [default: search as `vectide search`]")
@click.option("--source", default=CANARY, show_default=True, help="The canary's own source; no configured one.")
@click.option("--wait", default=_WAIT_SECONDS, metavar="SECONDS", help="For all of it.  [default: 60]")
@as_json
@configured
def canary(
    url: str | None, source: str, wait: float, json_: bool, config_file: Path | None, state: Path | None
) -> None:
    """Publish a document, wait until a search finds it, delete it, wait until it is gone.

    Exits with 0 and both latencies, or with 7 if one did not come in time. The document is deleted
    whatever happens; one of a canary that was killed, by another canary an hour later.
    """
    from pipeline.cli.assembly import log_identity, opened
    from pipeline.cli.roundtrip import Canary

    config = configuration(config_file, state)
    configure_logs(config)
    _check(config, source, wait)
    deadline = Deadline.after(wait)
    with until_stopped() as stop, opened(config, "canary") as parts, _asked(config, url, deadline) as ask:
        log_identity(parts)
        made = Canary(parts, ask, source, deadline, stop)
        found = made.run()
    _tell(found, wait, json_=json_)
    if found["stopped"]:
        raise click.exceptions.Exit(_INTERRUPTED)
    if not found["ok"]:
        raise click.exceptions.Exit(UNAVAILABLE)


def _check(config: Config, source: str, wait: float) -> None:
    if config.broker == "embedded":
        raise ConfigError(
            "with an embedded log nobody but `vectide up` can publish",
            'a canary needs broker = "kafka"; save a file in a watched folder, and search for it',
        )
    if source in config.sources:
        raise ConfigError(
            f"{source!r} is a configured source: its connector would be fenced, and delete the canary",
            "leave --source out, or give it a name of its own",
        )
    if not 0 < wait <= _MOST_SECONDS:
        raise ConfigError(f"--wait {wait:g} is not between 0 and {_MOST_SECONDS:g} seconds", "60 is the default")


@contextmanager
def _asked(config: Config, url: str | None, deadline: Deadline) -> Iterator[Ask]:
    if url is None:
        with reached(config) as ask:
            yield ask
        return
    token = token_of(config)

    def ask_there(method: str, path: str, arguments: Any) -> Any:
        seconds = max(1.0, min(_ASK_SECONDS, deadline.remaining()))
        return posted(url.rstrip("/"), method, path, arguments, token, seconds)

    yield ask_there


def _tell(found: dict[str, Any], wait: float, *, json_: bool) -> None:
    if json_:
        print_json(found)
    elif found["ok"]:
        click.echo(f"found after {found['searchable_seconds']:.2f} s, gone after {found['gone_seconds']:.2f} s")
    if not found["ok"]:
        missed = "found" if found["searchable_seconds"] is None else "gone"
        ended = "stopped before it was" if found["stopped"] else f"within {wait:g} s it was not"
        click.echo(printable(f"vectide: canary {found['key']}: {ended} {missed}; {found['why']}"), err=True)
    if not found["cleaned"]:
        click.echo(printable(f"vectide: {found['key']} could not be deleted; a canary does it in an hour"), err=True)
