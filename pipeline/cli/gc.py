"""``vectide gc``: old delete records, tombstones, and what is left of generations that are over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli.access import reached
from pipeline.cli.awaiting import awaited
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.cli.tasks import raised
from pipeline.observe.logs import printable

_WAIT_SECONDS: Final = 60.0


@click.command()
@click.option("--apply", "apply_", is_flag=True, help="Remove it.  [default: say what would be removed]")
@click.option("--older-than", type=float, metavar="DAYS", help="Only deletes of before.  [default: 30]")
@click.option("--wait", default=_WAIT_SECONDS, metavar="SECONDS", help="For connectors and workers.  [default: 60]")
@as_json
@configured
def gc(
    apply_: bool, older_than: float | None, wait: float, json_: bool, config_file: Path | None, state: Path | None
) -> None:
    """Remove old delete records, their tombstones, and what generations that are over have left.

    Nothing that a running migration, a worker or a rollback may need is ever touched. While a generation is being
    built it is refused; while it runs no migration can be started. Run it again if it was cut off.
    """
    config = configuration(config_file, state)
    configure_logs(config)
    given = {"action": "gc", "apply": apply_, "wait": wait}
    given |= {} if older_than is None else {"older_days": older_than}
    with reached(config) as ask:
        found = raised(awaited(ask, "/erasure", ask("POST", "/erasure", given)))
    if json_:
        print_json(found)
        return
    for line in _rows(found):
        click.echo(printable(line))


def _rows(found: Mapping[str, Any]) -> list[str]:
    would = "" if found["applied"] else "would go: "
    rows = [f"{would}{count} delete records of source {source}" for source, count in found["deletes"].items()]
    rows += [f"{would}{count} tombstones of generation {id}" for id, count in found["tombstones"].items() if count]
    for one in found["orphans"]:
        rows.append(
            f"{would}generation {one['generation']} ({one['why']}): {', '.join(one['names'])}; "
            f"{one['points']} points, {one['records']} records, {one['bytes']} bytes"
        )
    for name, what in (("dead_letters", "dead letters of such generations"), ("requests", "requests that are over")):
        if found[name]:
            rows.append(f"{would}{found[name]} {what}")
    if found["deletes_left"]:
        rows.append(f"{found['deletes_left']} more delete records: run it again")
    if found["refused"]:
        rows.append(f"--apply is refused now: {found['refused']}")
    elif not found["applied"] and rows:
        rows.append("--apply removes it")
    return rows or ["nothing to remove"]
