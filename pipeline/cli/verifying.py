"""One generation, verified and, if asked for, repaired: what ``vectide verify`` and the patrol do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connectors.batches import encoded, unreadable
from connectors.registry import open_source
from pipeline.cli.assembly import Models, Parts, connector_state, log_identity, same_log
from pipeline.config import SourceConfig
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker
from pipeline.embedding.models import located, tokenizer_of
from pipeline.errors import CollectionMissing, ConfigError, FingerprintMismatch, Poison, Transient
from pipeline.generations import requests
from pipeline.generations.control import Generation, read
from pipeline.generations.gate import applied, caught_up, unserved
from pipeline.identity import DocumentKey, version_of
from pipeline.ports import Collection, Embedder, Fetched
from pipeline.records import DocumentChanged, Provenance
from pipeline.verification import EXAMPLES, UNSERVED, Verdict, repair, verify
from pipeline.verification.checkpoint import Checkpoint, Of, checkpoint_path
from pipeline.verification.full import full
from pipeline.verification.log import ends_of
from pipeline.verification.sources import compare_sources
from pipeline.verification.vectors import VectorCheck, sample

At = Callable[[str, int, int], None]
"""Told the phase, how far it is, of how much (0: not known); what it raises ends the verification."""

#: After a repair so many documents are looked at again, one by one; of more, all.
_AGAIN: Final = 100_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do beside comparing counts."""

    fix: bool = False
    full: bool = False
    sample: int = 0
    seed: int = 0
    sources: bool = False
    strict: bool = False
    """Incomplete, failed and omitted documents count as findings, and counts that no document explains."""
    wait_seconds: float = 60.0
    """How long the generation may take to catch up with what the log has now."""


class Examination:
    """One verification of one generation.

    Args:
        parts: broker and store, open.
        generation: which.
        models: loaded models; asked for the generation's only if texts are to be embedded.
        sources: by source id, for ``wanted.sources``.
        wanted: what to do.
        at: told how far it is.
        wait: for so many seconds, before each second look.
        pause: between pages, told how many records or points the page had.
        paced: the model as this verification may use it.
    """

    def __init__(
        self,
        parts: Parts,
        generation: Generation,
        models: Models,
        sources: Mapping[str, SourceConfig],
        wanted: Wanted,
        at: At,
        wait: Callable[[float], object] = time.sleep,
        pause: Callable[[int], object] = lambda done: None,
        paced: Callable[[Embedder], Embedder] = lambda embedder: embedder,
    ) -> None:
        self._parts = parts
        self._generation = generation
        self._models = models
        self._sources = sources
        self._wanted = wanted
        self._at = at
        self._wait = wait
        self._pause = pause
        self._paced = paced
        self._topic = parts.names.documents(parts.config.pipeline.epoch)

    def run(self) -> dict[str, Any]:
        """What was found, and what was done.

        Raises:
            ConfigError: the generation's model is not on this machine, or no source is configured here.
            Transient: it is behind the log for longer than it may be, or something does not answer.
            FingerprintMismatch, LogDiverged: collection or log are not this generation's.
        """
        wanted, started, begun = self._wanted, time.time(), time.monotonic()
        same_log(self._parts)
        spec, config = self._generation.spec, self._parts.config
        if wanted.sources and not self._sources:
            raise ConfigError(
                "no source is configured here",
                "name them in the configuration, or ask while the `vectide up` that reads them runs",
            )
        self._collection = self._opened()
        self._chunk = chunker(spec, tokenizer_of(located(spec, config)))
        report: dict[str, Any] = {
            "generation": spec.id,
            "state": self._generation.state,
            "model": spec.model.name,
            "at": started,
        }
        with self._compared() as verdict:
            sampled, whole = self._looked(verdict)
            report |= verdict.as_json()
            report |= {"sample": sampled, "full": whole, "ok": _proven(verdict, sampled, whole)}
            report["unserved"] = self._unserved(verdict)
            report["sources"] = self._sourced() if wanted.sources else None
            report["repaired"] = report["again"] = None
            if wanted.fix and not report["ok"]:
                report["repaired"] = self._repaired(verdict)
                report["again"] = self._again(verdict, sampled, whole)
        report["covered"] = {partition: version_of(config.pipeline.epoch, end) for partition, end in self._ends.items()}
        report["seconds"] = round(time.monotonic() - begun, 3)
        last = report["again"] or report
        report["ahead"] = last["findings"]["ahead"]["count"]
        sources = report["sources"] or []
        differ = any(not one["ok"] and "unreached" not in one for one in sources)
        lax = last["unserved"]["count"] + last["unexplained"] if wanted.strict else 0
        report["different"] = differ or bool(lax) or not last["ok"]
        report["unproven"] = [one["source"] for one in sources if _unproven(one)]
        report["equal"] = not report["different"] and not report["unproven"]
        return report

    # ------------------------------------------------------------------------- the steps

    def _opened(self) -> Collection:
        spec, names = self._generation.spec, self._parts.names
        try:
            collection = self._parts.store.open(names.collection(spec.id))
        except CollectionMissing:
            if any(self._parts.broker.committed(names.group("embed", spec.id), names.chunks(spec.id)).values()):
                raise
            raise Transient(f"no worker has begun to build generation {spec.id}") from None
        found = collection.spec.model_fingerprint, collection.spec.chunking_fingerprint
        if found != (spec.model.fingerprint, spec.chunking.fingerprint):
            raise FingerprintMismatch(
                f"collection {collection.spec.name} is of another model or chunking than generation {spec.id}",
                "it is not this generation's; a new migration builds one that is",
            )
        return collection

    def _compared(self) -> Verdict:
        """What the log has now, once it is applied, against the collection."""
        parts, id = self._parts, self._generation.id
        ends = ends_of(parts.broker, self._topic)
        behind = caught_up(parts.broker, parts.names, id, self._topic, ends, self._wanted.wait_seconds, self._at)
        if behind:
            raise Transient(
                f"generation {id} is {behind} records behind the log, after {self._wanted.wait_seconds:.0f} s: "
                "what is not applied yet is not wrong; is a worker running?"
            )
        self._ends = ends
        return verify(
            parts.broker,
            self._topic,
            parts.config.pipeline.epoch,
            self._collection,
            ends,
            self._chunk,
            self._at,
            self._wait,
            self._pause,
            lambda: applied(parts.broker, parts.names, id),
        )

    def _looked(self, verdict: Verdict) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Texts and vectors: of all points, or of some."""
        wanted = self._wanted
        if wanted.full:
            return None, self._full(verdict, Checkpoint.load(self._checkpoint_path, self._of))
        return self._sampled(verdict, wanted.seed) if wanted.sample else None, None

    def _sampled(self, verdict: Verdict, seed: int) -> dict[str, Any]:
        """Texts and vectors of random chunks; what is wrong with their documents is found as well."""
        shown, docs = sample(
            self._collection,
            self._check(),
            self._wanted.sample,
            seed,
            lambda done, whole: self._step("vectors", done, whole),
        )
        if docs:
            # What else is wrong with these documents, and what of them a repair must not believe.
            self._full(verdict, Checkpoint(None, self._of), docs)
        return shown.as_json()

    @property
    def _of(self) -> Of:
        parts, spec = self._parts, self._generation.spec
        topic_id = log_identity(parts).topic_id
        return Of(spec.id, self._collection.spec.name, spec.model.fingerprint, self._topic, topic_id)

    @property
    def _checkpoint_path(self) -> Path:
        return checkpoint_path(self._parts.config.state, self._collection.spec.name)

    def _full(self, verdict: Verdict, checkpoint: Checkpoint, only: frozenset[str] | None = None) -> dict[str, Any]:
        shown = full(
            self._parts.broker,
            self._topic,
            self._parts.config.pipeline.epoch,
            self._collection,
            self._ends,
            self._chunk,
            self._check(),
            checkpoint,
            verdict.findings,
            only,
            lambda done, whole: self._step("points", done, whole),
            self._wait,
            self._pause,
        )
        return shown.as_json()

    def _step(self, phase: str, done: int, whole: int) -> None:
        self._at(phase, done, whole)

    def _check(self) -> VectorCheck:
        embed = self._parts.config.embed
        return VectorCheck(self._embedder(), embed.batch_tokens, embed.batch_items)

    def _embedder(self) -> Embedder:
        return self._paced(self._models.of(self._generation.spec))

    def _repaired(self, verdict: Verdict) -> dict[str, Any]:
        parts, embed = self._parts, self._parts.config.embed
        # Of another log everything is an orphan, and a verification takes time in which it can be replaced.
        same_log(parts)
        repaired = repair(
            parts.broker,
            self._topic,
            parts.config.pipeline.epoch,
            self._collection,
            self._ends,
            verdict.findings,
            self._chunk,
            lambda items: embed_all(self._embedder(), items, embed.batch_tokens, embed.batch_items),
            on_progress=lambda step, done, whole: self._at(f"repair: {step}", done, whole),
            pause=self._pause,
        )
        return repaired.as_json()

    def _again(
        self, before: Verdict, sampled: Mapping[str, Any] | None, whole: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The comparison once more, and every point of the documents that were found. Where a sample has found some,
        it has found the others of its kind as little as mended them: another sample tells.
        """
        with self._compared() as verdict:
            if self._wanted.full or self._wanted.sample:
                docs = frozenset(one.doc for one, _ in zip(before.findings, range(_AGAIN), strict=False))
                unnamed = len(docs) == _AGAIN or (whole is not None and whole["more"] > 0)
                self._full(verdict, Checkpoint(None, self._of), None if unnamed else docs)
            drawn = None
            if sampled is not None and sampled["wrong"]:
                drawn = self._sampled(verdict, _after(self._wanted.seed))
            proven = _proven(verdict, drawn, None)
            return verdict.as_json() | {"sample": drawn, "ok": proven, "unserved": self._unserved(verdict)}

    def _unserved(self, verdict: Verdict) -> dict[str, Any]:
        """Documents that are not wholly served: their heads say why."""
        count = unserved(verdict.heads)
        heads, _ = self._collection.scan_heads(None, EXAMPLES, UNSERVED) if count else ([], None)
        return {
            "count": count,
            "examples": [{"key": head.key.text, "state": head.state, "reason": head.reason} for head in heads],
        }

    def _sourced(self) -> list[dict[str, Any]]:
        """The log against the sources themselves."""
        limit = self._parts.config.pipeline.document_limit_bytes
        with ExitStack() as closing:
            sources = []
            for id, config in self._sources.items():
                sources.append(open_source(id, config, limit, connector_state(self._parts.config)))
                closing.callback(sources[-1].close)
            reports = compare_sources(
                self._parts.broker,
                self._topic,
                sources,
                _published,
                lambda what, done, whole: self._at(f"source {what}" if what != "log" else what, done, whole),
                self._wait,
                lambda: requests.suppressed(read(self._parts.broker, self._parts.names)).by,
            )
        return [one.as_json() for one in reports]


def _proven(verdict: Verdict, sampled: Mapping[str, Any] | None, whole: Mapping[str, Any] | None) -> bool:
    """Whether nothing is wrong, by whatever was looked at."""
    return verdict.ok and not (sampled and sampled["wrong"]) and not (whole and whole["more"])


def _unproven(source: Mapping[str, Any]) -> bool:
    """Whether something of it could not be held against the log."""
    return "unreached" in source or bool(source["unreadable"]["count"] or source["changing"])


def _after(seed: int) -> int:
    """Another one. By a hash: what generators draw by neighbouring seeds is alike at first."""
    return random.Random(f"after {seed}").getrandbits(32)  # noqa: S311 - nothing secret


def _published(key: DocumentKey, fetched: Fetched | Poison) -> DocumentChanged:
    """What a connector publishes of a document; when is of no matter."""
    found = unreadable(key.path, "", fetched) if isinstance(fetched, Poison) else fetched
    return encoded(key, found, Provenance(0.0))[0]
