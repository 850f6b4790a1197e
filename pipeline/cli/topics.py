"""``vectide topics``: the topics in Kafka."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click

from pipeline.broker.rights import ROLES, Right, Role, rights
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.naming import Names
from pipeline.observe.logs import printable


@click.group()
def topics() -> None:
    """Create and check the topics of a pipeline."""


@topics.command()
@click.option(
    "--found",
    is_flag=True,
    help="Begin the first generation as well, as configured; else the first worker does, which needs the right to.",
)
@as_json
@configured
def apply(found: bool, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Create what is missing; refuse topics with settings that would lose data. Safe to run again."""
    from pipeline.cli.assembly import apply_topics, founded, opened

    config = configuration(config_file, state)
    configure_logs(config)
    with opened(config, "topics") as parts:
        created = apply_topics(parts)
        present = sorted(parts.broker.topics(parts.names.root))
        live = founded(parts).live if found else None
    if json_:
        print_json({"created": created, "topics": present, "live": None if live is None else live.id})
        return
    for name in created:
        click.echo(f"created {name}")
    click.echo(f"{len(present)} topics are as they should be")
    if live is not None:
        click.echo(f"generation {live.id} is live")


@topics.command("rights")
@click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, help="Repeatable.  [default: all]")
@click.option("--source", "sources", multiple=True, help="Repeatable.  [default: the configured ones]")
@as_json
@configured
def rights_(
    roles: tuple[Role, ...], sources: tuple[str, ...], json_: bool, config_file: Path | None, state: Path | None
) -> None:
    """List the ACLs that each role needs in Kafka, as commands for kafka-acls.sh; asks no broker.

    Principals are called by their role: put your own in their place. docs/security.md has the roles.
    """
    config = configuration(config_file, state)
    names = Names(config.pipeline.prefix, config.pipeline.name)
    ids = sorted(sources or config.sources)
    needed = {role: rights(role, names, config.pipeline.epoch, ids) for role in roles or ROLES}
    if json_:
        print_json({role: [dataclasses.asdict(one) for one in rules] for role, rules in needed.items()})
        return
    for role, rules in needed.items():
        for one in rules:
            click.echo(printable(_command(role, one)))


def _command(role: Role, one: Right) -> str:
    options = {"Topic": "--topic", "Group": "--group", "TransactionalId": "--transactional-id"}
    resource = "--cluster" if one.kind == "Cluster" else f"{options[one.kind]} {shlex.quote(one.name)}"
    pattern = " --resource-pattern-type prefixed" if one.prefixed else ""
    return f"kafka-acls.sh --add --allow-principal User:{role} --operation {one.operation} {resource}{pattern}"
