"""Every point against the log: each planted fault is found, and a killed verification goes on where it was."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.errors import Poison, Refused, StoreUnavailable, Transient
from pipeline.identity import DocumentKey, content_hash, stamp_of, version_in
from pipeline.points import ListedChunk
from pipeline.verification import full as module
from pipeline.verification import repair
from pipeline.verification.checkpoint import KEPT, Checkpoint, Of, checkpoint_path
from pipeline.verification.findings import Findings, Found
from pipeline.verification.full import LOOKS, Full, full
from pipeline.verification.vectors import VectorCheck
from tests.contract.store_points import contents
from tests.unit.verification.corpus import SPEC, TOKENIZER, TOPIC, Corpus, opened

SEED = 20260101
DOCUMENTS = 30
OF = Of(SPEC.id, "c", SPEC.model.fingerprint, TOPIC, "topic-id")
D3 = DocumentKey("s", "d3")


def fill(corpus: Corpus) -> None:
    random_ = random.Random(SEED)
    for number in range(DOCUMENTS):
        sentences = [" ".join(f"w{random_.randrange(500)}" for _ in range(15)) + "." for _ in range(4)]
        corpus.put(f"d{number}", *sentences, title=f"T{number}", tags=["a", "b"])
    corpus.put("d0", "An edit of the first document.")
    corpus.put("gone", "Here for a while.")
    corpus.delete("gone")
    corpus.follow()


@pytest.fixture
def corpus() -> Iterator[Corpus]:
    with opened() as made:
        fill(made)
        yield made


def run(corpus: Corpus, findings: Findings, **more: Any) -> Full:
    return full(
        corpus.broker,
        TOPIC,
        0,
        corpus.collection,
        more.pop("ends", None) or corpus.ends(),
        chunker(SPEC, TOKENIZER),
        more.pop("check", corpus.check),
        more.pop("checkpoint", None) or Checkpoint(None, OF),
        findings,
        wait=more.pop("wait", lambda _: None),
        **more,
    )


def look(corpus: Corpus, **more: Any) -> tuple[Full, list[Found]]:
    with Findings() as findings:
        shown = run(corpus, findings, **more)
        return shown, list(findings)


def named(found: list[Found]) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for one in found:
        assert one.key is not None
        kinds.setdefault(one.key.path, set()).add(one.kind)
    return kinds


def test_everything_of_a_sound_collection_is_looked_at_once(corpus: Corpus) -> None:
    waits: list[float] = []
    paused: list[int] = []
    told: list[tuple[int, int]] = []
    shown, found = look(
        corpus, wait=waits.append, on_progress=lambda *numbers: told.append(numbers), pause=paused.append
    )
    assert sum(paused) == corpus.collection.count_chunks() + DOCUMENTS + 3, "chunks, and records of the log"
    points = corpus.collection.count_chunks() + sum(corpus.collection.count_heads().values())
    assert found == []
    assert shown == Full(DOCUMENTS + 1, corpus.collection.count_chunks(), resumed=False, more=0)
    assert told[-1] == (points, points)
    assert waits == []


def swap(corpus: Corpus) -> None:
    one, other = corpus.chunks(D3)[:2]
    corpus.plant(one, other.vector)


def not_a_number(corpus: Corpus) -> None:
    chunk = corpus.chunks(D3)[1]
    assert chunk.vector is not None
    corpus.plant(chunk, np.full_like(chunk.vector, np.nan))


def text(corpus: Corpus) -> None:
    corpus.plant(corpus.chunks(D3)[1], text="Something else.")


def text_and_all(corpus: Corpus) -> None:
    """A forger's work: text, hash and vector fit each other."""
    vector = corpus.model.embed_documents(["Something else."])[0]
    corpus.plant(corpus.chunks(D3)[1], vector, text="Something else.", content_hash=content_hash("Something else."))


def filters(corpus: Corpus) -> None:
    corpus.plant(corpus.chunks(D3)[1], filters={"source": "other"})


def filter_hash(corpus: Corpus) -> None:
    corpus.plant(corpus.chunks(D3)[1], filter_hash="0" * 16)


def metadata(corpus: Corpus) -> None:
    corpus.plant_head(replace(corpus.head(D3), metadata={"title": "T3", "tags": ["a"]}))


def head_filters(corpus: Corpus) -> None:
    corpus.plant_head(replace(corpus.head(D3), filters={"source": "s"}))


def event_time(corpus: Corpus) -> None:
    corpus.plant_head(replace(corpus.head(D3), event_time=2.0))


def spans(corpus: Corpus) -> None:
    head = corpus.head(D3)
    corpus.plant_head(replace(head, chunks=(replace(head.chunks[0], end=head.chunks[0].end - 1), *head.chunks[1:])))


def order(corpus: Corpus) -> None:
    head = corpus.head(D3)
    corpus.plant_head(replace(head, chunks=head.chunks[::-1]))


def missing_places(corpus: Corpus) -> None:
    """A head that calls itself complete and names a chunk as missing."""
    head = corpus.head(D3)
    corpus.plant_head(replace(head, chunks=head.chunks[:-1], missing=(len(head.chunks) - 1,)))


def lost(corpus: Corpus) -> None:
    corpus.remove(corpus.chunks(D3)[1])


def tombstone(corpus: Corpus) -> None:
    corpus.plant_head(replace(corpus.head(D3), state="deleted", chunks=()))


def undead(corpus: Corpus) -> None:
    head = corpus.head(D3)
    gone = corpus.head(DocumentKey("s", "gone"))
    corpus.plant_head(replace(head, key=gone.key, stamp=gone.stamp, chunks=()))


FAULTS: list[tuple[Callable[[Corpus], None], dict[str, set[str]]]] = [
    (swap, {"d3": {"wrong vector"}}),
    (not_a_number, {"d3": {"wrong vector"}}),
    (text, {"d3": {"wrong text", "wrong vector"}}),
    (text_and_all, {"d3": {"wrong text"}}),
    (filters, {"d3": {"wrong metadata"}}),
    (filter_hash, {"d3": {"wrong metadata"}}),
    (metadata, {"d3": {"wrong metadata"}}),
    (head_filters, {"d3": {"wrong metadata"}}),
    (event_time, {"d3": {"wrong metadata"}}),
    (spans, {"d3": {"wrong list"}}),
    (order, {"d3": {"wrong list"}}),
    (missing_places, {"d3": {"wrong list", "orphan"}}),
    (lost, {"d3": {"unfinished"}}),
    (tombstone, {"d3": {"missing", "orphan"}}),
    (undead, {"gone": {"orphan"}}),
]


@pytest.mark.parametrize(("plant", "expected"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(
    corpus: Corpus, plant: Callable[[Corpus], None], expected: dict[str, set[str]]
) -> None:
    plant(corpus)
    waits: list[float] = []
    shown, found = look(corpus, wait=waits.append)
    assert named(found) == expected
    assert all(one.key is not None and one.stamp == corpus.head(one.key).stamp for one in found)
    assert len(waits) == LOOKS
    assert shown.documents == DOCUMENTS + 1


@pytest.mark.parametrize("plant", [plant for plant, _ in FAULTS], ids=[plant.__name__ for plant, _ in FAULTS])
def test_what_a_full_look_finds_a_repair_mends_and_touches_nothing_else(
    corpus: Corpus, plant: Callable[[Corpus], None]
) -> None:
    before = contents(corpus.collection)
    vectors = {one.id: one.vector for one in corpus.collection.scan_chunks(None, 1000, vectors=True)[0]}
    plant(corpus)
    model = corpus.model
    with Findings() as findings:
        run(corpus, findings)
        assert findings
        repaired = repair(
            corpus.broker, TOPIC, 0, corpus.collection, corpus.ends(), findings, chunker(SPEC, TOKENIZER),
            lambda items: embed_all(model, items, None, 64),
        )  # fmt: skip
    assert (repaired.documents.total(), repaired.left) == (1, [])
    assert look(corpus)[1] == []
    heads, chunks = contents(corpus.collection)
    touched = {D3.doc, DocumentKey("s", "gone").doc}
    assert {doc: head for doc, head in heads.items() if doc not in touched} == {
        doc: head for doc, head in before[0].items() if doc not in touched
    }
    assert all(replace(heads[doc], stamp=0) == replace(before[0][doc], stamp=0) for doc in touched)
    assert chunks.keys() == before[1].keys()
    for one in corpus.collection.scan_chunks(None, 1000, vectors=True)[0]:
        assert one.vector is not None
        np.testing.assert_allclose(one.vector, vectors[one.id], atol=1e-6)


def test_forged_points_that_keep_their_cells_are_found(tmp_path: Path) -> None:
    """Given Qdrant's own engine, and a head and a chunk that were edited by hand, then counts are as
    they were, and a look at every point finds both.
    """
    with opened(folder=tmp_path) as corpus:
        fill(corpus)
        metadata(corpus)
        corpus.plant(corpus.chunks(DocumentKey("s", "d5"))[0], filters={"source": "other"})
        chunk = corpus.chunks(DocumentKey("s", "d7"))[0]
        assert chunk.vector is not None
        corpus.plant(chunk, np.full_like(chunk.vector, np.nan))
        _, found = look(corpus)
        assert named(found) == {"d3": {"wrong metadata"}, "d5": {"wrong metadata"}, "d7": {"wrong vector"}}


def test_wrong_vectors_are_named_by_the_log_s_hash(corpus: Corpus) -> None:
    """So that exactly these are embedded again, also where the stored hash is forged."""
    chunk = corpus.chunks(D3)[1]
    corpus.plant(chunk, corpus.chunks(D3)[0].vector, content_hash="0" * 32)
    _, found = look(corpus)
    assert {one.kind: one.contents for one in found} == {
        "wrong vector": {chunk.content_hash},
        "wrong text": frozenset({chunk.content_hash}),
    }


def test_an_unlisted_chunk_is_found_unless_it_is_above_its_head(corpus: Corpus) -> None:
    head, last = corpus.head(D3), corpus.chunks(D3)[-1]
    corpus.plant_head(replace(head, chunks=head.chunks[:-1]))
    assert named(look(corpus)[1]) == {"d3": {"wrong list", "orphan"}}
    corpus.plant(last, content_hash=corpus.chunks(D3)[0].content_hash)
    assert named(look(corpus)[1]) == {"d3": {"wrong list", "duplicate"}}
    corpus.plant(last, stamp=stamp_of(max(corpus.ends().values())))
    assert named(look(corpus)[1]) == {"d3": {"wrong list"}}, "a newer version's, on its way in"


def test_a_head_that_has_moved_on_is_its_newer_record_s(corpus: Corpus) -> None:
    ends = corpus.ends()
    corpus.put("d3", "A newer version of it.")
    corpus.follow()
    swap_in = corpus.chunks(D3)[0]
    assert swap_in.vector is not None
    corpus.plant(swap_in, -swap_in.vector)
    shown, found = look(corpus, ends=ends)
    assert (named(found), shown.documents) == ({}, DOCUMENTS)
    assert named(look(corpus)[1]) == {"d3": {"wrong vector"}}


def test_what_is_mended_before_the_last_look_is_no_finding(corpus: Corpus) -> None:
    before = corpus.chunks(D3)[0]
    swap(corpus)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == LOOKS:
            corpus.plant(before)

    assert look(corpus, wait=wait)[1] == []


def test_a_failed_version_s_older_chunks_are_held_against_their_ids(corpus: Corpus) -> None:
    """Given a head that says failed and serves an older version, whose text may be gone from the log."""
    corpus.put("d3", "This one will fail.")
    (offset,) = [record.offset for record in _records(corpus) if b"will fail" in (record.value or b"")]
    head = replace(corpus.head(D3), stamp=stamp_of(offset), state="failed", metadata={}, reason="embedding_failed")
    corpus.plant_head(head)
    assert named(look(corpus)[1]) == {}
    text(corpus)
    assert named(look(corpus)[1]) == {"d3": {"wrong text", "wrong vector"}}


def _records(corpus: Corpus) -> list[Any]:
    reader, found = corpus.broker.reader(TOPIC), []
    while not reader.caught_up():
        found += reader.poll(0.0, 100)
    reader.close()
    return found


def test_an_incomplete_document_lists_all_but_what_it_names_as_missing(corpus: Corpus) -> None:
    head = corpus.head(D3)
    chunk = corpus.chunks(D3)[1]
    corpus.remove(chunk)
    listed: tuple[ListedChunk, ...] = tuple(one for one in head.chunks if one.id != chunk.id)
    corpus.plant_head(replace(head, state="incomplete", chunks=listed, missing=(1,)))
    assert named(look(corpus)[1]) == {}
    corpus.plant_head(replace(head, state="incomplete", chunks=listed, missing=(0,)))
    assert named(look(corpus)[1]) == {"d3": {"wrong list"}}
    moved = (replace(listed[0], start=listed[0].start + 1), *listed[1:])
    corpus.plant_head(replace(head, state="incomplete", chunks=moved, missing=(1,)))
    assert named(look(corpus)[1]) == {"d3": {"wrong list"}}


def test_only_some_documents_where_that_is_asked_for(corpus: Corpus) -> None:
    swap(corpus)
    chunk = corpus.chunks(DocumentKey("s", "d5"))[0]
    corpus.plant(chunk, corpus.chunks(D3)[2].vector)
    shown, found = look(corpus, only={D3.doc})
    assert (named(found), shown.documents) == ({"d3": {"wrong vector"}}, 1)


def test_a_text_that_the_model_cannot_take_here_is_no_finding_and_nothing_is_mended_for_it(corpus: Corpus) -> None:
    """Given a model that runs out of memory on this machine, then its chunk stays listed and served."""
    target = corpus.chunks(D3)[1]

    class Small(HashingEmbedder):
        def embed_documents(self, texts: Any) -> Any:
            if target.text in texts:
                raise Poison("oom", "no memory here")
            return super().embed_documents(texts)

    small = Small(corpus.spec.model, TOKENIZER)
    shown, found = look(corpus, check=VectorCheck(small, None, 64))
    assert (found, shown.unchecked) == ([], 1)
    filters(corpus)
    before = contents(corpus.collection)
    with Findings() as findings:
        run(corpus, findings, check=VectorCheck(small, None, 64))
        assert {one.kind for one in findings} == {"wrong metadata"}
        repaired = repair(
            corpus.broker, TOPIC, 0, corpus.collection, corpus.ends(), findings, chunker(SPEC, TOKENIZER),
            lambda items: embed_all(small, items, None, 64),
        )  # fmt: skip
    assert repaired.documents == {"left": 1}
    assert contents(corpus.collection) == before


@pytest.mark.parametrize("plant", [text, filters, swap], ids=["text", "values", "vector"])
def test_what_no_replay_can_mend_is_left_and_spends_no_attempt(corpus: Corpus, plant: Callable[[Corpus], None]) -> None:
    """Given a version that failed, which serves an older one's chunks, when one of these is wrong, then a repair says
    that it leaves it, as often as it is asked.
    """

    class Unable(HashingEmbedder):
        def embed_documents(self, texts: Any) -> Any:
            if any("will fail" in text for text in texts):
                raise Poison("oom", "no memory here")
            return super().embed_documents(texts)

    unable = Unable(corpus.spec.model, TOKENIZER)
    corpus.put("d3", "This one will fail.")
    corpus.follow(unable)
    assert corpus.head(D3).state == "failed"
    plant(corpus)
    before = contents(corpus.collection)
    for _ in range(2):
        with Findings() as findings:
            run(corpus, findings, check=VectorCheck(unable, None, 64))
            assert {one.doc for one in findings} == {D3.doc}
            repaired = repair(
                corpus.broker, TOPIC, 0, corpus.collection, corpus.ends(), findings, chunker(SPEC, TOKENIZER),
                lambda items: embed_all(unable, items, None, 64),
            )  # fmt: skip
        assert repaired.documents == {"left": 1}
        assert "serves chunks of an older version" in repaired.left[0]
    assert contents(corpus.collection) == before


# ----------------------------------------------------------------------- interrupted


class Embedded:
    """A model that notes what it was given."""

    def __init__(self, corpus: Corpus) -> None:
        self.texts: list[str] = []
        given = self.texts

        class Noting(HashingEmbedder):
            def embed_documents(self, texts: Any) -> Any:
                given.extend(texts)
                return super().embed_documents(texts)

        self.check = VectorCheck(Noting(corpus.spec.model, TOKENIZER), None, 64)


class Killed(BaseException):
    """The process is gone, here."""


def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.verification.log._PAGE", 4)
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)


def killed_at(page: int) -> Callable[[int, int], None]:
    calls: list[int] = []

    def on_progress(done: int, whole: int) -> None:
        calls.append(done)
        if len(calls) == page:
            raise Killed

    return on_progress


def test_a_killed_verification_goes_on_where_it_was(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Given faults before and behind the kill, then each is found, and little is embedded twice."""
    small_pages(monkeypatch)
    whole = Embedded(corpus)
    swap(corpus)
    chunk = corpus.chunks(DocumentKey("s", "d28"))[0]
    corpus.plant(chunk, corpus.chunks(D3)[2].vector)
    _, expected = look(corpus, check=whole.check)
    assert named(expected) == {"d3": {"wrong vector"}, "d28": {"wrong vector"}}
    path = checkpoint_path(tmp_path / "state", "c")
    first, then = Embedded(corpus), Embedded(corpus)
    with pytest.raises(Killed):
        look(corpus, check=first.check, checkpoint=Checkpoint.load(path, OF), on_progress=killed_at(5))
    left = Checkpoint.load(path, OF)
    assert left.begun
    assert 0 < left.documents < DOCUMENTS
    told: list[int] = []
    shown, found = look(corpus, check=then.check, checkpoint=left, on_progress=lambda done, whole: told.append(done))
    assert sorted(found, key=lambda one: one.doc) == sorted(expected, key=lambda one: one.doc)
    assert shown.resumed
    assert (shown.documents, shown.chunks) == (DOCUMENTS + 1, corpus.collection.count_chunks())
    assert told[0] > left.documents, "progress goes on as well"
    assert not path.exists()
    assert len(then.texts) < len(whole.texts) - 20, "what was looked at is not embedded again"
    assert len(first.texts) + len(then.texts) < len(whole.texts) + 40


def test_an_outage_in_the_middle_keeps_the_checkpoint(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_pages(monkeypatch)
    path, calls = tmp_path / "v.json", []
    scan = corpus.collection.scan_chunks

    def away(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise StoreUnavailable("away")
        return scan(*arguments, **more)

    monkeypatch.setattr(corpus.collection, "scan_chunks", away)
    with pytest.raises(StoreUnavailable):
        look(corpus, checkpoint=Checkpoint.load(path, OF))
    shown, found = look(corpus, checkpoint=Checkpoint.load(path, OF))
    assert (found, shown.resumed, shown.documents) == ([], True, DOCUMENTS + 1)


def test_a_finding_of_before_the_kill_that_was_mended_since_is_none(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_pages(monkeypatch)
    swap(corpus)
    path = tmp_path / "v.json"
    # The documents of one partition come before the other's: d3 is found before the last page.
    pages = 0

    def on_progress(done: int, whole: int) -> None:
        nonlocal pages
        pages += 1
        if Checkpoint.load(path, OF).found:
            raise Killed

    with pytest.raises(Killed):
        look(corpus, checkpoint=Checkpoint.load(path, OF), on_progress=on_progress)
    assert [one.doc for one in Checkpoint.load(path, OF).found] == [D3.doc]
    head = corpus.head(D3)
    corpus.plant_head(replace(head, stamp=head.stamp + 1))
    assert version_in(head.stamp + 1) == head.version
    assert look(corpus, checkpoint=Checkpoint.load(path, OF))[1] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generation": "gother"}, f"is of generation gother, not {SPEC.id}"),
        ({"collection": "other"}, "is of collection other, not c"),
        ({"model": "f"}, "is of model f, not"),
        ({"topic_id": "older"}, "is of topic id older, not topic-id"),
        ({"format": 2}, "has format 2, this vectide knows 1"),
        ({"found": [["doc", "no such kind", "s:a", 1, None, []]]}, "is not one of this vectide's"),
        ({"found": [["doc", "stale", "no key", 1, [0, 1], []]]}, "is not one of this vectide's"),
        ({"found": [["doc", "stale", "s:a", 1, [0], []]]}, "is not one of this vectide's"),
        ({"reached": {"x": 1}}, "is not one of this vectide's"),
        (None, "cannot be read"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any] | None, says: str) -> None:
    path = tmp_path / "v.json"
    point = Checkpoint(path, OF, {0: 3}, 2, 5)
    point.add([Found("doc", "wrong vector", D3, 64, (1, 7), frozenset({"ab"})), Found("doc2", "orphan", None, -1)])
    point.save()
    assert Checkpoint.load(path, OF) == point
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Refused, match=says) as refused:
        Checkpoint.load(path, OF)
    assert "delete it to begin anew" in str(refused.value)
    path.unlink()
    assert not Checkpoint.load(path, OF).begun


def test_a_checkpoint_keeps_so_many_findings_and_counts_the_rest() -> None:
    point = Checkpoint(None, OF)
    point.add(Found(str(number), "wrong vector", D3, 64) for number in range(KEPT + 7))
    assert (len(point.found), point.more) == (KEPT, 7)


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Transient, match="cannot be written"):
        Checkpoint(tmp_path / "file" / "v.json", OF).save()
