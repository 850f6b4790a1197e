"""``vectide search``: a question, and the chunks that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from pipeline.anchors import Place
from pipeline.cli.access import reached
from pipeline.cli.options import as_json, configuration, configure_logs, configured, print_json
from pipeline.errors import ConfigError
from pipeline.observe.logs import printable

_SHOWN_CHARACTERS: Final = 300


@click.command()
@click.argument("question")
@click.option("--top", default=5, show_default=True, help="How many hits.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="A declared filter field; repeatable.")
@click.option("--by-document", is_flag=True, help="The best chunk of each document only.")
@as_json
@configured
def search(
    question: str,
    top: int,
    filters: tuple[str, ...],
    by_document: bool,
    json_: bool,
    config_file: Path | None,
    state: Path | None,
) -> None:
    """Ask QUESTION of the index, whether or not `vectide up` is running."""
    if not question.strip():
        raise ConfigError("the question is empty", 'for example `vectide search "how do I ..."`')
    config = configuration(config_file, state)
    configure_logs(config)
    with reached(config) as ask:
        arguments = {"query": question, "top": top, "filter": list(filters), "by_document": by_document}
        answer = ask("POST", "/search", arguments)
    if json_:
        print_json(answer)
        return
    for hit in answer["hits"]:
        click.echo(described(hit))
    if not answer["hits"]:
        click.echo("nothing found", err=True)
    if answer.get("syncing"):
        click.echo("`vectide up` is not in step with its sources yet: documents may be missing or older", err=True)
    if not answer["complete"]:
        click.echo("there may be more: the documents are changing faster than they could be checked", err=True)


def described(hit: Mapping[str, Any]) -> str:
    """A hit for people: score, document, headings, and the text cut to a few lines."""
    text = " ".join(str(hit["text"]).split())
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS].rsplit(" ", 1)[0] + " ..."
    where = " > ".join(hit["headings"])
    start, end = hit["span"]
    place = "" if hit.get("place") is None else f" {Place(**hit['place'])}"
    lines = [
        f"{hit['score']:.3f}  {printable(hit['key'])} [{start}:{end}]{printable(place)}  {printable(where)}".rstrip()
    ]
    if hit["state"] != "complete":
        lines.append(f"       ({hit['state']}: this text may be older or partial)")
    lines.append(f"       {printable(shown)}")
    return "\n".join(lines)
