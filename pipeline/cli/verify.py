"""``vectide verify``: prove that the store equals the log, and mend what does not."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli.access import reached
from pipeline.cli.awaiting import awaited
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.cli.tasks import raised
from pipeline.errors import UNAVAILABLE, ConfigError
from pipeline.observe.logs import printable

#: Exit codes beside those of errors.
DIFFERS: Final = 11
_AHEAD: Final = 4
_SEEDS: Final = 1 << 32
#: Examples of a kind that are shown; ``--json`` has more.
_SHOWN: Final = 3


@click.command()
@click.option("--generation", metavar="ID", help="Which generation.  [default: the live one]")
@click.option("--fix", is_flag=True, help="Repair what was found, through the store protocol, and verify again.")
@click.option("--full", is_flag=True, help="Read every point and embed every text again; goes on after a kill.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Embed N random chunks again.")
@click.option("--seed", type=click.IntRange(min=0), help="Of --sample.  [default: any; it is shown]")
@click.option("--source", is_flag=True, help="Also hold the log against the sources that this machine can reach.")
@click.option("--strict", is_flag=True, help="What is not wholly served, or counted and not explained, is a finding.")
@click.option(
    "--wait",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long what the log has now may take to be applied.",
)
@as_json
@configured
def verify(
    generation: str | None,
    fix: bool,
    full: bool,
    sample: int | None,
    seed: int | None,
    source: bool,
    strict: bool,
    wait: int,
    json_: bool,
    config_file: Path | None,
    state: Path | None,
) -> None:
    """Prove that a generation's collection equals the log, while the pipeline goes on.

    Counts alone show whether documents, versions, chunk lists, metadata and filter fields are right;
    texts and vectors are looked at with --sample or --full. docs/verification.md says what is proven.

    Exit codes: 0 equal (after --fix: by now), 11 different, 4 the log has lost records, 7 not caught up, or
    nothing is different and not all of the sources could be looked at.
    """
    if full and sample:
        raise ConfigError("--full and --sample exclude each other", "--full embeds every text again")
    if seed is not None and not sample:
        raise ConfigError("--seed is of --sample", "give --sample N as well")
    config = configuration(config_file, state)
    configure_logs(config)
    wanted = {
        "generation": generation,
        "fix": fix,
        "full": full,
        "sample": sample,
        "seed": secrets.randbelow(_SEEDS) if sample and seed is None else seed,
        "source": source,
        "strict": strict,
        "wait": wait,
    }
    with reached(config) as ask:
        found = raised(awaited(ask, "/verify", ask("POST", "/verify", {"action": "start", **wanted})))
    if json_:
        print_json(found)
    else:
        for line in report_lines(found):
            click.echo(line)
    if found["ahead"]:
        raise click.exceptions.Exit(_AHEAD)
    if found["different"]:
        raise click.exceptions.Exit(DIFFERS)
    if found["unproven"]:
        raise click.exceptions.Exit(UNAVAILABLE)


def report_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield f"generation    {found['generation']} ({found['state']}, {found['model']})"
    yield from _compared(found)
    unserved = found["unserved"]
    if unserved["count"]:
        yield f"not served    {unserved['count']} documents are incomplete, failed or omitted (see `vectide explain`)"
        for one in unserved["examples"][:_SHOWN]:
            yield f"  {one['state']:<12}{printable(one['key'])}: {printable(one['reason'])}"
    if found["sample"]:
        yield f"vectors       {found['sample']['statement']}"
        for key, why in found["sample"]["reasons"][:_SHOWN]:
            yield f"  {printable(key)}: {printable(why)}"
    if found["full"]:
        full = found["full"]
        resumed = ", begun by one that was killed" if full["resumed"] else ""
        yield f"every point   {full['documents']} documents, {full['chunks']} chunks embedded again{resumed}"
        if full["unchecked"]:
            yield f"              of {full['unchecked']} only the texts: the model cannot embed them here"
        if full["more"]:
            yield f"              {full['more']} more findings were not kept over a kill: verify again after the repair"
    for one in found["sources"] or ():
        yield from _sourced(one)
    if found["repaired"]:
        yield from _repaired(found["repaired"], found["again"])
    yield f"verdict       {_verdict(found)}{_unproven(found)}"


def _compared(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"log           {found['documents']} documents"
    read = f"{found['points_read']} read one by one, {found['requests']} requests, {found['seconds']:.1f} s"
    yield f"collection    {found['points']} points; {read}"
    yield from _kinds("findings", found["findings"])
    if found["unexplained"] and found["ok"]:
        yield f"  {found['unexplained']} counts are explained by no document: written meanwhile, or points that carry"
        yield "  other cells than their own (--strict calls that different)"


def _kinds(title: str, findings: Mapping[str, Any]) -> Iterator[str]:
    kinds = {kind: one for kind, one in findings.items() if one["count"]}
    yield f"{title:<13} {'none' if not kinds else ''}".rstrip()
    for kind, one in kinds.items():
        names = ", ".join(printable(name) for name in one["examples"][:_SHOWN])
        more = ", ..." if one["count"] > _SHOWN else ""
        yield f"  {kind:<16} {one['count']:>7}  {names}{more}"


def _sourced(one: Mapping[str, Any]) -> Iterator[str]:
    title = f"source {printable(one['source'])}"
    if "unreached" in one:
        yield f"{title:<13} not looked at: {printable(one['unreached'])}"
        return
    yield f"{title:<13} {one['documents']} documents{', equal to the log' if one['ok'] else ''}"
    if not one["ok"]:
        yield from _kinds("  the connector's next scan mends", one["findings"])
    if one["unreadable"]["count"]:
        names = ", ".join(printable(name) for name in one["unreadable"]["examples"][:_SHOWN])
        yield f"  cannot be read   {one['unreadable']['count']:>7}  {names}"
    if one["changing"]:
        yield f"  changing         {one['changing']:>7}  said something else at every look"


def _repaired(repaired: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    did = ", ".join(f"{count} {what}" for what, count in repaired["documents"].items()) or "nothing to do"
    yield f"repair        {did}; {repaired['embedded']} chunks embedded"
    for one in repaired["left"][:_SHOWN]:
        yield f"  left: {printable(one)}"
    yield from _kinds("verified again", again["findings"])
    if again["sample"]:
        yield f"{'':<14}{again['sample']['statement']}"


def _remedy(found: Mapping[str, Any]) -> str:
    again = found["again"]
    if again and again["sample"] and again["sample"]["wrong"]:
        return "; a sample mends only the documents that it meets: --full --fix mends them all"
    return "" if found["repaired"] else "; --fix repairs the collection"


def _verdict(found: Mapping[str, Any]) -> str:
    if found["ahead"]:
        return (
            "the store knows versions that the log does not have: the log has lost records; restore it, or start a "
            "new epoch and a new generation from it"
        )
    if found["different"]:
        return f"different{_remedy(found)}"
    unexplained = (found["again"] or found)["unexplained"]
    but = f", but for {unexplained} counts that no document explains" if unexplained else ""
    return "the collection equals the log" + (", after the repair" if found["repaired"] else "") + but


def _unproven(found: Mapping[str, Any]) -> str:
    """What could not be looked at, whatever the verdict on the rest."""
    named = []
    for one in found["sources"] or ():
        if one["source"] in found["unproven"]:
            of = "" if "unreached" in one else f"{one['unreadable']['count'] + one['changing']} documents of "
            named.append(f"{of}source {printable(one['source'])}")
    return f"; not proven: {', '.join(named)}" if named else ""
