"""``vectide serve``: searches over HTTP, in whatever generation is live."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import configured
from pipeline.errors import CollectionMissing, Refused, Transient

if TYPE_CHECKING:
    from pipeline.observe.http import Route
    from pipeline.search.service import SearchService


@click.command()
@configured
def serve(config_file: Path | None, state: Path | None) -> None:
    """Answer POST /search and GET /status; on another host than loopback http.token is needed."""
    from pipeline.cli.assembly import Followed, Models, search_service
    from pipeline.cli.longlived import long_lived
    from pipeline.cli.operations import Operations
    from pipeline.cli.process import Pulse, attend, follow, generations_shown, reporter

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with long_lived("serve", config_file, state, answers=True) as process:
        parts = process.parts
        control, models = Followed(parts), Models(parts.config, stop=process.crew.stop)
        search = search_service(parts, control, models, alone=True)
        process.patience.until_done("store", lambda: _warm(search))
        operations = Operations(parts, control, search, models)
        # By name: what operations learn to do is not for those who may search. They may look at dead letters.
        routes = operations.routes()
        for method, path in (("POST", "/search"), ("GET", "/status")):
            process.server.mount(method, path, routes[method, path])
        process.server.mount("POST", "/dead-letters", _looked_at(routes["POST", "/dead-letters"]))
        report = reporter(parts.broker, parts.names, "serve", "", parts.health, parts.metrics)
        process.crew.start("search", lambda stop: follow(search, parts.health, stop))
        process.crew.start("pulse", Pulse([report.tick, generations_shown(parts.metrics, control)]).run)
        parts.health.set_started()
        try:
            attend(process.crew, parts, f"vectide serve: ready on {process.url}")
        finally:
            process.server.close(parts.config.work.drain_seconds)  # before what its answers are made of
            report.end()
            operations.close()
            control.close()


def _looked_at(dead_letters: Route) -> Route:
    """Lists and shows dead letters; to resolve them is an operator's."""

    def answer(arguments: Mapping[str, Any]) -> Any:
        if arguments.get("action") not in ("list", "show"):
            raise Refused("here dead letters are listed and shown", "replay or drop them with `vectide dead-letters`")
        return dead_letters(arguments)

    return answer


def _warm(search: SearchService) -> None:
    """Raises Transient where the first embed worker has not made the live collection yet."""
    try:
        search.warm()
    except CollectionMissing:
        raise Transient("the live collection is not there: no embed worker has made it yet") from None
