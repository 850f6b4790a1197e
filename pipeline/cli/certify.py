"""``vectide certify``: hold a connector, anybody's, to what every connector must do."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import click

from pipeline.cli.options import as_json, print_json
from pipeline.errors import ConfigError
from pipeline.observe.logs import printable

#: Beside the codes of errors: some check failed, or none could be shown.
REFUSED: Final = 12


@click.command()
@click.argument("place", metavar="MODULE:PLACE", required=False)
@click.option("--only", multiple=True, metavar="CHECK", help="Only this check; repeatable.")
@click.option("--documents", type=click.IntRange(min=10), default=10_000, show_default=True, help="Of the large place.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of random moments; it is shown.  [default: any]")
@click.option("--list", "listed", is_flag=True, help="Show the checks and run none.")
@as_json
def certify(place: str | None, only: tuple[str, ...], documents: int, seed: int, listed: bool, json_: bool) -> None:
    """Certify the connector of a place: MODULE:PLACE makes a new and empty one in a folder that it is given.

    docs/certification.md says how to write a place. What a place cannot do is not shown, which is not passed.

    Exit codes: 0 everything that could be shown has passed, 12 something failed or nothing could be shown.
    """
    from connectors.certification import CHECKS, Check, Place, Scale
    from connectors.certification import certify as certified

    checks = [one for one in CHECKS if not only or one.name in only]
    unknown = set(only) - {one.name for one in checks}
    if unknown:
        raise ConfigError(f"there is no check {', '.join(sorted(unknown))}", "`vectide certify --list` shows them")
    if listed:
        _show(checks, json_=json_)
        return
    if place is None:
        raise ConfigError("no place is named", "give MODULE:PLACE, as in docs/certification.md")
    made = cast("Callable[[Path], Place]", _place(place))
    # What a connector logs is looked at, and what it logs while it is attacked is no news.
    logging.getLogger().addHandler(logging.NullHandler())
    from rich.console import Console

    console = Console(file=sys.stderr)
    with console.status("") as status:

        def begun(check: Check) -> None:
            status.update(check.name)

        report = certified(made, checks, Scale(documents=documents, seed=seed), begun)
    if json_:
        print_json(report.as_json())
    else:
        for outcome in report.outcomes:
            click.echo(f"{outcome.verdict:<10} {outcome.seconds:>7.1f} s  {outcome.check.name}")
            if outcome.detail:
                click.echo(f"{'':<22}{printable(outcome.detail)}")
        for name, value in report.figures.items():
            click.echo(f"{'measured':<10} {value:>9g}  {name.replace('_', ' ')}")
        counts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in ("passed", "failed", "not shown"))
        click.echo(f"{'certified' if report.ok else 'refused'}: {counts}")
    if not report.ok:
        raise click.exceptions.Exit(REFUSED)


def _show(checks: list[Any], *, json_: bool) -> None:
    if json_:
        print_json([{"name": one.name, "claim": one.claim} for one in checks])
        return
    for one in checks:
        click.echo(f"{one.name}\n    {one.claim}")


def _place(name: str) -> object:
    """What MODULE:PLACE names; modules of the current folder are found, too."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ConfigError(f"{printable(name)} is not of the form MODULE:PLACE", "for example mail.certifying:MailPlace")
    sys.path.insert(0, "")
    try:
        made: object = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(
            f"module {printable(module)} cannot be imported: {error}", "install it, or run where it is"
        ) from None
    except AttributeError:
        raise ConfigError(f"module {printable(module)} has no {printable(attribute)}", "correct the name") from None
    finally:
        sys.path.remove("")
    return made
