"""``vectide connect --dry-run``: what would be published, for people and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from connectors.push.source import PushSource
from connectors.registry import open_source
from connectors.rehearsal import KINDS, rehearse
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.opening import open_broker
from pipeline.cli.options import configure_logs, print_json
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.naming import Names
from pipeline.observe.logs import printable
from pipeline.ports import Broker

#: Documents of a kind that are shown; ``--json`` has more.
_SHOWN: Final = 3
_WORDS: Final = {
    "created": "would be created",
    "changed": "would be changed",
    "metadata": "other metadata only",
    "deleted": "would be deleted",
}


def rehearsed(connector: str, wanted: Sequence[str], config: Config, *, json_: bool) -> None:
    """Show what the sources of a connector would publish now.

    Raises:
        ConfigError: no such source.
        StateInUse: an embedded pipeline runs: it has published everything already.
        Transient: a source or the broker does not answer.
    """
    configure_logs(config)
    names = Names(config.pipeline.prefix, config.pipeline.name)
    found = []
    with _broker(config) as broker, _progress() as shown:
        for id in chosen_sources(config, connector, wanted):
            limit = config.pipeline.document_limit_bytes
            # No state: what a connector that runs has there is not to be changed for other settings.
            with closing(open_source(id, config.sources[id], limit)) as source:
                if isinstance(source, PushSource):
                    raise ConfigError(
                        f"sources.{id}: documents are pushed to it: there is nothing to look at", "leave out --dry-run"
                    )
                found.append(rehearse(source, broker, names.connector_state, shown(id)).as_json())
    if json_:
        print_json({"sources": found})
    else:
        for one in found:
            for line in _lines(one):
                click.echo(line)


def chosen_sources(config: Config, connector: str, wanted: Sequence[str]) -> list[str]:
    """The ids of the sources of a connector, or of those of them that are wanted.

    Raises:
        ConfigError: there is none, or one of those is not there.
    """
    of_kind = [id for id, source in config.sources.items() if source.connector == connector]
    for id in wanted:
        if id not in of_kind:
            raise ConfigError(
                f"there is no source {id!r} of connector {connector!r}", f"there are: {', '.join(of_kind)}"
            )
    chosen = list(wanted) or of_kind
    if not chosen:
        raise ConfigError(f"no source has connector = {connector!r}", "add a table [sources.NAME] to the configuration")
    return chosen


@contextmanager
def _broker(config: Config) -> Iterator[Broker]:
    # An embedded log that is not there yet must not be there afterwards.
    nothing_yet = config.broker == "embedded" and not (config.state / "log").exists()
    broker: Broker = EmbeddedBroker(None) if nothing_yet else open_broker(config, "dry-run")
    with closing(broker):
        yield broker


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[int], None]]]:
    """A line for each source on a terminal, with the documents that were looked at."""
    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def of(source: str) -> Callable[[int], None]:
            task = bar.add_task(f"looking at {printable(source)}", total=None)
            return lambda done: bar.update(task, completed=done)

        yield of


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    first = ", nothing of which is published yet" if found["first"] else ""
    yield f"source {printable(found['source'])}{first}"
    for kind in KINDS:
        yield from _some(_WORDS[kind], found["events"][kind], found["sample"][kind])
    yield f"  {'unchanged':<22} {found['unchanged']:>8}"
    if found["kept_out"]:
        yield f"  {'forgotten, stay out':<22} {found['kept_out']:>8}"
    yield from _some("without their text", found["without_text"]["count"], found["without_text"]["examples"])
    for reason, count in found["skipped"].items():
        yield f"  {'no document: ' + printable(reason):<22} {count:>8}"
    yield from _some("cannot be read now", found["unreadable"]["count"], found["unreadable"]["examples"])
    yield f"  {'bytes':<22} {found['record_bytes']:>8}  of records, {found['text_bytes']} of text"


def _some(title: str, count: int, examples: Sequence[str]) -> Iterator[str]:
    if count:
        names = ", ".join(printable(one) for one in examples[:_SHOWN])
        yield f"  {title:<22} {count:>8}  {names}{', ...' if count > _SHOWN else ''}"
