"""The gate of a migration, put together: it examines the target, and what it found is written to ``control``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.chunking.documents import Chunk
from pipeline.cli.assembly import Followed, Models, Parts, same_log
from pipeline.cli.tasks import Task
from pipeline.embedding.generation import chunker
from pipeline.embedding.models import located, tokenizer_of
from pipeline.errors import CollectionMissing, ConfigError, Fatal, GateRefused, Transient
from pipeline.generations import gate, operator, transitions
from pipeline.generations.control import Generation
from pipeline.generations.known_items import known_items
from pipeline.generations.quality import Ask, Comparison, labelled, matching, read_qrels, read_queries, unlabelled
from pipeline.ports import Collection
from pipeline.search.searcher import Searcher
from pipeline.specs import GenerationSpec

_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class _Examined:
    """What is held against what."""

    target: Generation
    live: Generation
    collection: Collection
    """The target's."""
    served: Collection
    """The live one's."""
    given: Mapping[str, Any]
    """Files of ``queries`` and ``qrels``, or neither."""
    task: Task


class Gating:
    """One pipeline's gate.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        models: loaded models; questions are asked with two of them.
    """

    def __init__(self, parts: Parts, control: Followed, models: Models) -> None:
        self._parts = parts
        self._control = control
        self._models = models

    def examined(self, target: Generation, live: Generation, given: Mapping[str, Any], task: Task) -> dict[str, Any]:
        """What it found, as JSON. ``given``: files of ``queries`` and ``qrels``, or neither.

        Raises:
            ConfigError: an argument is wrong.
            Fatal: it cannot be examined at all.
            Transient: no answer, or it was stopped, or the generation was changed meanwhile; examine it again.
        """
        parts = self._parts
        try:
            collection, served = (parts.store.open(parts.names.collection(one.id)) for one in (target, live))
        except CollectionMissing:
            raise Transient(f"no worker has begun to build generation {target.id}") from None
        report = self._report(_Examined(target, live, collection, served, given, task))
        found, kept = report.as_json(), report.as_json(drawn=False)
        if report.ok:
            self._decide(lambda now: transitions.pass_gate(now, target.id, target.transitions, time.time(), kept))
        elif not report.not_yet:
            self._decide(
                lambda now: transitions.refuse_gate(
                    now, target.id, target.transitions, time.time(), "; ".join(report.why), kept
                )
            )
        # What it wrote itself is one more; whoever came between is found by it.
        found["examined"] = target.transitions + (0 if report.not_yet else 1)
        return found

    def _decide(self, decide: operator.Decision) -> None:
        operator.operate(self._parts.broker, self._parts.names, decide)

    def _report(self, examined: _Examined) -> gate.Report:
        try:
            return self._examine(examined)
        except ConfigError:
            raise
        except Fatal as error:
            target = examined.target
            now = self._control.again().generations.get(target.id)
            if now is None or now.transitions != target.transitions:
                raise Transient(f"generation {target.id} was changed while it was examined") from error
            raise

    def _examine(self, examined: _Examined) -> gate.Report:
        parts, target, task = self._parts, examined.target, examined.task
        same_log(parts)
        return gate.examine(
            parts.broker,
            parts.names,
            parts.config.pipeline.epoch,
            target.spec,
            target.transitions,
            examined.collection,
            examined.served,
            self._chunker(target.spec),
            lambda: parts.store.build_index(examined.collection.spec.name),
            lambda on_phase: self._quality(examined, on_phase),
            parts.config.migrate.lag_seconds,
            task.at,
            task.stopped,
        )

    def _chunker(self, spec: GenerationSpec) -> Chunk:
        return chunker(spec, tokenizer_of(located(spec, self._parts.config)))

    def _quality(self, examined: _Examined, on_phase: gate.OnPhase) -> Comparison:
        config, given, served = self._parts.config.migrate, examined.given, examined.served
        old, new = (
            _asking(Searcher(place, self._models.of(one.spec)))
            for place, one in ((served, examined.live), (examined.collection, examined.target))
        )

        def progress(done: int, whole: int) -> None:
            on_phase("questions", done, whole)

        if bool(given.get("queries")) != bool(given.get("qrels")):
            raise ConfigError("queries and qrels belong together", "give both, or neither for known-item questions")
        if given.get("queries"):
            queries, qrels = read_queries(Path(given["queries"])), read_qrels(Path(given["qrels"]))
            matched = matching(qrels, _keys(served))
            return labelled(queries, matched.qrels, old, new, config.tolerance, progress)
        on_phase("drawing questions", 0, 0)
        items = known_items(served, config.known_items, _SEED)
        return unlabelled(items, old, new, config.known_item_tolerance, progress)


def refused_by_gate(found: Mapping[str, Any]) -> GateRefused:
    """What a gate's refusal says."""
    return GateRefused(
        f"the gate refuses generation {found['generation']}: {'; '.join(found['why'])}",
        "`vectide migrate status` shows all it found; mend it, or `vectide migrate cutover --force REASON`",
    )


def _asking(searcher: Searcher) -> Ask:
    def ask(query: str, top: int) -> list[str]:
        return [hit.key for hit in searcher.search(query, top, by_document=True).hits]

    return ask


def _keys(collection: Collection) -> Iterator[str]:
    after: str | None = None
    while True:
        heads, after = collection.scan_heads(after)
        yield from (head.key.text for head in heads if head.state != "deleted")
        if after is None:
            return
