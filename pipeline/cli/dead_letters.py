"""``vectide dead-letters``: what failed for good, and what to do with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipeline.cli.access import reached
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.errors import ConfigError
from pipeline.observe.logs import printable


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, replay or drop records that failed for good."""


@dead_letters.command("list")
@as_json
@configured
def list_(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """All that are not resolved."""
    found = _ask(config_file, state, "list", ())
    if json_:
        print_json(found)
        return
    for letter in found["dead_letters"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter["failed_at"]))
        click.echo(printable(f"{letter['id']}  {at}  {letter['reason']}  {letter['key']}"))
    click.echo(f"{len(found['dead_letters'])} dead letters", err=True)


@dead_letters.command()
@click.argument("ids", nargs=-1, required=True)
@as_json
@configured
def show(ids: tuple[str, ...], json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Cause, origin and record of IDS."""
    found = _ask(config_file, state, "show", ids)
    if json_:
        print_json(found)
        return
    for letter in found["dead_letters"]:
        for name, value in letter.items():
            click.echo(f"{name:<13} {printable(str(value))}")


@dead_letters.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="Every letter.")
@as_json
@configured
def replay(ids: tuple[str, ...], all_: bool, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Run the failed stage again for IDS, at the record's own version: it can't undo anything newer."""
    _one_or_all(ids, all_)
    found = _ask(config_file, state, "replay", ids)
    _tell(found, json_, "replayed")


@dead_letters.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="Every letter.")
@as_json
@configured
def drop(ids: tuple[str, ...], all_: bool, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Forget IDS; their documents stay as their heads say."""
    _one_or_all(ids, all_)
    found = _ask(config_file, state, "drop", ids)
    _tell(found, json_, "dropped")


def _ask(config_file: Path | None, state: Path | None, action: str, ids: tuple[str, ...]) -> dict[str, Any]:
    config = configuration(config_file, state)
    configure_logs(config)
    with reached(config) as ask:
        answer: dict[str, Any] = ask("POST", "/dead-letters", {"action": action, "ids": list(ids)})
    return answer


def _one_or_all(ids: tuple[str, ...], all_: bool) -> None:
    if bool(ids) == all_:
        raise ConfigError("which ones?", "name their ids, or give --all")


def _tell(found: Mapping[str, Any], json_: bool, verb: str) -> None:
    if json_:
        print_json(found)
    else:
        for id in found[verb]:
            click.echo(printable(f"{verb} {id}"))
        for kept in found.get("kept", ()):
            click.echo(printable(f"kept {kept['id']}: {kept['why']}"), err=True)
    if found.get("kept"):
        raise click.exceptions.Exit(1)
