"""``vectide explain``: the life of one document."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipeline.cli.access import reached
from pipeline.cli.awaiting import awaited
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.cli.tasks import raised
from pipeline.observe.logs import printable


@click.command()
@click.argument("key")
@as_json
@configured
def explain(key: str, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Show what the log, every generation and the dead letters know of the document KEY (source:path)."""
    config = configuration(config_file, state)
    configure_logs(config)
    with reached(config) as ask:
        found = raised(awaited(ask, "/erasure", ask("POST", "/erasure", {"action": "explain", "key": key})))
    if json_:
        print_json(found)
        return
    click.echo(f"{printable(found['key'])}  ({found['doc']})")
    for line in (*_versions(found), *_generations(found), *_rest(found)):
        click.echo(f"  {printable(line)}")


def _versions(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{'log':<14}{found['versions_left_out']} older versions"] if found["versions_left_out"] else []
    for one in found["versions"]:
        where = f"{'log':<14}{_at(one['appended'])}  [{one['partition']}]@{one['offset']}  {one['kind']}"
        happened = "" if one["event_time"] is None else f", happened {_at(one['event_time'])}"
        size = f", {one['size']} bytes, digest {one['digest'][:12]}" if "size" in one else ""
        why = one.get("omitted") or one.get("why") or ""
        lines.append(where + size + happened + (f": {why}" if why else ""))
    return lines or [f"{'log':<14}nothing"]


def _generations(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for one in found["generations"]:
        head = one["head"]
        name = f"{one['generation']:<14}{one['state'] or 'unknown to control'}: "
        verified = "" if one["verified"] is None else _verified(one["verified"])
        if head is None:
            lines.append(f"{name}no head, {one['chunks']} chunks{verified}")
            continue
        reason = f" ({head['reason']})" if head["reason"] else ""
        old = "" if head["content_version"] in (head["version"], -1) else f", text of version {head['content_version']}"
        lines.append(
            f"{name}{head['state']}{reason}, version {head['version']}, attempt {head['attempt']}{old}, "
            f"lists {head['chunks']} chunks of {head['tokens']} tokens{_cost(head)}, "
            f"{one['chunks']} are there{verified}"
        )
    return lines


def _verified(last: Mapping[str, Any]) -> str:
    """Of the generation, not of the document: a verification keeps how many documents were wrong, and no names."""
    which = {True: "", False: ", before this version", None: ", this version or an older one"}[last["covers"]]
    wrong = ", ".join(f"{count} {kind}" for kind, count in last["findings"].items())
    since = f", {last['repaired']} repaired, {'equal' if last['ok'] else 'not equal'} since" if last["repaired"] else ""
    outcome = f"{wrong} in the generation{since}" if wrong else f"{'' if last['ok'] else 'not '}equal to the log"
    return f", verified {_at(last['at'])}{which}: {outcome}"


def _cost(head: Mapping[str, Any]) -> str:
    if head["embedded"] is None:
        return ""
    return f" ({head['embedded']} embedded, {head['reused']['kept']} kept, {head['reused']['copied']} copied)"


def _rest(found: Mapping[str, Any]) -> list[str]:
    lines = []
    if found["connector"] is not None:
        said = "published" if found["connector"]["published"] else "not published"
        lines.append(f"{'connector':<14}{said}")
    for letter in found["dead_letters"]:
        lines.append(f"{'dead letter':<14}{letter['id']}: {letter['reason']}: {letter['detail']}")
    if found["kept_out"] is not None:
        what = "its whole source was" if found["kept_out"]["whole_source"] else "it was"
        lines.append(f"{'kept out':<14}{what} forgotten at {_at(found['kept_out']['asked'])}; --lift lets it in")
    for one in found["requests"]:
        lines.append(f"{'asked':<14}{_at(one['asked'])}  {one['kind']} {one['id']}")
    return lines


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
