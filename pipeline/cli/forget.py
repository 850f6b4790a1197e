"""``vectide forget`` and ``vectide receipt``: documents gone from everywhere, with a signed proof."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli import receipts
from pipeline.cli.access import reached
from pipeline.cli.awaiting import awaited
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.cli.tasks import raised
from pipeline.errors import UNAVAILABLE, ConfigError
from pipeline.observe.logs import printable

if TYPE_CHECKING:
    from pipeline.config import Config

_WAIT_SECONDS: Final = 60.0


@click.command()
@click.argument("keys", nargs=-1)
@click.option("--source", help="All documents of this source, now and later.")
@click.option("--lift", is_flag=True, help="Let them in again; nothing else.")
@click.option("--yes", is_flag=True, help="Do not ask whether a whole source is meant.")
@click.option("--wait", default=_WAIT_SECONDS, metavar="SECONDS", help="For connectors and workers.  [default: 60]")
@click.option("--beforehand", is_flag=True, help="Also keys that nothing is known of: keep them out.")
@click.option("--take-over", is_flag=True, help="Be the source's writer although its connector runs, and end it.")
@click.option("--purge", is_flag=True, help="Write a large embedded store's files anew; writers wait meanwhile.")
@click.option(
    "--receipt", type=click.Path(path_type=Path), metavar="FILE", help="Look again for this receipt, and write a newer."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where the receipt goes.")
@as_json
@configured
def forget(
    keys: tuple[str, ...],
    source: str | None,
    lift: bool,
    yes: bool,
    wait: float,
    beforehand: bool,
    take_over: bool,
    purge: bool,
    receipt: Path | None,
    out: Path | None,
    json_: bool,
    config_file: Path | None,
    state: Path | None,
) -> None:
    """Delete the documents KEYS everywhere, prove it, and keep them out until --lift.

    Keys are source:path, as `vectide search --json` shows them. The receipt says what was looked at
    and until when what is left is left; it never holds a text. docs/erasure.md explains it.
    """
    if sum((bool(keys), source is not None, receipt is not None)) != 1:
        raise ConfigError("which documents?", "give their keys, or --source ID, or --receipt FILE")
    if lift and receipt is not None:
        raise ConfigError("--lift takes no receipt", "give the keys that it names, or --source ID")
    config = configuration(config_file, state)
    configure_logs(config)
    if (written := out or receipt) is not None:
        receipts.refuse_unwritable(written)
    given: dict[str, Any] = {"action": "lift" if lift else "forget", "wait": wait, "take_over": take_over}
    before: dict[str, Any] | None = None
    if receipt is not None:
        before = receipts.read(receipt)
        receipts.check(before, _key(config))
        given["requests"] = [one["id"] for one in before["requests"]]
        out = out or receipt
    elif source is not None:
        _confirm(source, yes=yes or lift)
        given["source"] = source
    else:
        given["keys"] = list(keys)
    if lift:
        _lifted(config, given, json_=json_)
        return
    found = _asked(config, {**given, "beforehand": beforehand, "purge": purge})
    if before is not None:
        found["continues"] = before["signature"]["sha256"]
    made = receipts.signed(found, _key(config))
    if out is not None:
        receipts.write(out, made)
    if json_:
        print_json(made)
    else:
        _show(made)
    if made["state"] == "pending":
        where = f"--receipt {out}" if out is not None else "again"
        click.echo(f"vectide: not all is gone yet: `vectide forget {where}` goes on from here", err=True)
        raise click.exceptions.Exit(UNAVAILABLE)


@click.group()
def receipt() -> None:
    """Look after receipts of what was forgotten."""


@receipt.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@as_json
@configured
def check_(file: Path, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Check that the receipt FILE is as it was written, and signed with the configured key."""
    config = configuration(config_file, state)
    found = receipts.read(file)
    verdict = receipts.check(found, _key(config))
    if json_:
        print_json({"verdict": verdict, "state": found["state"], "latest": found["latest"]})
        return
    said = {"signed": "signed with the configured key", "intact": "intact (not signed: anybody can have written it)"}
    click.echo(f"{file}: {said[verdict]}")
    _show(found)


def _key(config: Config) -> bytes | None:
    if config.receipt_key is None:
        return None
    key = config.receipt_key.get_secret_value().encode()
    if not key:
        raise ConfigError("receipt_key is empty", "give a secret of 32 random bytes or more, or none at all")
    return key


def _confirm(source: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"forget all of source {source!r}?", "--yes says that it is meant")
    click.confirm(f"Forget all documents of source {source!r}, and keep it out?", abort=True)


def _lifted(config: Config, given: Mapping[str, Any], *, json_: bool) -> None:
    found = _asked(config, given)
    if json_:
        print_json(found)
    else:
        click.echo(f"lifted {found['lifted']}; the connector publishes what its source has")
    if found["pending"]:
        click.echo(f"vectide: the connector of {printable(found['pending'][0])} has not answered yet", err=True)
        raise click.exceptions.Exit(UNAVAILABLE)


def _asked(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    with reached(config) as ask:
        return raised(awaited(ask, "/erasure", ask("POST", "/erasure", given)))


def _show(made: Mapping[str, Any]) -> None:
    deletes = sum(request["deletes"] for request in made["requests"])
    click.echo(f"{'deletes':<18} {deletes}")
    click.echo(f"{'kept out':<18} {'yes, until --lift' if made['kept_out'] else 'no'}")
    for place in made["places"]:
        until = f", until {place['until']}" if place["until"] else ""
        found = f"{place['found']} left" if place["state"] != "gone" else "gone"
        note = f" ({place['note']})" if place["note"] else ""
        click.echo(printable(f"{place['place']:<18} {place['name']}: {found}{until}{note}"))
    latest = f", the last of it by {made['latest']}" if made["latest"] else ""
    click.echo(printable(f"{'state':<18} {made['state']}{latest}"))
