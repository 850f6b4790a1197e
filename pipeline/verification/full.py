"""Every point of a collection against the log: heads field by field, texts at their spans, vectors by the model.

1. Read the documents topic. Each record whose version is its document's head's is cut again, and
   all of the document's points are read: head, chunks, texts, filter fields, vectors.
2. What looks wrong is looked at again, a few times; a head that has moved on is its newer record's.

What counts can show is not asked here: a document without a head, or of which the log knows nothing,
is the comparison's (:mod:`pipeline.verification.comparison`).

What can fail: the process is killed (a checkpoint tells how far it was, and what it had found); the
broker, the store or the model goes away (call again: it goes on there). Memory holds a page of
records, and a page of chunks with their vectors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from pipeline.chunking.documents import Chunk, made_of
from pipeline.identity import version_of
from pipeline.points import Head, StoredChunk
from pipeline.ports import Broker, Collection, Record
from pipeline.records import ChunkedDocument
from pipeline.sync.filters import filter_fields
from pipeline.sync.foretelling import deviation, foretold_of, listed, point_ids
from pipeline.sync.reading import embedded_text
from pipeline.verification.checkpoint import Checkpoint
from pipeline.verification.findings import Findings, Found, Kind
from pipeline.verification.judging import Seen, wrong_chunks
from pipeline.verification.log import key_of, pages_of
from pipeline.verification.vectors import VectorCheck, wrong_text
from pipeline.verification.verdict import Pause

#: How often what looks wrong is looked at again, and seconds before each look.
LOOKS: Final = 3
LOOK_SECONDS: Final = 1.0
#: Documents and their chunks that are asked for together, and chunks of one page with their vectors.
_DOCUMENTS: Final = 64
_CHUNKS: Final = 1_024
_POINTS: Final = 256
#: Between two writes of the checkpoint: a killed process looks at so much once more.
_SAVE_SECONDS: Final = 2.0

OnProgress: TypeAlias = Callable[[int, int], None]
"""Told after each page how many points were looked at, of how many; what it raises ends it."""


@dataclass(frozen=True, slots=True)
class Full:
    """What a look at every point has shown; its findings are with the comparison's."""

    documents: int
    """Documents whose points were all looked at, tombstones included."""
    chunks: int
    """Their chunks: each text held against the log's, each vector made again."""
    resumed: bool
    """A killed verification had begun it."""
    more: int
    """Findings that a kill has left only as a number."""
    unchecked: int = 0
    """Chunks whose text the model cannot embed here: their vectors were not held against it."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "documents": self.documents,
            "chunks": self.chunks,
            "resumed": self.resumed,
            "more": self.more,
            "unchecked": self.unchecked,
        }


def full(
    broker: Broker,
    topic: str,
    epoch: int,
    collection: Collection,
    ends: Mapping[int, int],
    chunk: Chunk,
    check: VectorCheck,
    checkpoint: Checkpoint,
    findings: Findings,
    only: Container[str] | None = None,
    on_progress: OnProgress = lambda done, whole: None,
    wait: Callable[[float], object] = time.sleep,
    pause: Pause = lambda done: None,
) -> Full:
    """Look at every point of the documents that the log has below ``ends``; nothing is written.

    Args:
        broker: has the log.
        topic: of the documents.
        epoch: of that topic.
        collection: of a generation that has committed everything below ``ends``, in both stages.
        ends: by partition, the next offset of the topic at some moment before.
        chunk: the generation's chunker.
        check: with the generation's model.
        checkpoint: where a killed one was; it is kept up, and removed at the end.
        findings: what is found is added.
        only: these documents, by their ids; None: all.
        on_progress: told after every page.
        wait: for so many seconds, before each second look.
        pause: between pages.

    Raises:
        Transient: the broker, the store or the model does not answer, or there is no room for the
            checkpoint; call again with the checkpoint as it is.
        StoreBusy, NewerSchema: likewise, when that has passed.
        Fatal: the model fails on any text.
    """
    with Findings() as found:
        return _Full(
            broker,
            topic,
            epoch,
            collection,
            ends,
            chunk,
            check,
            checkpoint,
            findings,
            found,
            only,
            on_progress,
            wait,
            pause,
        ).run()


class _Placed(NamedTuple):
    """What a record leads to, and where it is."""

    document: ChunkedDocument
    partition: int
    offset: int

    @property
    def doc(self) -> str:
        return self.document.key.doc


_Wrong: TypeAlias = dict[Kind, set[str]]
"""What is wrong with a document: kinds, each with the content hashes of the chunks that are, if they matter."""


class _Full:
    def __init__(
        self,
        broker: Broker,
        topic: str,
        epoch: int,
        collection: Collection,
        ends: Mapping[int, int],
        chunk: Chunk,
        check: VectorCheck,
        checkpoint: Checkpoint,
        findings: Findings,
        found: Findings,
        only: Container[str] | None,
        on_progress: OnProgress,
        wait: Callable[[float], object],
        pause: Pause,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._epoch = epoch
        self._collection = collection
        self._ends = ends
        self._chunk = chunk
        self._check = check
        self._checkpoint = checkpoint
        self._findings = findings
        # Apart until the end: with the stamps of the heads, by which it is told who has moved on.
        self._found = found
        self._only = only
        self._on_progress = on_progress
        self._wait = wait
        self._pause = pause
        self._saved = time.monotonic()

    def run(self) -> Full:
        point, resumed, more = self._checkpoint, self._checkpoint.begun, self._checkpoint.more
        self._found.add(point.found)
        whole = sum(self._collection.count_heads().values()) + self._collection.count_chunks()
        with closing(pages_of(self._broker, self._topic, dict(point.reached))) as pages:
            for records in pages:
                self._page([record for record in records if record.offset < self._ends[record.partition]])
                for record in records:
                    point.reached[record.partition] = record.offset + 1
                self._pause(len(records))
                self._on_progress(min(whole, point.documents + point.chunks), whole)
                if time.monotonic() - self._saved >= _SAVE_SECONDS:
                    point.save()
                    self._saved = time.monotonic()
                if all(point.reached.get(partition, 0) >= end for partition, end in self._ends.items()):
                    break
        for found in self._found.pages():
            self._findings.add(self._standing(found))
        point.remove()
        return Full(point.documents, point.chunks, resumed, more, point.unchecked)

    def _page(self, records: Sequence[Record]) -> None:
        """Those records of a page that their documents' heads are of, in groups whose points are read together."""
        keys = {record.key: key for record in records if (key := key_of(record)) is not None}
        wanted = [key.doc for key in keys.values() if self._only is None or key.doc in self._only]
        heads = self._collection.heads(wanted) if wanted else {}
        group: list[_Placed] = []
        doubtful: list[_Placed] = []
        for record in records:
            head = heads.get(keys[record.key].doc) if record.key in keys else None
            # Before it is cut: of a log that is not compacted most records are of older versions.
            if head is None or head.version != version_of(self._epoch, record.offset):
                continue
            document = made_of(record, head.version, self._collection.spec.generation, self._chunk).document
            if document is None:
                continue
            group.append(_Placed(document, record.partition, record.offset))
            if len(group) >= _DOCUMENTS or sum(len(one.document.chunks) for one in group) >= _CHUNKS:
                doubtful += self._doubtful(group, heads)
                group = []
        doubtful += self._doubtful(group, heads)
        self._look_again(doubtful)

    def _doubtful(self, group: Sequence[_Placed], heads: Mapping[str, Head]) -> list[_Placed]:
        wrong, chunks, unchecked = self._look(group, heads)
        self._checkpoint.documents += len(group)
        self._checkpoint.chunks += chunks
        self._checkpoint.unchecked += unchecked
        return [one for one in group if one.doc in wrong]

    def _look_again(self, doubtful: list[_Placed]) -> None:
        wrong: dict[str, tuple[Head, _Wrong]] = {}
        for _ in range(LOOKS if doubtful else 0):
            self._wait(LOOK_SECONDS)
            wrong = {}
            for start in range(0, len(doubtful), _DOCUMENTS):
                group = doubtful[start : start + _DOCUMENTS]
                wrong.update(self._look(group, self._collection.heads([one.doc for one in group]))[0])
            doubtful = [one for one in doubtful if one.doc in wrong]
            if not doubtful:
                return
        found = [
            Found(one.doc, kind, head.key, head.stamp, (one.partition, one.offset), frozenset(contents))
            for one in doubtful
            for head, kinds in [wrong[one.doc]]
            for kind, contents in kinds.items()
        ]
        self._found.add(found)
        self._checkpoint.add(found)

    def _standing(self, found: Sequence[Found]) -> list[Found]:
        """Findings whose document nobody has written since: a verification can take a day."""
        heads = self._collection.heads(list({one.doc for one in found}))
        return [one for one in found if one.doc in heads and heads[one.doc].stamp == one.stamp]

    # ------------------------------------------------------------------------ one group

    def _look(
        self, group: Sequence[_Placed], heads: Mapping[str, Head]
    ) -> tuple[dict[str, tuple[Head, _Wrong]], int, int]:
        """What is wrong with documents whose heads are at their records' versions; how many chunks they have, and how
        many of these the model cannot embed.
        """
        looks: dict[str, _Look] = {}
        for one in group:
            head = heads.get(one.doc)
            if head is not None and head.version == one.document.version:
                covered = version_of(self._epoch, self._ends[one.partition])
                looks[one.doc] = _Look(one.document, head, self._collection.spec.filter_fields, covered)
        chunks, unchecked, after, docs = 0, 0, None, list(looks)
        while docs:
            page, after = self._collection.scan_chunks(after, _POINTS, docs, vectors=True)
            chunks += len(page)
            self._pause(len(page))
            judged = {one.id: one for one in page if looks[one.doc].see(one)}
            checked = self._check.checked(list(judged.values()))
            unchecked += len(checked.unchecked)
            for id in checked.wrong:
                looks[judged[id].doc].wrong_vector(id)
            if after is None:
                break
        found = {doc: (look.head, look.end()) for doc, look in looks.items()}
        return {doc: one for doc, one in found.items() if one[1]}, chunks, unchecked


class _Look:
    """One look at one document: its head, then each of its chunks as it comes."""

    def __init__(self, document: ChunkedDocument, head: Head, declared: Mapping[str, Any], covered: int) -> None:
        self.head = head
        self._document = document
        self._covered = covered
        self._wrong: _Wrong = {}
        self._seen: list[Seen] = []
        self._contents: dict[str, str] = {}
        self._listed = {chunk.id for chunk in head.chunks}
        ids = point_ids(document)
        # Of a failed version the list is an older one's, whose text may be gone from the log.
        own = head.state in ("complete", "incomplete")
        self._spans = {id: span for id, span in zip(ids, document.chunks, strict=True) if own and id in self._listed}
        self._judge_head(ids, declared)

    def see(self, chunk: StoredChunk) -> bool:
        """Hold a chunk against its head and its text; True if its vector is to be looked at."""
        self._seen.append(Seen(chunk.id, chunk.stamp, chunk.content_hash, chunk.filter_hash))
        if chunk.id not in self._listed:
            return False
        span = self._spans.get(chunk.id)
        content = self._contents[chunk.id] = chunk.content_hash if span is None else span.content_hash
        if chunk.filter_hash == self.head.filter_hash and not same_values(chunk.filters, self.head.filters):
            # Values that are not those of their hash: no align mends them, so the chunk is written again.
            self._note("wrong metadata", content)
        if span is None:
            if wrong_text(chunk, self.head):
                self._note("wrong text", content)
        elif (chunk.text, chunk.content_hash) != (embedded_text(self._document, span), span.content_hash):
            self._note("wrong text", content)
        return True

    def wrong_vector(self, id: str) -> None:
        """Its vector is not what its text makes."""
        self._note("wrong vector", self._contents[id])

    def end(self) -> _Wrong:
        """What was found, once all of the document's chunks were seen."""
        for kind in wrong_chunks(self.head, self._seen, self._covered, replayed=True):
            self._note(kind)
        return self._wrong

    def _note(self, kind: Kind, *contents: str) -> None:
        self._wrong.setdefault(kind, set()).update(contents)

    def _judge_head(self, ids: Sequence[str], declared: Mapping[str, Any]) -> None:
        head, document = self.head, self._document
        fields = filter_fields(document, declared)
        match deviation(head, foretold_of(document, ids, fields)):
            case "state":
                self._note("orphan" if document.state == "deleted" else "missing")
                return
            case "list":
                self._note("wrong list")
            case "metadata":
                self._note("wrong metadata")
        # What no digest covers: values that are not those of their hash, and when it happened.
        told = {**fields.values, "event time": document.provenance.event_time}
        if not same_values({**head.filters, "event time": head.event_time}, told):
            self._note("wrong metadata")
        if document.state == "chunked" and head.state == "incomplete":
            wanted = [one for place, one in enumerate(listed(document, ids)) if place not in head.missing]
            if list(head.chunks) != wanted:
                self._note("wrong list")


def same_values(stored: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Equal, but for the last bit of a number: an engine reads some of its own decimals one off."""
    return stored.keys() == told.keys() and all(
        math.isclose(one, told[name], rel_tol=1e-12)
        if isinstance(one, float) and isinstance(told[name], int | float)
        else one == told[name]
        for name, one in stored.items()
    )
