"""The comparison of a collection with the log: whatever is wrong is found and named, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.broker.partitioner import partition_of
from pipeline.codec import SCHEMA, Encoded, encode_event
from pipeline.errors import BrokerUnavailable, LogDiverged, NewerSchema, StoreUnavailable, Transient
from pipeline.identity import DocumentKey, stamp_of, version_in, version_of
from pipeline.points import Head, Sweep
from pipeline.ports import Reader, Record
from pipeline.records import DocumentDeleted, Provenance
from pipeline.verification import EXAMPLES, KINDS, Verdict, comparison, expectations, log, temporary
from pipeline.verification.comparison import LOOKS
from tests.support.indexes import EPOCH, PARTITIONS, TOPIC, Index
from tests.unit.chunking.documents import SEED, examples

#: Later than compaction keeps any null.
LATER = 1e7
KEYS = [DocumentKey("s", f"d{number}") for number in range(12)]


@pytest.fixture(scope="module", autouse=True)
def _seed() -> None:
    print(f"VECTIDE_TEST_SEED={SEED}")


@pytest.fixture
def index() -> Iterator[Index]:
    """Twelve documents in three partitions, followed."""
    made = Index()
    for key in KEYS:
        made.put(key, f"text of {key.path}|and more of {key.path}")
    made.follow()
    yield made
    made.broker.close()


def found(result: Verdict) -> dict[str, tuple[str, ...]]:
    """The named keys of every kind that has findings."""
    assert all(len(one.examples) == min(one.count, EXAMPLES) for one in result.named.values())
    named = {kind: one.examples for kind, one in result.named.items() if one.count}
    assert result.ok == (not named)
    return {str(kind): examples for kind, examples in named.items()}


# ------------------------------------------------------------------------------------ equal


def test_a_collection_that_followed_the_log_equals_it(index: Index) -> None:
    assert len({partition_of(key.to_bytes(), PARTITIONS) for key in KEYS}) == PARTITIONS
    index.put(KEYS[0], "edited|poison")
    index.put(KEYS[1], None)
    index.put(KEYS[2], "poison")
    index.delete(KEYS[3])
    index.follow()
    result = index.verify()
    assert found(result) == {}
    assert result.documents == 11
    assert result.heads == {"complete": 8, "incomplete": 1, "failed": 1, "omitted": 1, "deleted": 1}
    assert result.as_json() == {
        "ok": True,
        "documents": 11,
        "heads": {"complete": 8, "incomplete": 1, "failed": 1, "omitted": 1, "deleted": 1},
        "findings": {kind: {"count": 0, "examples": []} for kind in KINDS},
        "points": 33,
        "points_read": 3,
        "requests": 7,
        "unexplained": 0,
        "seconds": round(result.seconds, 3),
    }


def test_nothing_equals_nothing() -> None:
    index = Index()
    assert found(index.verify()) == {}
    assert index.verify().documents == 0
    index.broker.close()


def test_nothing_in_doubt_is_neither_waited_for_nor_read_twice(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    starts: list[Mapping[int, int]] = []
    reader = index.broker.reader
    monkeypatch.setattr(index.broker, "reader", lambda topic, start: (starts.append(start), reader(topic, start))[1])
    assert index.verify(wait=waits.append).ok
    assert (waits, starts) == ([], [{}])
    index.drop_head(KEYS[0])
    assert not index.verify(wait=waits.append).ok
    assert (waits, starts[1:]) == ([comparison.LOOK_SECONDS] * LOOKS, [{}])


@pytest.mark.parametrize("times", [1, 2])
def test_a_point_that_a_server_counts_twice_while_it_moves_it_is_no_doubt_if_it_does_so_once(
    index: Index, times: int
) -> None:
    tally, calls = index.collection.tally, []

    def doubled(of: Any) -> Any:
        counts = tally(of)
        if of == "chunks":
            calls.append(of)
            if len(calls) <= times:
                counts[counts.argmax()] += 1
        return counts

    index.collection.tally = doubled  # type: ignore[method-assign]
    result = index.verify()
    assert (found(result), len(calls)) == ({}, 2)
    assert (result.points_read, result.unexplained) == ((0, 0) if times == 1 else (result.points_read, 1))
    assert (result.points_read > 0) == (times == 2)


def test_what_is_in_doubt_is_looked_at_with_what_the_log_has_by_then(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a chunk of a document that comes while the log is verified, when its record is beyond what was read,
    then the log is read on before the next look, and the chunk is on its way in.
    """
    starts: list[Mapping[int, int]] = []
    reader = index.broker.reader
    monkeypatch.setattr(index.broker, "reader", lambda topic, start: (starts.append(start), reader(topic, start))[1])
    ends, new = index.ends(), DocumentKey("s", "new")
    version = version_of(EPOCH, 0)  # another partition's ends are above it
    tally = index.collection.tally

    def late(of: Any) -> Any:
        index.collection.tally = tally  # type: ignore[method-assign]
        index.add_chunk(new, "text", stamp_of(version))
        return tally(of)

    index.collection.tally = late  # type: ignore[method-assign]
    assert found(index.verify(ends, wait=lambda _: index.put(new, "text"))) == {}
    assert starts == [{}, ends, *starts[2:]]
    assert len(starts) == 1 + LOOKS - 2, "nothing is in doubt after the first look"


def test_what_is_found_is_json(index: Index) -> None:
    index.drop_head(KEYS[4])
    shown = json.loads(json.dumps(index.verify().as_json()))
    assert shown["ok"] is False
    assert shown["findings"]["missing"] == {"count": 1, "examples": ["s:d4"]}
    assert (shown["documents"], shown["heads"]["complete"]) == (12, 11)


# ----------------------------------------------------------------------------- each finding


def test_a_document_without_a_head_is_missing(index: Index) -> None:
    index.drop_head(KEYS[5])
    assert found(index.verify()) == {"missing": ("s:d5",)}


def test_a_tombstone_at_the_version_of_a_live_document_is_missing(index: Index) -> None:
    index.set_head(KEYS[5], state="deleted", chunks=())
    assert found(index.verify()) == {"missing": ("s:d5",)}


def test_a_head_below_the_log_s_version_is_stale(index: Index) -> None:
    before = index.head(KEYS[5]).stamp
    index.put(KEYS[5], "edited")
    index.follow()
    index.set_head(KEYS[5], stamp=before)
    assert found(index.verify()) == {"stale": ("s:d5",)}


def test_a_tombstone_below_the_log_s_delete_is_stale(index: Index) -> None:
    index.delete(KEYS[5])
    index.follow()
    index.set_head(KEYS[5], stamp=index.head(KEYS[5]).stamp - 64)
    assert found(index.verify()) == {"stale": ("s:d5",)}


def test_a_re_run_of_a_version_is_that_version(index: Index) -> None:
    index.set_head(KEYS[5], stamp=index.head(KEYS[5]).stamp + 3)
    assert found(index.verify()) == {}


def test_a_head_of_an_unknown_document_is_an_orphan(index: Index) -> None:
    index.add_head(DocumentKey("s", "unknown"), version_of(EPOCH, 0))
    assert found(index.verify()) == {"orphan": ("s:unknown",)}


def test_a_tombstone_of_an_unknown_document_is_no_orphan(index: Index) -> None:
    index.add_head(DocumentKey("s", "unknown"), version_of(EPOCH, 0), state="deleted")
    assert found(index.verify()) == {}


@pytest.mark.parametrize("version", ["older", "its own"])
def test_a_head_of_a_deleted_document_is_an_orphan(index: Index, version: str) -> None:
    before = index.head(KEYS[5])
    index.delete(KEYS[5])
    index.follow()
    index.set_head(KEYS[5], state="complete", **({"stamp": before.stamp} if version == "older" else {}))
    assert found(index.verify()) == {"orphan": ("s:d5",)}


def test_a_deleted_document_needs_no_tombstone(index: Index) -> None:
    index.delete(KEYS[5])
    assert found(index.verify()) == {"orphan": ("s:d5",)}
    index.drop_chunk(KEYS[5], 0)
    index.drop_chunk(KEYS[5], 1)
    index.drop_head(KEYS[5])
    waits: list[float] = []
    assert found(index.verify(wait=waits.append)) == {}
    assert waits == [], "it was never in doubt"


def test_a_doubtful_head_that_is_gone_at_the_second_look_is_no_finding_where_the_log_has_no_document(
    index: Index,
) -> None:
    index.delete(KEYS[5])

    def wait(seconds: float) -> None:
        index.collection._heads.pop(KEYS[5].doc, None)
        index.collection.sweep([Sweep(KEYS[5].doc, frozenset(), stamp_of(version_of(EPOCH, 1 << 30)))])

    assert found(index.verify(wait=wait)) == {}


def test_a_head_above_the_log_s_version_without_a_record_is_ahead(index: Index) -> None:
    """The log lost its newest records: what readers see is not what the next generation will be made of."""
    version = index.put(KEYS[5], "edited")
    index.follow()
    index.put(KEYS[5], "again")
    ends = index.ends()
    partition = partition_of(KEYS[5].to_bytes(), PARTITIONS)
    number = index.broker.log._named(TOPIC).number
    for offset in (version, version + 1):
        index.broker.log._log.execute(
            "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?",
            (number, partition, offset - version_of(EPOCH, 0)),
        )
    assert found(index.verify(ends)) == {"ahead": ("s:d5",)}


def lost_log(index: Index, keep: int) -> Index:
    """The collection beside a new log of the same topic, which has only the first documents."""
    made = Index(collection=index.collection)
    for key in KEYS[:keep]:
        made.put(key, f"text of {key.path}|and more of {key.path}")
    return made


@pytest.mark.parametrize("kept", [0, 6])
def test_a_log_that_has_lost_all_records_or_the_last_is_no_equal(index: Index, kept: int) -> None:
    """Given heads of versions that are above the end of the log, then no record has made them, and they are not on
    their way: the log has lost records. What it does not know is not deleted then.
    """
    lost = lost_log(index, kept)
    assert found(index.verify()) == {}, "they are all in order by their own log"
    index.add_head(DocumentKey("s", "stranger"), version_of(EPOCH, 0) if kept else version_of(EPOCH - 1, 9))
    with lost.verify() as verdict:
        named = {kind: one.count for kind, one in verdict.named.items() if one.count}
        assert named == {"ahead": len(KEYS) - kept, "orphan": 1}
        repaired = lost.repair(verdict.findings)
    assert repaired.documents == {"left": len(KEYS) - kept + 1}
    assert lost.collection.count_heads()["complete"] == len(KEYS) + 1
    lost.broker.close()


def test_a_head_beyond_the_ends_without_a_record_below_the_end_is_ahead(index: Index) -> None:
    """Given a head of a version that the ends do not cover, when the log goes on behind it without a record of the
    document, then its record is lost; a newer one would tell why it is not there.
    """
    ends = index.ends()
    version = index.put(KEYS[5], "edited")
    index.follow()
    partition = partition_of(KEYS[5].to_bytes(), PARTITIONS)
    index.broker.log._log.execute(
        "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?",
        (index.broker.log._named(TOPIC).number, partition, version - version_of(EPOCH, 0)),
    )
    (neighbour,) = [key for key in KEYS if key != KEYS[5] and partition_of(key.to_bytes(), PARTITIONS) == partition][:1]
    index.put(neighbour, "goes on")
    assert found(index.verify(ends)) == {"ahead": ("s:d5",)}
    index.put(KEYS[5], "edited again")
    assert found(index.verify(ends)) == {}, "compaction takes records in favour of newer ones"


def test_a_head_whose_record_comes_while_it_is_looked_at_is_not_ahead(index: Index) -> None:
    """Given a record beyond all that was read, whose head is there before the verification asks for the end."""
    ends, tally = index.ends(), index.collection.tally

    def late(of: Any) -> Any:
        index.collection.tally = tally  # type: ignore[method-assign]
        index.put(KEYS[5], "edited at that very moment")
        index.follow()
        return tally(of)

    index.collection.tally = late  # type: ignore[method-assign]
    waits: list[float] = []
    assert found(index.verify(ends, wait=waits.append)) == {}
    assert waits == [], "it was never in doubt"


def test_a_tombstone_beyond_the_ends_that_the_log_has_forgotten_is_not_ahead(index: Index) -> None:
    ends = index.ends()
    version = index.delete(KEYS[5])
    index.follow()
    index.forget(KEYS[5])
    index.broker.log._log.execute(
        "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?",
        (
            index.broker.log._named(TOPIC).number,
            partition_of(KEYS[5].to_bytes(), PARTITIONS),
            version - version_of(EPOCH, 0),
        ),
    )
    assert found(index.verify(ends)) == {}


def test_a_listed_chunk_that_is_gone_makes_a_head_unfinished(index: Index) -> None:
    index.drop_chunk(KEYS[5], 1)
    assert found(index.verify()) == {"unfinished": ("s:d5",)}


def test_the_old_chunks_of_a_failed_document_are_looked_for(index: Index) -> None:
    index.spoil(KEYS[5])
    index.follow()
    assert found(index.verify()) == {}
    index.drop_chunk(KEYS[5])
    assert found(index.verify()) == {"unfinished": ("s:d5",)}


def test_a_document_counts_once(index: Index) -> None:
    index.put(KEYS[5], "edited|twice")
    index.follow()
    index.drop_chunk(KEYS[5])
    index.set_head(KEYS[5], stamp=index.head(KEYS[5]).stamp - 64)
    assert found(index.verify()) == {"stale": ("s:d5",)}


def test_every_kind_at_once(index: Index) -> None:
    index.drop_head(KEYS[0])
    index.set_head(KEYS[1], stamp=index.head(KEYS[1]).stamp - 64)
    index.drop_chunk(KEYS[2])
    index.drop_chunk(KEYS[3])
    index.add_head(DocumentKey("s", "unknown"), version_of(EPOCH, 0))
    result = index.verify()
    named = {kind: set(keys) for kind, keys in found(result).items()}
    assert named == {"missing": {"s:d0"}, "stale": {"s:d1"}, "unfinished": {"s:d2", "s:d3"}, "orphan": {"s:unknown"}}


# ------------------------------------------------------------------------------ meanwhile


def test_what_happens_beyond_the_ends_is_no_finding_before_and_after_the_stages_follow(index: Index) -> None:
    index.delete(KEYS[4])
    index.delete(KEYS[5])
    index.follow()
    ends = index.ends()
    index.put(KEYS[0], "edited|beyond")
    index.put(DocumentKey("s", "new"), "new")
    index.delete(KEYS[1])
    index.spoil(KEYS[2])
    index.put(KEYS[4], "back|again")
    assert found(index.verify(ends)) == {}, "nothing of it has reached the collection"
    index.follow()
    result = index.verify(ends)
    assert found(result) == {}, "all of it has"
    assert (result.documents, result.heads["complete"], result.heads["failed"]) == (10, 10, 1)


def test_what_is_beyond_the_ends_is_not_decoded(index: Index) -> None:
    ends = index.ends()
    index.write(KEYS[0].to_bytes(), b"{}", (("vectide-kind", b"changed"), (SCHEMA, b"99")))
    assert found(index.verify(ends)) == {}
    with pytest.raises(NewerSchema):
        index.verify()


def test_chunks_that_a_head_beyond_the_ends_lists_may_be_missing(index: Index) -> None:
    """A power cut takes them; the record that brings them back is not committed."""
    ends = index.ends()
    index.put(KEYS[5], "edited")
    index.follow()
    index.drop_chunk(KEYS[5])
    assert found(index.verify(ends)) == {}
    assert found(index.verify()) == {"unfinished": ("s:d5",)}


def test_chunks_on_their_way_in_are_no_finding_however_long_they_take(index: Index) -> None:
    """Given a document whose chunks come slice by slice, when its head is hours away, then they are not too many."""
    ends = index.ends()
    version = index.put(KEYS[5], "long|and longer")
    index.add_chunk(KEYS[5], "long", stamp_of(version))
    assert found(index.verify(ends)) == {}
    index.add_chunk(KEYS[5], "of another run", stamp_of(index.head(KEYS[5]).version, 1))
    assert found(index.verify(ends)) == {"orphan": ("s:d5",)}, "that one is not of a version to come"


def test_a_head_that_moves_while_its_document_is_looked_at_is_no_finding(index: Index) -> None:
    """Given a suspect, when a version beyond all that was read of the log comes before each look, then its head is
    nobody's finding.
    """
    ends = index.ends()
    heads = index.collection.heads
    index.set_head(KEYS[5], metadata={"another": "one"})

    def later(docs: Any) -> Any:
        index.collection.heads = heads  # type: ignore[method-assign]
        index.put(KEYS[5], f"edited at that very moment, {len(docs)}")
        index.follow()
        index.collection.heads = later  # type: ignore[method-assign]
        return heads(docs)

    index.collection.heads = later  # type: ignore[method-assign]
    assert found(index.verify(ends)) == {}


def test_a_head_of_an_unknown_document_is_held_against_the_end_of_its_key_s_partition() -> None:
    index = Index()
    stranger = DocumentKey("s", "unknown")
    own = partition_of(stranger.to_bytes(), PARTITIONS)
    for partition, records in enumerate([3, 3, 3]):
        for _ in range(records + 4 * (partition != own)):
            index.write(None, None, partition=partition)
    index.add_head(stranger, version_of(EPOCH, 3))
    assert found(index.verify()) == {"ahead": ("s:unknown",)}, "its partition never had that record"
    ends = index.ends()
    index.put(stranger)
    assert found(index.verify(ends)) == {}, "the ends of its partition do not cover it"
    index.set_head(stranger, stamp=stamp_of(version_of(EPOCH, 2)))
    index.broker.log._log.execute("DELETE FROM records WHERE offset = 3")
    assert found(index.verify(ends)) == {"orphan": ("s:unknown",)}
    index.broker.close()


def test_a_head_of_a_known_document_is_held_against_the_end_of_the_partition_it_was_read_from() -> None:
    index = Index()
    key = KEYS[0]
    other = (partition_of(key.to_bytes(), PARTITIONS) + 1) % PARTITIONS
    event = encode_event(DocumentDeleted(key, Provenance(1.0)))
    for _ in range(3):
        index.write(*event, partition=other)
    index.add_head(key, version_of(EPOCH, 1))
    assert found(index.verify()) == {"orphan": ("s:d0",)}, "its key's partition is empty"
    ends = index.ends()
    index.set_head(key, stamp=stamp_of(version_of(EPOCH, 3)))
    assert found(index.verify()) == {"ahead": ("s:d0",)}
    index.write(*event, partition=other)
    assert found(index.verify(ends)) == {}, "somebody has created it again"
    index.broker.close()


def test_a_version_of_an_older_epoch_is_stale(index: Index) -> None:
    index.set_head(KEYS[0], stamp=stamp_of(version_of(EPOCH - 1, 1 << 30)))
    assert found(index.verify()) == {"stale": ("s:d0",)}


@pytest.mark.parametrize("look", range(1, LOOKS + 1))
def test_what_catches_up_until_the_last_look_is_no_finding(index: Index, look: int) -> None:
    whole = dict(index.collection._heads)
    index.drop_head(KEYS[0])
    index.set_head(KEYS[1], stamp=index.head(KEYS[1]).stamp - 64)
    index.set_head(KEYS[2], chunks=(*index.head(KEYS[2]).chunks, replace(index.head(KEYS[2]).chunks[0], id="lost")))
    index.add_head(DocumentKey("s", "unknown"), version_of(EPOCH, 0))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == look:
            index.collection._heads.update({key.doc: whole[key.doc] for key in KEYS})
            index.set_head(DocumentKey("s", "unknown"), state="deleted")

    assert found(index.verify(wait=wait)) == {}
    assert len(waits) == look


def test_what_moves_beyond_the_ends_between_two_looks_is_no_finding(index: Index) -> None:
    ends = index.ends()
    index.set_head(KEYS[1], stamp=index.head(KEYS[1]).stamp - 64)
    index.drop_chunk(KEYS[2])
    index.drop_head(KEYS[3])

    def wait(seconds: float) -> None:
        for key in KEYS[1:4]:
            index.put(key, "edited meanwhile")
        index.follow()

    assert found(index.verify(ends, wait)) == {}


def test_a_sweep_between_a_head_and_its_chunks_is_no_finding(index: Index) -> None:
    """Given a suspect whose head is read just before a newer version replaces it, its chunks are gone then."""
    ends = index.ends()
    scan_chunks = index.collection.scan_chunks
    index.add_chunk(KEYS[7], "left over", index.head(KEYS[7]).stamp)

    def late(*arguments: Any) -> Any:
        index.collection.scan_chunks = scan_chunks  # type: ignore[method-assign]
        index.put(KEYS[7], "edited at that very moment")
        index.follow()
        return scan_chunks(*arguments)

    index.collection.scan_chunks = late  # type: ignore[method-assign]
    assert found(index.verify(ends)) == {}
    assert version_in(index.head(KEYS[7]).stamp) >= version_of(
        EPOCH, ends[partition_of(KEYS[7].to_bytes(), PARTITIONS)]
    )


@pytest.mark.parametrize(
    ("answers", "finds"),
    [
        ([None, None], {}),
        ([{0: 3}, None], {}),
        ([None, {0: 3}], {}),
        ([{0: 3}, {0: 4}], {}),
        ([{0: 3}, {0: 3}], {"orphan": ("s:d5",)}),
    ],
    ids=["before it", "come since", "done since", "come and done", "nothing"],
)
def test_chunks_of_a_replay_that_runs_just_now_are_on_their_way_in(
    index: Index, answers: list[dict[int, int] | None], finds: dict[str, tuple[str, ...]]
) -> None:
    """Given a chunk above its head, of the same version, then a replay has written it, which is under way or was cut
    off: where the embed stage has nothing before it, at the last look and all the time, it was cut off.
    """
    index.add_chunk(KEYS[5], "ahead of its head", index.head(KEYS[5]).stamp + 1)
    index.drop_head(KEYS[6])
    left = list(answers)
    assert found(index.verify(applied=lambda: left.pop(0))) == {"missing": ("s:d6",), **finds}
    if finds:
        index.add_chunk(KEYS[5], "below its head", index.head(KEYS[5]).stamp)
    assert "orphan" in found(index.verify(applied=lambda: None)) or not finds


def test_a_doubt_that_turns_into_another_is_found_as_what_it_is(index: Index) -> None:
    head = index.head(KEYS[0])
    index.drop_head(KEYS[0])

    def wait(seconds: float) -> None:
        index.collection._heads[KEYS[0].doc] = replace(head, stamp=head.stamp - 64)

    assert found(index.verify(wait=wait)) == {"stale": ("s:d0",)}


# ----------------------------------------------------------------------------- compaction


def test_compaction_changes_nothing(index: Index) -> None:
    for number in range(30):
        index.put(KEYS[number % 5], f"edit {number}")
    index.delete(KEYS[0])
    index.follow()
    index.compact()
    result = index.verify()
    assert (found(result), result.documents) == ({}, 11)


def test_what_compaction_takes_in_favour_of_newer_records_is_no_finding(index: Index) -> None:
    """Given edits beyond the ends that the stages have not reached, then the log below is not what they read."""
    index.delete(KEYS[2])
    index.follow()
    ends = index.ends()
    for key in KEYS[:3]:
        index.put(key, "edited beyond")
    index.delete(KEYS[3])
    index.spoil(KEYS[4])
    index.compact()
    assert found(index.verify(ends)) == {}
    index.follow()
    assert found(index.verify(ends)) == {}


def test_compaction_while_the_log_is_read_is_no_finding(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an older record that was read before compaction took the newer one, below the ends as well."""
    monkeypatch.setattr(log, "_PAGE", len(KEYS))
    for key in KEYS:
        index.put(key, "second")
    for key in KEYS[6:]:
        index.delete(key)
    index.follow()
    for key in KEYS[:3]:
        index.delete(key)
    for key in KEYS[6:9]:
        index.put(key, "again")
    index.follow()
    ends = index.ends()

    def on_progress(step: str, done: int, whole: int) -> None:
        if (step, done) == ("log", len(KEYS)):
            for key in KEYS:
                index.put(key, "beyond")
            index.compact()

    assert found(index.verify(ends, on_progress=on_progress)) == {}


@pytest.mark.parametrize("fault", ["missing", "stale", "unfinished"])
def test_a_newer_record_does_not_excuse_what_the_log_below_the_ends_proves(index: Index, fault: str) -> None:
    index.put(KEYS[0], "second|time")
    index.follow()
    ends = index.ends()
    index.put(KEYS[0], "beyond")
    match fault:
        case "missing":
            index.drop_head(KEYS[0])
        case "stale":
            index.set_head(KEYS[0], stamp=index.head(KEYS[0]).stamp - 64)
        case "unfinished":
            index.drop_chunk(KEYS[0])
    assert found(index.verify(ends)) == {fault: ("s:d0",)}


def test_a_delete_that_only_the_log_has_is_found_whatever_comes_after(index: Index) -> None:
    index.delete(KEYS[0])
    ends = index.ends()
    index.put(KEYS[0], "beyond")
    assert found(index.verify(ends)) == {"orphan": ("s:d0",)}


# ----------------------------------------------------------------------------------- nulls


@pytest.mark.parametrize("compacted", [False, True])
def test_a_null_means_gone_with_a_tombstone_or_without(index: Index, compacted: bool) -> None:
    for key in KEYS[:2]:
        index.delete(key)
    index.follow()
    for key in KEYS[:2]:
        index.forget(key)
    index.follow()
    index.drop_head(KEYS[1])  # as in a generation that was built after the delete was forgotten
    if compacted:
        index.compact()
    result = index.verify()
    assert (found(result), result.documents, result.heads["deleted"]) == ({}, 10, 1)


@pytest.mark.parametrize("kept", [True, False], ids=["null kept", "null forgotten"])
def test_a_head_that_outlived_a_null_is_an_orphan(index: Index, kept: bool) -> None:
    index.forget(KEYS[0])
    index.compact()
    if not kept:
        index.broker.log._clock = lambda: LATER + 1e10
        index.put(KEYS[1], "dirty")
        index.follow()
        index.compact()
    assert found(index.verify()) == {"orphan": ("s:d0",)}


def test_a_null_beyond_the_ends_is_no_newer_version(index: Index) -> None:
    ends = index.ends()
    index.forget(KEYS[0])
    index.compact()
    assert found(index.verify(ends)) == {"orphan": ("s:d0",)}


def test_a_document_that_came_back_after_a_null_is_live(index: Index) -> None:
    index.delete(KEYS[0])
    index.follow()
    index.forget(KEYS[0])
    index.put(KEYS[0], "back")
    assert found(index.verify()) == {"stale": ("s:d0",)}
    index.follow()
    assert found(index.verify()) == {}


# ------------------------------------------------------------------------ keys and records


def test_keys_of_any_script_and_bytes_that_are_not_utf_8_are_named(index: Index) -> None:
    odd = [
        DocumentKey("källa", "dossier/été 漢字 👩‍👩‍👧.md"),
        DocumentKey("s", b"caf\xe9".decode("utf-8", "surrogateescape")),
        DocumentKey("a:b", "100%"),
        DocumentKey("", ""),
        DocumentKey("s", "nul \x00 and\nnewline"),
    ]
    for key in odd:
        index.put(key, f"of {key.path!r}")
    index.follow()
    assert found(index.verify()) == {}
    for key in odd:
        index.drop_head(key)
    shown = index.verify()
    assert {DocumentKey.from_text(text) for text in found(shown)["missing"]} == set(odd)
    json.dumps(shown.as_json()).encode()


def test_a_malformed_record_with_a_readable_key_is_a_version(index: Index) -> None:
    index.spoil(KEYS[0])
    index.spoil(DocumentKey("s", "never was one"))
    named = {kind: set(keys) for kind, keys in found(index.verify()).items()}
    assert named == {"stale": {"s:d0"}, "missing": {"s:never was one"}}
    index.follow()
    result = index.verify()
    assert (found(result), result.heads["failed"], result.documents) == ({}, 2, 13)


def test_a_malformed_delete_is_a_version_that_failed(index: Index) -> None:
    value: Encoded = encode_event(DocumentDeleted(KEYS[0], Provenance(1.0)))
    index.write(value.key, value.value, tuple(one for one in value.headers if one[0] != "vectide-event-time"))
    index.follow()
    result = index.verify()
    assert (found(result), result.heads["failed"]) == ({}, 1)


@pytest.mark.parametrize("key", [None, b"", b"\x00\x00\x00\x09short"])
@pytest.mark.parametrize("value", [None, b"{}"])
def test_a_record_without_a_readable_key_is_of_no_document(
    index: Index, key: bytes | None, value: bytes | None
) -> None:
    index.write(key, value)
    index.follow()
    ends = index.ends()
    index.drop_head(KEYS[0])
    index.write(key, value)
    result = index.verify(ends)
    assert (found(result), result.documents) == ({"missing": ("s:d0",)}, 12)


# ------------------------------------------------------------------------ bounds and errors


def test_a_head_that_two_pages_of_the_store_share_counts_once_as_a_finding(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_head(DocumentKey("s", "unknown"), version_of(EPOCH, 0), state="failed")
    pages = [index.collection.scan_heads(None, 100, ["failed"]) for _ in range(2)]
    monkeypatch.setattr(index.collection, "scan_heads", lambda *_: (pages.pop()[0], "next" if pages else None))
    assert found(index.verify()) == {"orphan": ("s:unknown",)}


@pytest.mark.parametrize("page", [1, 2, 5, 12, 13])
def test_pages_of_any_size_give_the_same(index: Index, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_PAGE", page)
    monkeypatch.setattr(log, "_PAGE", page)
    monkeypatch.setattr(comparison, "_DOCUMENTS", page)
    for key in KEYS[:4]:
        index.drop_head(key)
    for key in KEYS[4:8]:
        index.drop_chunk(key, 1)
    named = {kind: set(keys) for kind, keys in found(index.verify()).items()}
    assert named == {
        "missing": {key.text for key in KEYS[:4]},
        "unfinished": {key.text for key in KEYS[4:8]},
    }


def test_requests_and_pages_are_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_PAGE", 5)
    monkeypatch.setattr(log, "_PAGE", 5)
    monkeypatch.setattr(comparison, "_DOCUMENTS", 5)
    for key in KEYS[:8]:
        index.drop_chunk(key)
        index.set_head(key, metadata={"another": "one"})
    sizes: list[int] = []
    poll = index.broker.reader

    def reader(topic: str, start: Mapping[int, int] | None = None) -> Reader:
        inner = poll(topic, start)
        inner_poll = inner.poll

        def polled(timeout: float, most: int) -> list[Record]:
            sizes.append(most)
            return inner_poll(timeout, most)

        inner.poll = polled  # type: ignore[method-assign]
        return inner

    def noting(name: str, size: Callable[..., int]) -> None:
        asked = getattr(index.collection, name)
        monkeypatch.setattr(index.collection, name, lambda *given: (sizes.append(size(*given)), asked(*given))[1])

    monkeypatch.setattr(index.broker, "reader", reader)
    noting("heads", len)
    noting("scan_chunks", lambda after, limit, docs: max(limit, len(docs)))
    noting("in_cells", lambda of, cells, others, after, limit: limit)
    noting("scan_heads", lambda after, limit, states: limit)
    assert index.verify().named["wrong metadata"].count == 8
    assert max(sizes) == 5


def test_only_so_many_keys_are_named_and_all_are_counted() -> None:
    index = Index()
    for number in range(EXAMPLES + 7):
        index.put(DocumentKey("s", f"d{number}"), "text")
    result = index.verify()
    assert (result.named["missing"].count, len(result.named["missing"].examples)) == (EXAMPLES + 7, EXAMPLES)
    index.broker.close()


def test_progress_is_told_after_each_page(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_PAGE", 5)
    told: list[tuple[str, int]] = []
    index.verify(on_progress=lambda step, done, whole: told.append((step, done)))
    assert told == [("log", 5), ("log", 10), ("log", 12), ("heads", 0), *(("counts", n) for n in range(1, 5))]


@pytest.mark.parametrize("ends", [{0: 1, 1: 1}, {0: 1, 1: 1, 2: 1, 3: 0}, {0: 1, 1: 1, 2: 1000}])
def test_another_topic_than_the_ends_were_taken_of_is_refused(index: Index, ends: dict[int, int]) -> None:
    with pytest.raises(LogDiverged, match="before"):
        index.verify(ends)


def test_a_log_that_does_not_answer_is_not_an_empty_one(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        closed = False

        def poll(self, timeout: float, most: int) -> list[Record]:
            return []

        def caught_up(self) -> bool:
            return False

        def close(self) -> None:
            self.closed = True

    silent = Silent()
    monkeypatch.setattr(index.broker, "reader", lambda topic, start: silent)
    monkeypatch.setattr(log, "_STALL_SECONDS", 0.01)
    with pytest.raises(BrokerUnavailable):
        index.verify()
    assert silent.closed


def test_whatever_ends_a_comparison_its_reader_is_closed(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[Any] = []
    reader = index.broker.reader
    monkeypatch.setattr(index.broker, "reader", lambda *args: (readers.append(reader(*args)), readers[-1])[1])

    def on_progress(step: str, done: int, whole: int) -> None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable) as caught:
        index.verify(on_progress=on_progress)
    assert caught.tb is not None  # it holds the frames, so that nothing is closed by the collector
    assert readers[0]._positions == {}


@pytest.mark.parametrize("request_", ["scan_heads", "tally", "in_cells", "heads", "scan_chunks"])
def test_a_store_that_does_not_answer_says_so(index: Index, request_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise StoreUnavailable("away")

    index.set_head(KEYS[0], metadata={"another": "one"})
    monkeypatch.setattr(index.collection, request_, refuse)
    with pytest.raises(StoreUnavailable):
        index.verify()


def scratch() -> list[str]:
    """Files that this process has open, of which the folder knows nothing any more."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return [str(link.readlink()) for link in links if link.is_symlink() and str(link.readlink()).endswith(" (deleted)")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("fails", [False, True])
def test_the_log_waits_in_a_file_that_is_gone_afterwards(
    index: Index, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "_CACHE_KIB", 16)
    before = scratch()
    for number in range(200):
        index.put(DocumentKey("s", f"{number} {'long ' * 400}"), "text")
    during: list[int] = []

    def on_progress(step: str, done: int, whole: int) -> None:
        during.append(len(scratch()))
        if fails and step == "suspects":
            raise StoreUnavailable("away")

    if fails:
        with pytest.raises(StoreUnavailable):
            index.verify(on_progress=on_progress)
    else:
        with index.verify(on_progress=on_progress) as verdict:
            assert verdict.named["missing"].count == 200
    assert max(during) > len(before)
    assert scratch() == before


def test_no_room_for_the_file_is_waited_out(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    # More pages than this are a full disk.
    monkeypatch.setattr(expectations, "_TABLES", f"PRAGMA max_page_count = 12; {expectations._TABLES}")
    for number in range(100):
        index.put(DocumentKey("s", f"{number} {'long ' * 400}"), "text")
    with pytest.raises(Transient, match=r"full.*TMPDIR"):
        index.verify()


# -------------------------------------------------------------------------------- at random

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "forget", "spoil", "omit", "follow", "compact"]),
        st.integers(0, 5),
        st.text("abc|", max_size=6),
    ),
    max_size=40,
)


def apply(index: Index, changes: list[tuple[str, int, str]]) -> dict[DocumentKey, str]:
    """Carry a history out; what the log says of each document in the end."""
    last: dict[DocumentKey, str] = {}
    for change, number, text in changes:
        key = KEYS[number]
        match change:
            case "follow":
                index.follow()
            case "compact":
                index.compact()
            case "delete":
                index.delete(key)
                last[key] = "deleted"
            case "forget":
                # As the runner does it: only a delete that every generation has committed.
                if last.get(key) == "deleted":
                    index.follow()
                    index.forget(key)
                    last[key] = "gone"
            case "spoil":
                index.spoil(key)
                last[key] = "live"
            case _:
                index.put(key, None if change == "omit" else text)
                last[key] = "live"
    return last


@given(CHANGES, CHANGES, st.booleans())
@examples(150)
def test_any_history_that_was_followed_is_equal_whatever_comes_after_the_ends(
    before: list[tuple[str, int, str]], after: list[tuple[str, int, str]], compacted: bool
) -> None:
    index = Index()
    try:
        last = apply(index, before)
        index.follow()
        ends = index.ends()
        apply(index, after)
        if compacted:
            index.compact()
        result = index.verify(ends)
        assert found(result) == {}
        if not any(change in ("put", "omit", "spoil", "delete") for change, *_ in after):
            assert result.documents == sum(state == "live" for state in last.values())
    finally:
        index.broker.close()


@given(CHANGES, st.sampled_from(["head", "version", "chunk", "unknown"]), st.randoms(use_true_random=False))
@examples(200)
def test_one_fault_in_any_history_is_found_with_its_key_and_nothing_else(
    changes: list[tuple[str, int, str]], fault: str, random: Any
) -> None:
    index = Index()
    try:
        index.put(KEYS[6], "at least|this one")
        last = apply(index, changes)
        index.follow()
        heads = [head for head in index.collection._heads.values() if last.get(head.key) != "gone"]
        live = [head for head in heads if head.state != "deleted"]
        listing = [head for head in live if head.chunks]
        head = random.choice({"head": live, "version": heads, "chunk": listing}.get(fault, live))
        expected = {"head": "missing", "version": "stale", "chunk": "unfinished", "unknown": "orphan"}[fault]
        match fault:
            case "head":
                index.drop_head(head.key)
            case "version":
                index.set_head(head.key, stamp=head.stamp - random.randint(1, head.stamp % (1 << 40) + 64))
            case "chunk":
                index.drop_chunk(head.key, random.randrange(len(head.chunks)))
            case "unknown":
                head = Head(DocumentKey("s", "unknown"), 0, "complete", 0, 1.0)
                end = index.ends()[partition_of(head.key.to_bytes(), PARTITIONS)]
                index.add_head(head.key, version_of(EPOCH, random.randrange(end)) if end else 0)
        assert found(index.verify()) == {expected: (head.key.text,)}
    finally:
        index.broker.close()
