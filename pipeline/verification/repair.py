"""Repair: what was found wrong is made right by the store protocol, while everything else goes on.

1. Read the log once more, to its end now, for the last record of each document that was found. One
   that has a newer record than the verification covered is on its way: it is left to the pipeline.
2. Sweep what heads do not list. Of documents that the log does not have, a tombstone goes over the
   head, and chunks without a head are swept up to the stamp that was seen.
3. Run the version that the log has again, as a replay, at the head's attempt + 1.

Each of these is fenced by stamps like any writer's: it can do nothing to a newer version, and what
is killed in the middle leaves what a killed worker leaves.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from pipeline.chunking.documents import Chunk, made_of
from pipeline.identity import version_of
from pipeline.points import Head, Vectors
from pipeline.ports import Broker, Collection, Record
from pipeline.records import ChunkedDocument, Provenance
from pipeline.sync import Distrust, Embed, ToEmbed, sweep_headless, synchronise
from pipeline.sync import repair as settle
from pipeline.sync.filters import filter_fields
from pipeline.sync.reading import embedded_text
from pipeline.verification.findings import EXAMPLES, Findings, Found, Kind
from pipeline.verification.full import same_values
from pipeline.verification.log import key_of, pages_of
from pipeline.verification.temporary import room, temporary_file
from pipeline.verification.verdict import OnProgress, Pause

#: Documents, and characters of their texts, that are run together: a worker's own batch is as large.
_DOCUMENTS: Final = 64
_CHARACTERS: Final = 4 * 1024 * 1024

_TABLE: Final = """
CREATE TABLE records (
    doc TEXT PRIMARY KEY, partition INTEGER NOT NULL, offset INTEGER NOT NULL, beyond INTEGER NOT NULL,
    empty INTEGER NOT NULL) WITHOUT ROWID;
"""


Standing: TypeAlias = Literal["said", "gone", "on its way"]
"""The last record of a document: below the verification's ends, a null there, or beyond them."""


@dataclass(slots=True)
class Repaired:
    """What a repair has done; verify again to see what is left."""

    documents: Counter[str] = field(default_factory=Counter)
    """Documents by what was done: a result of the store protocol (``complete``, ``deleted`` ...),
    ``swept``, ``on its way`` (a newer record will do it) or ``left``.
    """
    embedded: int = 0
    """Chunks whose vectors came from the model."""
    left: list[str] = field(default_factory=list)
    """Of those that were left, some names, each with the reason."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"documents": dict(self.documents), "embedded": self.embedded, "left": list(self.left)}


def repair(
    broker: Broker,
    topic: str,
    epoch: int,
    collection: Collection,
    ends: Mapping[int, int],
    findings: Findings,
    chunk: Chunk,
    embed: Embed,
    siblings: Sequence[Collection] = (),
    on_progress: OnProgress = lambda step, done, whole: None,
    pause: Pause = lambda done: None,
) -> Repaired:
    """Make documents that were found wrong what the log says, and touch nothing else.

    Args:
        broker: has the log.
        topic: of the documents.
        epoch: of that topic.
        collection: of the generation.
        ends: as the verification had them.
        findings: of the verification, and of any other check; they stay as they are.
        chunk: the generation's chunker.
        embed: the generation's model.
        siblings: collections that may hold vectors of the same model.
        on_progress: told after every page.
        pause: between pages.

    Raises:
        Transient: the broker, the store or the model does not answer, or there is no room for the
            temporary file: verify and repair again.
        StoreBusy, NewerSchema: likewise, when that has passed.
    """
    if not findings:
        return Repaired()
    file = temporary_file(_TABLE)
    with closing(file):
        log = _Log(file, broker, topic, ends, findings, on_progress, pause)
        log.look()
        work = _Repair(epoch, collection, chunk, embed, siblings, findings, log, on_progress, pause)
        work.clear()
        work.replay()
    if not collection.flush_each_batch:
        collection.flush()
    return work.done


class _Log:
    """Where the last record of each document that was found is now."""

    def __init__(
        self,
        file: sqlite3.Connection,
        broker: Broker,
        topic: str,
        ends: Mapping[int, int],
        findings: Findings,
        on_progress: OnProgress,
        pause: Pause,
    ) -> None:
        self._file = file
        self._broker = broker
        self._topic = topic
        self._ends = ends
        self._findings = findings
        self._on_progress = on_progress
        self._pause = pause
        earliest = findings.earliest()
        self._start = {partition: min(end, earliest.get(partition, end)) for partition, end in ends.items()}

    def look(self) -> None:
        """Read to the end; a null beyond the verification's ends is no version."""
        with closing(self._pages()) as pages:
            for records in pages:
                rows = []
                for record in records:
                    key = key_of(record)
                    beyond = record.offset >= self._ends[record.partition]
                    if key is not None and not (beyond and record.value is None):
                        rows.append((key.doc, record.partition, record.offset, beyond, record.value is None))
                wrong = {one.doc for one in self._findings.of([row[0] for row in rows])}
                with room():
                    self._file.executemany(
                        "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)",
                        [row for row in rows if row[0] in wrong],
                    )

    def standing(self, docs: Sequence[str]) -> dict[str, Standing]:
        """What the log says of each now; those of which nothing was read are left out."""
        marks = ", ".join("?" * len(docs))
        with room():
            rows = self._file.execute(
                f"SELECT doc, beyond, empty FROM records WHERE doc IN ({marks})",  # noqa: S608 - question marks
                list(docs),
            ).fetchall()
        return {doc: "on its way" if beyond else "gone" if empty else "said" for doc, beyond, empty in rows}

    def last(self) -> Iterator[Record]:
        """The last record of each document that has one below the ends, nulls left out."""
        with closing(self._pages()) as pages:
            for records in pages:
                for record in records:
                    key = key_of(record)
                    if key is None:
                        continue
                    with room():
                        found = self._file.execute(
                            "SELECT 1 FROM records WHERE doc = ? AND partition = ? AND offset = ? "
                            "AND NOT beyond AND NOT empty",
                            (key.doc, record.partition, record.offset),
                        ).fetchone()
                    if found is not None:
                        yield record

    def _pages(self) -> Generator[list[Record]]:
        done, whole = 0, sum(end - self._start[partition] for partition, end in self._ends.items())
        with closing(pages_of(self._broker, self._topic, self._start)) as pages:
            for records in pages:
                yield records
                done += len(records)
                self._on_progress("log", min(done, whole), whole)
                self._pause(len(records))


class _Repair:
    """One repair."""

    def __init__(
        self,
        epoch: int,
        collection: Collection,
        chunk: Chunk,
        embed: Embed,
        siblings: Sequence[Collection],
        findings: Findings,
        log: _Log,
        on_progress: OnProgress,
        pause: Pause,
    ) -> None:
        self._epoch = epoch
        self._collection = collection
        self._chunk = chunk
        self._embed = embed
        self._siblings = siblings
        self._findings = findings
        self._log = log
        self._on_progress = on_progress
        self._pause = pause
        self._whole = findings.documents()
        # Of a log that has lost records nobody knows whether it has lost these documents' as well.
        self._lost = findings.named()["ahead"].count > 0
        self.done = Repaired()

    # -------------------------------------------------------------- 2. what is too much

    def clear(self) -> None:
        """What nobody lists goes first: a point of one document can lie where another's must be."""
        for page in self._findings.pages(_DOCUMENTS):
            found = _by_document(page)
            standing = self._log.standing(list(found))
            too_much = [
                doc
                for doc, wrong in found.items()
                if {"orphan", "duplicate"} & _kinds(wrong) and standing.get(doc) != "on its way"
                if not (self._lost and _unknown(wrong, standing.get(doc)))
            ]
            heads = self._collection.heads(too_much)
            settle(self._collection, list(heads))
            unknown = [doc for doc in too_much if _unknown(found[doc], standing.get(doc))]
            headless = {doc: max(one.stamp for one in found[doc]) for doc in unknown if doc not in heads}
            swept = sweep_headless(self._collection, headless)
            self._count(dict.fromkeys(swept, "swept"))
            live = [heads[doc] for doc in unknown if doc in heads and heads[doc].state != "deleted"]
            self._run([self._tombstone(head) for head in live], found)
            self._count({doc: "swept" for doc in unknown if doc in heads and heads[doc].state == "deleted"})
            self._count({doc: "on its way" for doc in found if standing.get(doc) == "on its way"})
            for doc, wrong in found.items():
                self._give_up(wrong, standing.get(doc))

    def _tombstone(self, head: Head) -> ChunkedDocument:
        generation, happened = self._collection.spec.generation, Provenance(head.event_time)
        return ChunkedDocument(head.key, head.version, generation, "deleted", happened, replay=True)

    def _give_up(self, wrong: Sequence[Found], standing: Standing | None) -> None:
        if "ahead" in _kinds(wrong):
            self._leave(wrong[0], "its head is above the log, which has lost records")
        elif self._lost and _unknown(wrong, standing):
            self._leave(wrong[0], "the log has lost records, and perhaps its own")
        elif standing in (None, "gone") and not _unknown(wrong, standing):
            self._leave(wrong[0], "its record is not in the log any more; verify again")

    # ------------------------------------------------------------------------ 3. replays

    def replay(self) -> None:
        """Run what the log has again."""
        batch: list[ChunkedDocument] = []
        size = 0
        for record in self._log.last():
            version = version_of(self._epoch, record.offset)
            document = made_of(record, version, self._collection.spec.generation, self._chunk).document
            if document is None:
                continue
            batch.append(replace(document, replay=True))
            size += len(document.text)
            if len(batch) >= _DOCUMENTS or size >= _CHARACTERS:
                self._replay(batch)
                batch, size = [], 0
        self._replay(batch)

    def _replay(self, documents: Sequence[ChunkedDocument]) -> None:
        found = _by_document(self._findings.of([document.key.doc for document in documents]))
        self._run([one for one in documents if "ahead" not in _kinds(found[one.key.doc])], found)

    def _run(self, documents: Sequence[ChunkedDocument], found: Mapping[str, Sequence[Found]]) -> None:
        """Through the whole protocol, and count what came of it."""
        distrusted = self._distrusted(documents, found)
        vectors, failed = self._made(documents, distrusted)
        refused = {doc: why for doc, contents in distrusted.items() for why in map(failed.get, contents) if why}
        for doc, why in refused.items():
            self._leave(found[doc][0], f"the model cannot embed a text of it here: {why}")
        documents = [one for one in documents if one.key.doc not in refused]
        if not documents:
            return
        outcomes = synchronise(
            self._collection,
            documents,
            lambda items: self._embedded(items, vectors),
            self._siblings,
            donor_seconds=0.0,
            distrusted=distrusted,
        )
        results = {}
        for outcome in outcomes:
            self.done.embedded += outcome.embedded
            doc = outcome.document.key.doc
            if outcome.poison is not None:
                self._leave(found[doc][0], str(outcome.poison))
            elif _contents(found[doc]) - _own(outcome.document):
                self._leave(
                    found[doc][0], "it serves chunks of an older version, whose text the log need not have any more"
                )
            else:
                results[doc] = str(outcome.result)
        self._count(results)
        self._pause(len(documents))

    def _made(
        self, documents: Sequence[ChunkedDocument], distrusted: Distrust
    ) -> tuple[Mapping[str, Vectors], Mapping[str, str]]:
        """Vectors of what is not believed, before anything is written: a point that is there is better than none."""
        items = {
            span.content_hash: ToEmbed(span.content_hash, embedded_text(document, span), span.tokens)
            for document in documents
            for span in document.chunks
            if span.content_hash in distrusted.get(document.key.doc, ())
        }
        return self._embed(list(items.values())) if items else ({}, {})

    def _embedded(
        self, items: Sequence[ToEmbed], made: Mapping[str, Vectors]
    ) -> tuple[Mapping[str, Vectors], Mapping[str, str]]:
        others = [item for item in items if item.content_hash not in made]
        vectors, failed = self._embed(others) if others else ({}, {})
        return {**made, **vectors}, failed

    def _distrusted(
        self, documents: Sequence[ChunkedDocument], found: Mapping[str, Sequence[Found]]
    ) -> dict[str, frozenset[str]]:
        """Documents that must run again although no digest of their heads says so, with what of them is not believed:
        wrong vectors, or nothing where a chunk is above the head, out of reach of step 5, or where the head's values
        are not those of their hash. Each spends an attempt, of which there are few: none without need.
        """
        heads = self._collection.heads([document.key.doc for document in documents])
        distrusted = {}
        for document in documents:
            doc = document.key.doc
            contents = _contents(found[doc]) & _own(document)
            head = heads.get(doc)
            above = head is not None and max(one.stamp for one in found[doc]) > head.stamp
            if contents or above or (head is not None and self._other_values(head, document)):
                distrusted[doc] = contents
        return distrusted

    def _other_values(self, head: Head, document: ChunkedDocument) -> bool:
        told = filter_fields(document, self._collection.spec.filter_fields).values
        return (
            head.version == document.version
            and document.state != "deleted"
            and not (same_values(head.filters, told) and head.event_time == document.provenance.event_time)
        )

    # -------------------------------------------------------------------------- private

    def _count(self, results: Mapping[str, str]) -> None:
        self.done.documents.update(results.values())
        if results:
            self._on_progress("repairs", self.done.documents.total(), self._whole)

    def _leave(self, found: Found, reason: str) -> None:
        if len(self.done.left) < EXAMPLES:
            self.done.left.append(f"{found.name}: {reason}")
        self._count({found.doc: "left"})


def _by_document(page: Sequence[Found]) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    for one in page:
        found.setdefault(one.doc, []).append(one)
    return found


def _contents(wrong: Sequence[Found]) -> frozenset[str]:
    return frozenset[str]().union(*(one.contents for one in wrong))


def _own(document: ChunkedDocument) -> frozenset[str]:
    """The content hashes that a version has itself."""
    return frozenset(span.content_hash for span in document.chunks)


def _kinds(wrong: Sequence[Found]) -> set[Kind]:
    return {one.kind for one in wrong}


def _unknown(wrong: Sequence[Found], standing: Standing | None) -> bool:
    """Whether the log has nothing of a document but, perhaps, a null; neither below the ends, as the
    verification found, nor beyond them.
    """
    nowhere = standing is None and all(one.place is None for one in wrong)
    return "orphan" in _kinds(wrong) and (nowhere or standing == "gone")
