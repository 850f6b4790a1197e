"""Repair: what it must not touch, what it cannot mend, and what is left of one that is killed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreUnavailable
from pipeline.identity import ATTEMPTS, DocumentKey, attempt_in, offset_in, stamp_of, version_of
from pipeline.store.memory import MemoryCollection
from pipeline.sync import ToEmbed
from pipeline.verification import Findings, Found, repair
from tests.support.indexes import EPOCH, TOPIC, Index, cut, embed, vector_of

KEYS = [DocumentKey("s", f"d{number}") for number in range(12)]


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    for key in KEYS:
        made.put(key, f"first of {key.path}|second of {key.path}", acl="x")
    made.follow()
    yield made
    made.broker.close()


def kinds(index: Index) -> set[tuple[str, str]]:
    with index.verify() as verdict:
        return {(one.name, one.kind) for one in verdict.findings}


def mend(index: Index, **more: Any) -> dict[str, Any]:
    with index.verify() as verdict:
        return index.repair(verdict.findings, **more).as_json()


def place_of(index: Index, key: DocumentKey) -> tuple[int, int]:
    version = index.head(key).version
    (partition,) = [
        record.partition
        for record in index.broker.reader(TOPIC).poll(0, 1_000)
        if record.key == key.to_bytes() and record.offset == offset_in(version)
    ]
    return partition, offset_in(version)


# --------------------------------------------------------------------------- wrong vectors


def test_a_wrong_vector_is_embedded_again_and_is_nobody_s_donor(index: Index) -> None:
    """Given a text in two documents, with a wrong vector in both, when one is mended, then its vector comes from the
    model and not from the other; the other text of the document is not embedded.
    """
    for key in KEYS[:2]:
        index.put(key, f"shared|own of {key.path}")
    index.follow()
    shared = [chunk for chunk in index.chunks(*KEYS[:2]) if chunk.text == "shared"]
    for chunk in shared:
        index.set_chunk(chunk, vector=np.array([7, 7], np.float32))
    head, asked = index.head(KEYS[0]), []

    def model(items: Sequence[ToEmbed]) -> Any:
        asked.extend(item.text for item in items)
        assert index.collection.existing([one.id for one in head.chunks]) == {one.id for one in head.chunks}
        return embed(items)

    with Findings() as findings:
        contents = frozenset({shared[0].content_hash})
        findings.add([Found(KEYS[0].doc, "wrong vector", KEYS[0], head.stamp, place_of(index, KEYS[0]), contents)])
        assert index.repair(findings, embed=model).as_json() == {
            "documents": {"complete": 1},
            "embedded": 1,
            "left": [],
        }
    assert asked == ["shared"]
    vectors = {chunk.text: chunk.vector.tolist() for chunk in index.chunks(KEYS[0]) if chunk.vector is not None}
    assert vectors == {text: vector_of(text).tolist() for text in ("shared", "own of d0")}
    assert index.head(KEYS[0]).stamp == head.stamp + 1
    (other,) = [chunk for chunk in index.chunks(KEYS[1]) if chunk.text == "shared"]
    assert other.vector is not None
    assert other.vector.tolist() == [7, 7], "it was not found wrong"
    assert kinds(index) == set()


def test_a_document_whose_text_cannot_be_embedded_here_is_left_alone(index: Index) -> None:
    """Given a chunk that is not believed, when the model cannot make another, then the one that is there stays: what
    is wrong may be this machine.
    """
    index.put(KEYS[0], "poisoned soon|fine")
    index.follow()
    head, (chunk,) = index.head(KEYS[0]), [one for one in index.chunks(KEYS[0]) if one.text == "poisoned soon"]
    refuse = lambda items: ({}, {item.content_hash: "out of memory" for item in items})  # noqa: E731
    with Findings() as findings:
        contents = frozenset({chunk.content_hash})
        findings.add([Found(KEYS[0].doc, "wrong vector", KEYS[0], head.stamp, place_of(index, KEYS[0]), contents)])
        done = index.repair(findings, embed=refuse)
    assert done.documents == {"left": 1}
    assert done.left == ["s:d0: the model cannot embed a text of it here: out of memory"]
    assert index.head(KEYS[0]) == head
    assert {one.text for one in index.chunks(KEYS[0])} == {"poisoned soon", "fine"}


# --------------------------------------------------------------------------- what it leaves


def test_a_head_above_the_log_is_left_and_said(index: Index) -> None:
    """The log has lost records: to bring the document back to what is left of it would lose the newest text."""
    index.put(KEYS[5], "the newest|text")
    index.follow()
    place = place_of(index, KEYS[5])
    index.put(KEYS[5], "is lost|as well")
    ends, number = index.ends(), index.broker.log._named(TOPIC).number
    for offset in (place[1], place[1] + 1):
        index.broker.log._log.execute(
            "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?", (number, place[0], offset)
        )
    before = index.head(KEYS[5]), index.chunks(KEYS[5])
    with index.verify(ends) as verdict:
        assert {(one.name, one.kind) for one in verdict.findings} == {("s:d5", "ahead")}
        done = index.repair(verdict.findings, ends)
    assert done.documents == {"left": 1}
    assert "lost records" in done.left[0]
    assert done.left[0].startswith("s:d5: ")
    assert str((index.head(KEYS[5]), index.chunks(KEYS[5]))) == str(before)


def test_a_document_with_a_newer_record_is_left_to_the_pipeline(index: Index) -> None:
    index.drop_chunk(KEYS[0])
    with index.verify() as verdict:
        ends = index.ends()
        index.put(KEYS[0], "newer")
        stamp = index.head(KEYS[0]).stamp
        assert index.repair(verdict.findings, ends).documents == {"on its way": 1}
        assert index.head(KEYS[0]).stamp == stamp
    index.follow()
    assert kinds(index) == set()


def test_chunks_of_a_document_that_has_come_since_are_not_swept(index: Index) -> None:
    """Given chunks of a document that nobody knew, when its record is in the log by the time of the repair, then they
    may be on their way in, whatever their stamps.
    """
    new = DocumentKey("s", "new")
    index.add_chunk(new, "text", stamp_of(version_of(EPOCH, 0)))
    with index.verify() as verdict:
        ends = index.ends()
        assert {(one.name, one.kind) for one in verdict.findings} == {(new.doc, "orphan")}
        index.put(new, "text")
        assert index.repair(verdict.findings, ends).documents == {"on its way": 1}
    assert [chunk.text for chunk in index.chunks(new)] == ["text"]


def test_an_orphan_that_has_got_a_head_since_is_left_to_it(index: Index) -> None:
    new = DocumentKey("s", "new")
    index.add_chunk(new, "text", stamp_of(version_of(EPOCH, 0)))
    with index.verify() as verdict:
        ends = index.ends()
        index.put(new, "text|and more")
        index.follow()
        assert index.repair(verdict.findings, ends).documents == {"on its way": 1}
    assert {chunk.text for chunk in index.chunks(new)} == {"text", "and more"}
    assert kinds(index) == set()


def test_a_version_that_comes_in_between_wins(index: Index) -> None:
    """Given a repair that waits for the model, when a worker writes a newer version meanwhile, then that stays."""
    index.set_head(KEYS[0], chunks=())
    for chunk in index.chunks(KEYS[0]):
        index.set_chunk(chunk, vector=np.array([7, 7], np.float32))
    asked = []

    def slow(items: Sequence[ToEmbed]) -> Any:
        if not asked:
            asked.append(items)
            index.put(KEYS[0], "newer|of another")
            index.follow()
        return embed(items)

    with index.verify() as verdict:
        ends = index.ends()
        (found,) = verdict.findings
        verdict.findings.replace(found.doc, [found, Found(*_fields(found, index))])
        done = index.repair(verdict.findings, ends, embed=slow)
    assert done.documents == {"stale": 1}
    assert {chunk.text for chunk in index.chunks(KEYS[0])} == {"newer", "of another"}
    assert kinds(index) == set()


def _fields(found: Found, index: Index) -> tuple[Any, ...]:
    contents = frozenset(chunk.content_hash for chunk in index.chunks(KEYS[0]))
    return found.doc, "wrong vector", found.key, found.stamp, found.place, contents


def test_used_up_attempts_are_said(index: Index) -> None:
    index.set_head(KEYS[0], stamp=index.head(KEYS[0]).stamp + ATTEMPTS - 1, chunks=())
    done = mend(index)
    assert done["documents"] == {"left": 1}
    assert "publish the document again" in done["left"][0]


def test_a_head_that_outlived_a_null_becomes_a_tombstone(index: Index) -> None:
    index.forget(KEYS[0])
    assert kinds(index) == {("s:d0", "orphan")}
    assert mend(index)["documents"] == {"deleted": 1}
    head = index.head(KEYS[0])
    assert (head.state, attempt_in(head.stamp), index.chunks(KEYS[0])) == ("deleted", 1, [])
    assert kinds(index) == set()


def test_a_document_whose_record_is_gone_by_then_is_left(index: Index) -> None:
    index.drop_chunk(KEYS[0])
    with index.verify() as verdict:
        partition, offset = place_of(index, KEYS[0])
        index.broker.log._log.execute(
            "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?",
            (index.broker.log._named(TOPIC).number, partition, offset),
        )
        done = index.repair(verdict.findings)
    assert done.documents == {"left": 1}
    assert "verify again" in done.left[0]


# ------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("together", [1, 2, 5])
def test_batches_of_any_size_do_the_same(index: Index, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("pipeline.verification.repair", fromlist=["x"])
    monkeypatch.setattr(module, "_DOCUMENTS", together)
    for key in KEYS[:5]:
        index.drop_chunk(key)
    for key in KEYS[5:8]:
        index.add_chunk(key, "left over", index.head(key).stamp)
    pauses: list[int] = []
    told: list[tuple[str, int, int]] = []
    done = mend(index, pause=pauses.append, on_progress=lambda *step: told.append(step))
    assert done["documents"] == {"complete": 5, "unchanged": 3}
    assert [one for one in told if one[0] == "repairs"][-1] == ("repairs", 8, 8)
    assert ("log", 12, 12) in told
    assert 12 in pauses
    assert max(one for one in pauses if one != 12) == together
    assert kinds(index) == set()


def test_what_is_whole_is_not_embedded(index: Index) -> None:
    index.set_head(KEYS[0], metadata={"another": "one"})
    index.set_head(KEYS[1], chunks=index.head(KEYS[1]).chunks[:1])
    index.drop_chunk(KEYS[2])
    asked: list[str] = []

    def model(items: Sequence[ToEmbed]) -> Any:
        asked.extend(item.text for item in items)
        return embed(items)

    assert mend(index, embed=model)["embedded"] == 1
    assert asked == ["first of d2"], "the others' vectors are in the store"


def test_one_that_is_stopped_reads_no_log_to_its_end(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a log of which nearly nothing is repaired, then the process that ends need not wait for all of it."""
    monkeypatch.setattr("pipeline.verification.log._PAGE", 2)
    for key in KEYS[1:]:
        for number in range(4):
            index.put(key, f"edit {number}")
    index.follow()
    index.drop_chunk(KEYS[0])
    pages: list[int] = []

    def stop(done: int) -> None:
        pages.append(done)
        raise StoreUnavailable("stopped")

    with index.verify() as verdict, pytest.raises(StoreUnavailable, match="stopped"):
        index.repair(verdict.findings, pause=stop)
    assert len(pages) == 1


class _Killed:
    """A collection of which the n-th request is the last."""

    def __init__(self, inner: MemoryCollection, left: int) -> None:
        self._inner = inner
        self.left = left
        self.spec, self.flush_each_batch = inner.spec, inner.flush_each_batch

    def __getattr__(self, name: str) -> Any:
        def request(*arguments: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("killed")
            return getattr(self._inner, name)(*arguments, **more)

        return request


def test_one_that_is_killed_anywhere_leaves_nothing_broken() -> None:
    """Given faults of many kinds, when the repair is killed before its n-th request, then whatever was readable is,
    and the next repair mends what is left; for every n.
    """
    for requests in range(1, 100):
        index = Index()
        for key in KEYS[:6]:
            index.put(key, f"first of {key.path}|second of {key.path}", acl="x")
        index.follow()
        index.set_head(KEYS[0], chunks=index.head(KEYS[0]).chunks[:1])
        index.drop_chunk(KEYS[1])
        index.add_chunk(KEYS[2], "left over", index.head(KEYS[2]).stamp)
        index.drop_head(KEYS[3])
        index.forget(KEYS[4])
        index.add_chunk(DocumentKey("s", "stranger"), "text", stamp_of(version_of(EPOCH, 0)))
        with index.verify() as verdict:
            killed: Any = _Killed(index.collection, requests)  # type: ignore[arg-type]
            ended = True
            try:
                repair(index.broker, TOPIC, EPOCH, killed, index.ends(), verdict.findings, cut, embed)
            except StoreUnavailable:
                ended = False
        for key in (KEYS[0], KEYS[2], KEYS[5]):
            listed = {chunk.id for chunk in index.head(key).chunks}
            assert index.collection.existing(list(listed)) == listed, (requests, key)
        if ended:
            assert requests > 10
            assert kinds(index) == set()
            break
        mend(index)
        assert kinds(index) == set(), requests
        index.broker.close()
    else:
        pytest.fail("it never came to an end")
