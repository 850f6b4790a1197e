"""Somebody who asks throughout, through ``vectide serve``, and holds every answer against the truth.

What is a violation, with the target of tests.soak.weather in seconds (none behind a quiet point):

* a hit whose text its document has not had for longer than the target (deleted, superseded);
* a hit for a group that its document has not been of for longer than the target (revoked);
* a text that has been there for longer than the target and is not found (empty);
* a score that the model of the answering generation does not give (mixed spaces);
* a search that fails while the service runs and the store is there.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.chunking.documents import Chunk
from pipeline.embedding.generation import chunker
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import VectideError
from pipeline.identity import DocumentKey
from tests.soak.cluster import Cluster
from tests.soak.truth import MARKER, Change, Span, Truth, asked
from tests.soak.weather import STORM_TARGET, Kind, Weather

_TOP = 20
_ASK_SECONDS = 30.0
#: Until it is known that the machine was taken.
_NEWS_SECONDS = 1.0
#: Changes that are timed at once.
_PROBES = 4
#: float32 in the store against float32 here.
_SCORE = 2e-3


class Failed(Exception):
    """No answer, or a refusal."""


class Searches:
    """One connection to the service."""

    def __init__(self, cluster: Cluster) -> None:
        self._service = cluster.workers["serve"]
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, marker: int, group: str | None = None) -> dict[str, Any]:
        """An answer. Raises Failed."""
        body = {"query": asked(marker), "top": _TOP, **({"filter": [f"group={group}"]} if group else {})}
        kept = self._connection is not None
        try:
            status, text = self._asked(body)
        except (ConnectionError, http.client.BadStatusLine) as error:
            self.close()
            if not kept:
                raise Failed(f"{type(error).__name__}: {error}") from None
            return self.ask(marker, group)  # the service was another one, or had closed what was long idle
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Failed(f"{type(error).__name__}: {error}") from None
        if status != 200:
            raise Failed(f"{status}: {text[:300].decode(errors='replace')}")
        found: dict[str, Any] = json.loads(text)
        return found

    def _asked(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if self._connection is None:
            url = urlsplit(self._service.url)
            if url.hostname is None:
                raise Failed("not started")
            self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=_ASK_SECONDS)
        self._connection.request("POST", "/search", json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """The next question makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Searcher:
    """Asks, judges and times, in two threads that rest for a while between two questions."""

    def __init__(
        self, cluster: Cluster, truth: Truth, weather: Weather, rng: random.Random, rest_seconds: float
    ) -> None:
        self._cluster = cluster
        self._truth = truth
        self._weather = weather
        self._rng = rng
        self._rest_seconds = rest_seconds
        self._stop = threading.Event()
        self._models: dict[str, tuple[HashingEmbedder, Chunk]] = {}
        self._tokenizer = tokenizer_of(cluster.parts.config.model)
        self.counts: Counter[str] = Counter()
        self.freshness: dict[Kind, list[float]] = {"calm": [], "starved": [], "storm": []}
        self.untimed: dict[Kind, Counter[str]] = {kind: Counter() for kind in self.freshness}
        """Changes whose timing was given up, by why: the freshness of what was timed says nothing of these."""
        self.passed_over = 0
        """Changes that were never asked for: so many others were being timed."""
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._asking, self._timing)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    # ------------------------------------------------------------------------- asking

    def _asking(self) -> None:
        searches = Searches(self._cluster)
        while not self._stop.wait(self._rest_seconds):
            try:
                self._question(searches)
            except Exception as error:
                self._cluster.events.violation("harness", f"searcher: {type(error).__name__}: {error}")
        searches.close()

    def _question(self, searches: Searches) -> None:
        kind = self._rng.choices(["known", "in group", "ended", "revoked"], weights=[4, 2, 3, 3])[0]
        marker, group, path = 0, None, ""
        with self._truth.lock:
            if kind in ("known", "in group"):
                paths = list(self._truth.documents)
                path = self._rng.choice(paths)
                document = self._truth.documents[path]
                marker = self._rng.choice(document.paragraphs)[0]
                group = document.group if kind == "in group" else None
            elif kind == "ended" and self._truth.ended:
                marker = self._rng.choice(self._truth.ended)[1]
            elif kind == "revoked" and self._truth.revoked:
                _, group, marker = self._rng.choice(self._truth.revoked)
            else:
                return
        answer = self.answered(searches, marker, group)
        if answer is not None and path and document.poison == "":
            self._must_have(answer, path, marker, group)

    def answered(self, searches: Searches, marker: int, group: str | None) -> dict[str, Any] | None:
        """An answer that has been judged; None if there is none."""
        began = time.monotonic()
        try:
            answer = searches.ask(marker, group)
        except Failed as failure:
            now = time.monotonic()
            time.sleep(_NEWS_SECONDS)
            if self._cluster.workers["serve"].away(began - 1.0, now):
                self.counts["failed while the service was killed"] += 1
            elif self._weather.starved_between(began, now):
                self.counts["failed while the machine was taken"] += 1
            else:
                self._cluster.events.violation("search failed", f"after {now - began:.1f} s: {failure}")
            return None
        answer["began"] = began
        self.counts["searches"] += 1
        for hit in answer["hits"]:
            self._judge(hit, answer, group)
        self._score(answer, marker)
        return answer

    def _must_have(self, answer: dict[str, Any], path: str, marker: int, group: str | None) -> None:
        began = answer["began"]
        with self._truth.lock:
            span = self._truth.texts.get((path, marker), Span())
            spans = [span] if group is None else [span, self._truth.groups.get((path, group), Span())]
            since = max(one.since for one in spans)
            ended = any(one.until < float("inf") for one in spans)
            copies = sum(1 for document in self._truth.documents.values() if marker in document.markers)
        if ended or began - since <= self._weather.target(since, began) or copies > _TOP // 4:
            return
        self.counts["known documents asked for"] += 1
        found = [hit for hit in answer["hits"] if hit["key"] == f"docs:{path}" and f"mk{marker}a" in hit["text"]]
        if not found:
            # Words of several paragraphs can meet in one place of a vector and cancel each other out.
            if len(answer["hits"]) == _TOP and self._due(answer, path, marker) <= answer["hits"][-1]["score"] + _SCORE:
                self.counts["paragraphs that do not stand out"] += 1
                return
            self._cluster.events.violation(
                "empty",
                f"{path} has had paragraph {marker} for {began - since:.1f} s and was not found",
                group=group,
                answer=answer,
            )

    def _due(self, answer: dict[str, Any], path: str, marker: int) -> float:
        """The score that the paragraph must have, by its chunk in any of the document's last versions."""
        model = self._model(answer["generation"])
        if model is None:
            return -1.0
        embedder, cut = model
        query = embedder.embed_query(asked(marker))
        with self._truth.lock:
            versions = [one for one in self._truth.versions[path] if marker in one.markers]
        best = []
        for text in (document.text for document in versions):
            chunks = [span.context + text[span.start : span.end] for span in cut(text, "text/markdown")]
            vectors = embedder.embed_documents([chunk for chunk in chunks if f"mk{marker}a" in chunk])
            best.append(max(float(np.dot(query, vector)) for vector in vectors))
        return min(best)

    def _judge(self, hit: dict[str, Any], answer: dict[str, Any], group: str | None) -> None:
        path = DocumentKey.from_text(hit["key"]).path
        began = answer["began"]
        for marker in map(int, MARKER.findall(hit["text"])):
            self._aged("text", path, self._truth.texts.get((path, marker)), began, hit, answer)
        if group is not None:
            self._aged("group", path, self._truth.groups.get((path, group)), began, hit, answer)
            if hit["metadata"].get("group") != group:
                self._cluster.events.violation("revoked", f"{path} is not of {group} by its own metadata", hit=hit)
        said = hit["metadata"].get("group", "")
        self._aged("group", path, self._truth.groups.get((path, said)), began, hit, answer)

    def _aged(
        self, what: str, path: str, span: Span | None, began: float, hit: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        if span is None:
            self._cluster.events.violation("unknown", f"{path} never had this {what}", hit=hit)
            return
        with self._truth.lock:
            until, why = span.until, span.why
        age = began - until
        if age > 0:
            self.counts["hits that were older, within the target"] += 1
        if age > self._weather.target(until, began):
            time.sleep(_NEWS_SECONDS)
        if age > self._weather.target(until, began):
            kind = "revoked" if what == "group" else "deleted" if why == "delete" else "superseded"
            text = f"{path}: {what} ended {age:.1f} s before the search, by {why}"
            self._cluster.events.violation(kind, text, hit=hit, generation=answer["generation"])

    def _score(self, answer: dict[str, Any], marker: int) -> None:
        """By the model of the generation that answers; a vector of another one gives another score."""
        hits = answer["hits"]
        if not hits:
            return
        model = self._model(answer["generation"])
        if model is None:
            self.counts["scores not checked, as control could not be read"] += len(hits)
            return
        embedder, _ = model
        query = embedder.embed_query(asked(marker))
        texts = [_embedded(hit) for hit in hits]
        vectors = embedder.embed_documents([text for one in texts for text in one])  # of 20 hits: 1 ms
        products = iter((vectors @ query).tolist())
        for hit, one in zip(hits, texts, strict=True):
            scores = [next(products) for _ in one]
            # Not the other way round: a score that is not a number is within nothing.
            if not min(abs(score - hit["score"]) for score in scores) <= _SCORE:
                text = f"{hit['key']}: {hit['score']} is none of {scores}"
                self._cluster.events.violation("mixed space", text, hit=hit, generation=answer["generation"])
        self.counts["scores checked"] += len(hits)

    def _model(self, generation: str) -> tuple[HashingEmbedder, Chunk] | None:
        if generation not in self._models:
            try:
                spec = self._cluster.control().generations[generation].spec
            except (VectideError, KeyError):
                return None
            self._models[generation] = HashingEmbedder(spec.model, self._tokenizer), chunker(spec, self._tokenizer)
        return self._models[generation]

    # ------------------------------------------------------------------------- timing

    def _timing(self) -> None:
        searches = Searches(self._cluster)
        pending: list[Change] = []
        while not self._stop.wait(self._rest_seconds):
            with self._truth.lock:
                while len(pending) < _PROBES and self._truth.changes:
                    pending.append(self._truth.changes.pop())
                self.passed_over += len(self._truth.changes)
                self._truth.changes.clear()
            pending = [change for change in pending if self._stop.is_set() or not self._over(searches, change)]
        for change in pending:
            self._gives_up(change, "the run ended")
        searches.close()

    def _over(self, searches: Searches, change: Change) -> bool:
        try:
            return self._timed(searches, change)
        except Exception as error:
            self._cluster.events.violation("harness", f"timing: {type(error).__name__}: {error}")
            return True

    def _timed(self, searches: Searches, change: Change) -> bool:
        """True once it is over."""
        answer = self.answered(searches, change.marker, None)
        with self._truth.lock:
            span = self._truth.texts[change.path, change.marker]
            overtaken = (span.until < float("inf")) != change.gone
        now = time.monotonic()
        if overtaken:
            self._gives_up(change, "overtaken by another change")
            return True
        if answer is not None:
            there = any(
                hit["key"] == f"docs:{change.path}" and f"mk{change.marker}a" in hit["text"] for hit in answer["hits"]
            )
            if there != change.gone:
                self.freshness[self._weather.between(change.at, now)].append(now - change.at)
                return True
        if now - change.at <= STORM_TARGET:
            return False
        self._gives_up(change, f"not seen for {STORM_TARGET:.0f} s")
        if answer is not None and not change.gone:  # one that ought to be gone has been judged with its answer
            self._must_have(answer, change.path, change.marker, None)
        return True

    def _gives_up(self, change: Change, why: str) -> None:
        self.untimed[self._weather.between(change.at, time.monotonic())][why] += 1


def _embedded(hit: dict[str, Any]) -> list[str]:
    """The texts that a hit's vector can be of: an answer says its headings, not how many of them were its context."""
    contexts = {" > ".join(one) + "\n\n" for one in (hit["headings"], hit["headings"][:-1]) if one}
    return [context + hit["text"] for context in sorted({"", *contexts})]
