"""``vectide status``: what is indexed, how far behind, how fresh, what failed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pipeline.cli.access import reached
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.observe.logs import printable


@click.command()
@as_json
@configured
def status(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Show documents, chunks, lag, freshness, dead letters and workers."""
    config = configuration(config_file, state)
    configure_logs(config)
    with reached(config) as ask:
        found = ask("GET", "/status", {})
    if json_:
        print_json(found)
        return
    for name, value in _rows(found):
        click.echo(printable(f"{name:<18} {value}"))


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    generation, lag = found["generation"], found["lag_by_stage"]
    waiting = f"{found['oldest_unprocessed_event_age_seconds']:.1f} s waiting" if found["lag"] else "none waits"
    partial = [f"{found[state]} {state}" for state in ("incomplete", "failed", "omitted") if found[state]]
    rows = [
        ("documents", f"{found['documents']}" + (f" ({', '.join(partial)})" if partial else "")),
        ("chunks", f"{found['chunks']}"),
        ("lag", f"{found['lag']} records (chunk {lag['chunk']}, embed {lag['embed']})"),
        ("oldest event", waiting),
        ("embedded", f"{found['chunks_embedded']} chunks, {found['tokens_embedded']} tokens"),
        ("reused", f"{found['chunks_reused']} chunks"),
        ("dead letters", f"{found['dead_letters']}"),
        ("generation", "none yet" if generation is None else f"{generation['id']} ({generation['model']})"),
    ]
    rows += [("verified", f"{id}: {_verified(one)}") for id, one in found["verified"].items()]
    kept_out = found["kept_out"]
    if kept_out["documents"] or kept_out["sources"]:
        whole = "".join(f", all of {printable(source)}" for source in kept_out["sources"])
        rows.append(("kept out", f"{kept_out['documents']} forgotten documents{whole}"))
    if found.get("without_reader"):
        rows.append(
            ("without a reader", f"{found['without_reader']} documents were left out: install vectide[documents]")
        )
    for source, seconds in found.get("unattended", {}).items():
        rows.append(
            ("unattended", f"{source}: no process reads it for {_ago(seconds)}; what is indexed of it still answers")
        )
    for worker in found["workers"]:
        state = "ready" if worker["ready"] else f"not ready: {worker['why']}"
        rows.append((f"worker {worker['role']}", f"{worker['worker']} {state}"))
    if not found["workers"]:
        rows.append(("workers", "none is running"))
    return rows


def _verified(one: dict[str, Any] | None) -> str:
    if one is None:
        return "not within a week"
    ago = f"{_ago(max(0.0, time.time() - one['at']))} ago, {one['documents']} documents, {one['vectors']} vectors"
    findings = ", ".join(f"{count} {kind}" for kind, count in one["findings"].items())
    if not findings:
        return f"{ago}: equal to the log"
    repaired = f"; {one['repaired']} repaired, {'equal' if one['ok'] else 'not equal'} since" if one["repaired"] else ""
    return f"{ago}: {findings}{repaired}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
