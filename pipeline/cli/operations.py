"""What can be asked of a pipeline, as JSON in and JSON out: the same code behind HTTP and commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from pipeline.broker.publishing import closed_after
from pipeline.chunking.documents import chunked
from pipeline.cli.assembly import Followed, Models, Parts
from pipeline.cli.erasure import Erasure
from pipeline.cli.figures import figures
from pipeline.cli.migrations import Migrations
from pipeline.cli.verifications import Verifications
from pipeline.config import SourceConfig
from pipeline.embedding.generation import chunker
from pipeline.embedding.models import located, tokenizer_of
from pipeline.errors import ConfigError
from pipeline.observe.http import Route
from pipeline.observe.metrics import PASSING, bounded
from pipeline.ports import Publisher
from pipeline.records import ChunkedDocument, DeadLetter, DocumentEvent
from pipeline.search.searcher import parse_where
from pipeline.search.service import SearchService
from pipeline.specs import GenerationSpec
from pipeline.stages import dead_letters
from pipeline.stages.dead_letters import describe

#: Shown of a dead letter's record: enough to recognise it.
_RECORD_CHARACTERS: Final = 20_000
#: For a publisher to let go of its connections.
_CLOSE_SECONDS: Final = 2.0


class Operations:
    """One pipeline's operations.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        search: answers questions.
        models: loaded models.
        before_status: brings counters of this very process up to date.
        sources: that this process can read, by source id; the configured ones if not given.
        runs: ids of those whose connectors this very process runs.
        alone: no other process can have the state: what reports tell of workers is of some that were killed.
        syncing: whether this very process reads its sources for the first time, so that answers may lack documents.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        search: SearchService,
        models: Models,
        before_status: Callable[[], None] = lambda: None,
        sources: Mapping[str, SourceConfig] | None = None,
        runs: Collection[str] = frozenset(),
        *,
        alone: bool = False,
        syncing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._alone = alone
        self._syncing = syncing
        self._parts = parts
        self._control = control
        self._search = search
        self._before_status = before_status
        self._migrations = Migrations(parts, control, models)
        self._erasure = Erasure(parts, control, lambda: runs)
        self._verifications = Verifications(
            parts, control, models, parts.config.sources if sources is None else sources
        )

    def routes(self) -> dict[tuple[str, str], Route]:
        """By method and path."""
        return {
            ("POST", "/search"): self.search,
            ("GET", "/status"): self.status,
            ("POST", "/dead-letters"): self.dead_letters,
            ("POST", "/migrate"): self.migrate,
            ("POST", "/erasure"): self.erasure,
            ("POST", "/verify"): self.verify,
        }

    def migrate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action`` and what belongs to it; see :class:`pipeline.cli.migrations.Migrations`."""
        return self._migrations.ask(arguments)

    def erasure(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action`` and what belongs to it; see :class:`pipeline.cli.erasure.Erasure`."""
        return self._erasure.ask(arguments)

    def verify(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action`` and what belongs to it; see :class:`pipeline.cli.verifications.Verifications`."""
        return self._verifications.ask(arguments)

    def close(self) -> None:
        """Give up what still runs."""
        self._migrations.close()
        self._erasure.close()
        self._verifications.close()

    def search(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``query``, ``top``, ``filter`` (list of ``key=value``), ``by_document``.

        Raises:
            ConfigError: an argument is missing, of the wrong type or out of range.
        """
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ConfigError("search needs a text as `query`", 'for example {"query": "how do I ..."}')
        top, filters = arguments.get("top", 5), arguments.get("filter", [])
        if not isinstance(top, int) or isinstance(top, bool):
            raise ConfigError(f"`top` = {top!r} is not a whole number", "ask for 1 to 1000 hits")
        if not isinstance(filters, list) or not all(isinstance(one, str) for one in filters):
            raise ConfigError("`filter` is not a list of key=value texts", 'for example ["source=docs"]')
        if any("\ud800" <= char <= "\udfff" for text in (query, *filters) for char in text):
            raise ConfigError("`query` or `filter` is not Unicode: it has half of a pair of surrogates", "send text")
        metrics, where = self._parts.metrics, parse_where(filters)
        try:
            with metrics.search_duration_seconds.time():
                answer = self._search.search(query, top, where, by_document=bool(arguments.get("by_document", False)))
        except ConfigError:
            raise  # whoever asked is to mend it
        except Exception as error:
            metrics.search_errors.labels(bounded(type(error).__name__, PASSING)).inc()
            raise
        metrics.searches.labels(str(answer.complete).lower()).inc()
        return answer.as_json() | ({"syncing": True} if self._syncing() else {})

    def status(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that ``vectide status`` shows."""
        self._before_status()
        found = figures(self._parts, self._control())
        return {**found, "workers": [], "unattended": {}} if self._alone else found

    def dead_letters(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action``: ``list``, ``show``, ``replay`` or ``drop``; ``ids``: which (empty for all).

        Raises:
            ConfigError: there is no such letter, or an argument is wrong.
        """
        action, ids = arguments.get("action"), arguments.get("ids", [])
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise ConfigError("`ids` is not a list of texts", "`vectide dead-letters list` shows the ids")
        standing = dead_letters.standing(self._parts.broker, self._parts.names)
        unknown = [id for id in ids if id not in standing]
        if unknown:
            raise ConfigError(f"there is no dead letter {unknown[0]!r}", "`vectide dead-letters list` shows the ids")
        chosen = [standing[id] for id in ids] if ids else list(standing.values())
        match action:
            case "list":
                return {"dead_letters": [describe(letter) for letter in chosen]}
            case "show":
                return {"dead_letters": [_shown(letter) for letter in chosen]}
            case "drop":
                with self._publisher() as publisher:
                    dead_letters.resolve(publisher, self._parts.names, [letter.id for letter in chosen])
                return {"dropped": [letter.id for letter in chosen]}
            case "replay":
                return self._replay(chosen)
        raise ConfigError(f"unknown action {action!r}", "list, show, replay or drop")

    def _replay(self, letters: list[DeadLetter]) -> dict[str, Any]:
        from pipeline.errors import Fatal, Poison

        chunkers = self._chunkers() if any(letter.stage == "chunk" for letter in letters) else {}
        replayed, kept = [], []
        with self._publisher() as publisher:
            for letter in letters:
                try:
                    dead_letters.replay(publisher, self._parts.names, letter, chunkers)
                    replayed.append(letter.id)
                except (Fatal, Poison) as error:
                    kept.append({"id": letter.id, "why": str(error)})
        return {"replayed": replayed, "kept": kept}

    def _publisher(self) -> AbstractContextManager[Publisher]:
        return closed_after(self._parts.broker.publisher("dead-letters"), _CLOSE_SECONDS)

    def _chunkers(self) -> dict[str, Callable[[DocumentEvent, int], ChunkedDocument]]:
        """By generation: a letter is replayed into the one that it comes from."""
        return {one.id: self._chunker(one.spec) for one in self._control.again().followed}

    def _chunker(self, spec: GenerationSpec) -> Callable[[DocumentEvent, int], ChunkedDocument]:
        cut = chunker(spec, tokenizer_of(located(spec, self._parts.config)))
        return lambda event, version: chunked(event, version, spec.id, cut)


def _shown(letter: DeadLetter) -> dict[str, Any]:
    value = (letter.record_value or b"").decode("utf-8", "replace")
    return {**describe(letter), "record": value[:_RECORD_CHARACTERS], "cut": len(value) > _RECORD_CHARACTERS}
