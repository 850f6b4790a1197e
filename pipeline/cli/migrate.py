"""``vectide migrate``: to another model or chunking, live, proven before it serves, undone in a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from pipeline.cli.access import Ask, reached
from pipeline.cli.awaiting import awaited
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.cli.tasks import raised
from pipeline.errors import ConfigError
from pipeline.observe.logs import printable

F = TypeVar("F", bound=Callable[..., Any])

_WATCH_SECONDS: Final = 1.0
_BAR: Final = 30


@click.group()
def migrate() -> None:
    """Change the model or the chunking while reads and writes go on.

    The whole of it as one job: `vectide migrate run --model X --cutover auto`. Step by step: plan,
    start, status --watch, cutover, and rollback or retire. docs/migrations.md has the picture.
    """


def _proposal(command: F) -> F:
    """Options that name another generation than the configuration does."""
    for option in (
        click.option("--context", type=click.Choice(["none", "headings"]), help="Headings embedded with a chunk."),
        click.option("--max-tokens", type=int, help="Most tokens of a chunk."),
        click.option("--target-tokens", type=int, help="Chunks are packed to about so many tokens."),
        click.option("--query-prompt", help="Put before queries.  [default: the model's own]"),
        click.option("--document-prompt", help="Put before documents.  [default: the model's own]"),
        click.option("--dimension", type=int, help="Cut of a Matryoshka model.  [default: the model's own]"),
        click.option("--provider", type=click.Choice(["sentence-transformers", "wordllama", "hashing"])),
        click.option("--model", help="Hub id, folder, or package:NAME/FOLDER.  [default: as configured]"),
    ):
        command = option(command)
    return command


def _labels(command: F) -> F:
    """Options of the gate."""
    for option in (
        click.option("--qrels", type=click.Path(path_type=Path), help="TSV: query id, document, relevance."),
        click.option("--queries", type=click.Path(path_type=Path), help="JSON lines or TSV: query id and text."),
    ):
        command = option(command)
    return command


@migrate.command("plan")
@_proposal
@click.option("--price", type=float, help="Of a million tokens, in any currency.")
@as_json
@configured
def plan_(json_: bool, config_file: Path | None, state: Path | None, price: float | None, **proposal: Any) -> None:
    """Say what a migration would be, and do nothing."""
    with _asking(config_file, state) as ask:
        task = ask("POST", "/migrate", {"action": "plan", "price": price, **_given(proposal)})
        found = raised(awaited(ask, "/migrate", task))
    if json_:
        print_json(found)
        return
    for name, value in found.items():
        if name == "differs":
            for field, (before, after) in value.items():
                click.echo(f"{'differs':<22} {field}: {before!r} -> {after!r}")
        elif name == "same":
            if value:
                click.echo("nothing would change: that is the live generation")
        elif value is not None:
            click.echo(f"{name.replace('_', ' '):<22} {value}")


@migrate.command()
@_proposal
@as_json
@configured
def start(json_: bool, config_file: Path | None, state: Path | None, **proposal: Any) -> None:
    """Begin a migration; begun already, it is the same one."""
    found = _asked(config_file, state, {"action": "start", **_given(proposal)})
    _tell(found, json_)


@migrate.command()
@click.option("--watch", is_flag=True, help="Until it is ready or over.")
@as_json
@configured
def status(watch: bool, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Show state, progress, speed, lag and what the gate has found."""
    with _asking(config_file, state) as ask:
        while True:
            found = ask("POST", "/migrate", {"action": "status"})
            if json_:
                print_json(found)
            else:
                _show(found)
            if not watch or found["state"] != "building":
                return
            time.sleep(_WATCH_SECONDS)
            if not json_ and sys.stdout.isatty():
                click.clear()


@migrate.command()
@as_json
@configured
def pause(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Stop building; the live generation goes on."""
    _tell(_asked(config_file, state, {"action": "pause"}), json_)


@migrate.command()
@as_json
@configured
def resume(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Go on building."""
    _tell(_asked(config_file, state, {"action": "resume"}), json_)


@migrate.command()
@click.argument("share")
@as_json
@configured
def throttle(share: str, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Let building take SHARE of the time, for example 50%."""
    try:
        value = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{share!r} is no share", "for example 50% or 0.5") from None
    _tell(_asked(config_file, state, {"action": "throttle", "share": value}), json_)


@migrate.command()
@_labels
@as_json
@configured
def gate(queries: Path | None, qrels: Path | None, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Examine the new generation, and switch nothing."""
    with _asking(config_file, state) as ask:
        found = _examined(ask, queries, qrels)
    if json_:
        print_json(found)
    else:
        for line in gate_lines(found):
            click.echo(line)
    if not found["ok"]:
        raise _refused(found)


@migrate.command()
@_labels
@click.option("--force", metavar="REASON", help="Without the gate; the reason is kept in the history.")
@as_json
@configured
def cutover(
    queries: Path | None,
    qrels: Path | None,
    force: str | None,
    json_: bool,
    config_file: Path | None,
    state: Path | None,
) -> None:
    """Pass the gate, then let searches read the new generation."""
    with _asking(config_file, state) as ask:
        arguments: dict[str, Any] = {"action": "cutover", "force": force}
        now = ask("POST", "/migrate", {"action": "status"})
        if force is None and now["target"] is not None:
            found = _examined(ask, queries, qrels)
            if not json_:
                for line in gate_lines(found):
                    click.echo(line)
            if not found["ok"]:
                raise _refused(found)
            arguments |= {"examined": found["examined"], "generation": found["generation"]}
        _tell(ask("POST", "/migrate", arguments), json_)


@migrate.command()
@click.option("--reason", default="", help="Kept in the history.")
@click.option("--force", metavar="REASON", help="Even if the previous generation is behind.")
@click.option("--again", is_flag=True, help="After a rollback: to the one before that.")
@as_json
@configured
def rollback(
    reason: str, force: str | None, again: bool, json_: bool, config_file: Path | None, state: Path | None
) -> None:
    """Let searches read the previous generation again."""
    _tell(_asked(config_file, state, {"action": "rollback", "reason": reason, "force": force, "again": again}), json_)


@migrate.command()
@click.option("--reason", default="", help="Kept in the history.")
@as_json
@configured
def abort(reason: str, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Give a migration up, and remove what it has built."""
    _tell(_asked(config_file, state, {"action": "abort", "reason": reason}), json_)


@migrate.command()
@click.argument("generation", required=False)
@as_json
@configured
def retire(generation: str | None, json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Remove a generation: collection, topic and offsets. No way back.

    Without GENERATION the previous one; where there is none, the last that was aborted or has failed. What was rolled
    back from is no previous one: `vectide migrate abort` removes it.
    """
    _tell(_asked(config_file, state, {"action": "retire", "generation": generation}), json_)


@migrate.command()
@as_json
@configured
def history(json_: bool, config_file: Path | None, state: Path | None) -> None:
    """Show every change of every generation."""
    found = _asked(config_file, state, {"action": "history"})
    if json_:
        print_json(found)
        return
    for one in found["history"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one["at"]))
        click.echo(f"{at}  {one['generation']:<16} {one['state']:<9} {printable(one['reason'])}")


@migrate.command()
@_proposal
@_labels
@click.option(
    "--cutover",
    type=click.Choice(["auto", "manual"]),
    default="manual",
    show_default=True,
    help="manual: end when the gate has been passed.",
)
@click.option("--force", metavar="REASON", help="Cut over whatever the gate finds.")
@click.option("--again", is_flag=True, help="Also what was aborted, has failed or was retired.")
@as_json
@configured
def run(
    queries: Path | None,
    qrels: Path | None,
    cutover: str,
    force: str | None,
    again: bool,
    json_: bool,
    config_file: Path | None,
    state: Path | None,
    **proposal: Any,
) -> None:
    """Do all of it: start, wait, gate, cutover. Killed and started again, it goes on where it was.

    Exit codes: 0 live (or ready, with --cutover manual), 8 overtaken by another decision, 9 refused
    by the gate, 10 told to stop before it was done.
    """
    from pipeline.cli.job import Job

    config = configuration(config_file, state)
    configure_logs(config)
    wanted = {**_given(proposal), "again": again}
    found = Job(config, wanted, queries, qrels, automatic=cutover == "auto", force=force, quiet=json_).run()
    _tell(found, json_)


def gate_lines(found: Mapping[str, Any]) -> list[str]:
    """What a gate has found, for people."""
    lines = []
    verification, quality = found.get("verification"), found.get("quality")
    if verification is not None:
        kinds = {kind: one["count"] for kind, one in verification["findings"].items() if one["count"]}
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "equal"
        lines.append(f"log and collection  {verification['documents']} documents, {said}")
    if quality is not None:
        kind = "labelled" if quality["labelled"] else "known-item (weaker than labels)"
        lines.append(f"questions           {quality['queries']} {kind}, overlap@10 {quality['overlap']:.2f}")
        lines += [
            f"  {one['name']:<17} {one['old']:.4f} -> {one['new']:.4f}"
            f"  ({one['difference']:+.4f}, p = {one['p_value']:.3f})"
            for one in quality["measures"]
        ]
        if quality["why"]:
            lines += [
                f"  worse: {one['measure']} {one['old']:.2f} -> {one['new']:.2f}"
                f"  {printable(one['text'][:100] or ', '.join(one['relevant']))}"
                for one in quality["worst"]
            ]
    why = "passed" if found["ok"] else "refused: " + "; ".join(found["why"])
    lines.append(printable(f"gate                {why}"))
    return lines


def _examined(ask: Ask, queries: Path | None, qrels: Path | None) -> dict[str, Any]:
    if (queries is None) != (qrels is None):
        raise ConfigError("queries and qrels belong together", "give both, or neither for known-item questions")
    given = {
        "action": "gate",
        "queries": None if queries is None else str(queries.resolve()),
        "qrels": None if qrels is None else str(qrels.resolve()),
    }
    return raised(awaited(ask, "/migrate", ask("POST", "/migrate", given)))


def _refused(found: Mapping[str, Any]) -> Exception:
    from pipeline.cli.gating import refused_by_gate

    return refused_by_gate(found)


def _asking(config_file: Path | None, state: Path | None) -> Any:
    config = configuration(config_file, state)
    configure_logs(config)
    return reached(config)


def _asked(config_file: Path | None, state: Path | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    with _asking(config_file, state) as ask:
        found: dict[str, Any] = ask("POST", "/migrate", arguments)
    return found


def _given(proposal: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: proposal[name] for name in ("dimension", "document_prompt", "query_prompt")}
    chunking = {name: proposal[name] for name in ("target_tokens", "max_tokens", "context")}
    return {
        "model": proposal["model"],
        "provider": proposal["provider"],
        "model_settings": {name: value for name, value in model.items() if value is not None},
        "chunking_settings": {name: value for name, value in chunking.items() if value is not None},
    }


def _tell(found: Mapping[str, Any], json_: bool) -> None:
    if json_:
        print_json(dict(found))
        return
    generation = found["generation"]
    if isinstance(generation, Mapping):
        paused = ", paused" if generation["paused"] else ""
        share = f", throttled to {generation['throttle']:.0%}" if generation["throttle"] < 1 else ""
        click.echo(f"generation {generation['id']} ({generation['model']}) is {generation['state']}{paused}{share}")
    else:
        click.echo(f"generation {generation} is gone: {found['points']} points, {found['bytes'] / 1e6:.1f} MB")


def _bar(share: float) -> str:
    done = round(min(1.0, share) * _BAR)
    return f"[{'#' * done}{'.' * (_BAR - done)}]"


def _show(found: Mapping[str, Any]) -> None:
    click.echo(f"migration     {found['state']}")
    for one in found["generations"]:
        line = f"{one['state']:<9} {one['id']:<16} {one['model']}: {one['documents']} documents, {one['chunks']} chunks"
        line += f", {one['lag']} records behind"
        if one["state"] in ("building", "ready"):
            whole = one["documents_in_live"]
            share = one["documents"] / whole if whole else 1.0
            eta = one.get("eta_seconds")
            line += f"\n          {_bar(share)} {share:.0%}, {one['documents_per_second']:.1f} documents/s"
            line += f", {one['tokens']} of about {one['tokens_whole']} tokens"
            line += f", {eta:.0f} s left" if eta is not None and one["state"] == "building" else ""
            line += ", paused" if one["paused"] else ""
            line += f", throttled to {one['throttle']:.0%}" if one["throttle"] < 1 else ""
        click.echo(line)
    for one in found["over"]:
        click.echo(printable(f"{one['state']:<9} {one['id']:<16} {one['model']}: {one['reason']}"))
    if found["gate"] is not None:
        for line in gate_lines(found["gate"]):
            click.echo(line)
