"""The index of topics: held against what the records say, in any order in which partitions can be read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.kafka.index import Index, Put, Truncate
from pipeline.errors import SourceUnavailable
from pipeline.ports import TopicPartition

A, B, OTHER = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = begun(tmp_path)
    yield found
    found.close()


def begun(folder: Path | None) -> Index:
    index = Index(folder)
    index.begin("made of these")
    index.add([A, B, OTHER], 1.0)
    return index


def put(path: str, at: TopicPartition, offset: int, time: float, gone: bool = False) -> Put:
    return Put(path, at, offset, time, gone)


def listed(index: Index, end: int = 1 << 40) -> dict[str, tuple[TopicPartition, int]]:
    found = [(path, (place.at, place.offset)) for path, place in index.documents({A: end, B: end, OTHER: end})]
    assert len(dict(found)) == len(found), "a document is listed twice"
    return dict(found)


def expected(logs: dict[TopicPartition, list[Put | Truncate]]) -> dict[str, tuple[TopicPartition, int]]:
    """By the rules as they are written in docs/connectors.md."""
    last: dict[tuple[str, TopicPartition], tuple[float, int, bool]] = {}
    for at, log in logs.items():
        for one in log:
            if isinstance(one, Put):
                last[one.path, at] = (one.time, one.offset, one.gone)
            else:
                for (path, where), (time, offset, _) in last.items():
                    if where == at and path.startswith(one.path + "/"):
                        last[path, where] = (time, offset, True)
    cuts = {at: max((one.time for one in log if isinstance(one, Truncate)), default=-1.0) for at, log in logs.items()}
    documents: dict[str, tuple[float, TopicPartition, int, bool]] = {}
    for (path, at), (time, offset, gone) in last.items():
        cut = max((time for other, time in cuts.items() if other != at and other.topic == at.topic), default=-1.0)
        one = (time, at, offset, gone or time <= cut)
        documents[path] = max(documents.get(path, one), one)
    return {path: (at, offset) for path, (_, at, offset, gone) in documents.items() if not gone}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_order_partitions_are_read_in_the_documents_are_the_same(seed: int) -> None:
    """Given logs of several partitions with the same keys, deletes and truncations, when they are read in portions
    in any order, some of them twice, then the index has what the logs say.
    """
    chance = random.Random(seed)
    logs: dict[TopicPartition, list[Put | Truncate]] = {A: [], B: [], OTHER: []}
    for offset in range(40):
        for at, log in logs.items():
            time = float(chance.randrange(1, 30))
            if chance.random() < 0.04:
                log.append(Truncate(at.topic, at, offset, time))
            else:
                path = f"{at.topic}/{chance.randrange(6)}"
                log.append(put(path, at, offset, time, gone=chance.random() < 0.3))
    index = begun(None)
    read = dict.fromkeys(logs, 0)
    while any(read[at] < len(log) for at, log in logs.items()):
        at = chance.choice(list(logs))
        if chance.random() < 0.1:
            read[at] = max(0, read[at] - 5)  # as after a restart
        portion = logs[at][read[at] : read[at] + chance.randrange(1, 8)]
        read[at] += len(portion)
        index.apply(portion, {at: read[at]})
    wanted = expected(logs)
    assert listed(index) == wanted, f"seed {seed}"
    for path in (f"{topic}/{number}" for topic in "tu" for number in range(6)):
        place = index.find(path)
        there = None if place is None or place.gone else (place.at, place.offset)
        assert there == wanted.get(path), f"seed {seed}, {path}"
    index.close()


def test_a_page_ends_where_the_listing_was_begun(index: Index) -> None:
    """Given a listing, when what it has not reached is written again behind its end, then that is left to hints."""
    index.apply([put(f"t/{number:04}", A, number, 1.0) for number in range(2500)], {A: 2500})
    documents = index.documents({A: 2500})
    found = [next(documents)[0] for _ in range(1500)]
    index.apply([put("t/0001", A, 2500, 1.0), put("t/2400", A, 2501, 1.0)], {A: 2502})
    found += [path for path, _ in documents]
    assert len(found) == len(set(found)) == 2499
    assert "t/2400" not in found


def test_a_listing_outlives_an_index_that_is_begun_anew(index: Index) -> None:
    index.apply([put("t/a", A, 0, 1.0), put("t/b", B, 0, 1.0)], {A: 1, B: 1})
    documents = index.documents({A: 1, B: 1})
    assert next(documents)[0] == "t/a"
    index.begin("made of others")
    assert list(documents) == []


def test_what_was_read_is_there_after_a_restart(tmp_path: Path) -> None:
    first = begun(tmp_path)
    first.apply([put("t/a", A, 5, 1.0), Truncate("u", OTHER, 3, 9.0)], {A: 6, OTHER: 4})
    first.finish()
    first.close()
    again = Index(tmp_path)
    assert (again.kept, again.complete, again.fingerprint) == (True, True, "made of these")
    assert again.nexts() == {A: 6, B: None, OTHER: 4}
    assert again.fresh() == {A: 1.0, B: 1.0, OTHER: 1.0}
    again.add([TopicPartition("u", 1)], 2.0)
    again.apply([put("u/a", TopicPartition("u", 1), 0, 8.0)], {})
    assert listed(again).keys() == {"t/a"}
    found = again.find("u/a")
    assert found is not None
    assert found.gone, "a truncation was forgotten"
    again.begin("others")
    assert (again.complete, again.count(), again.nexts()) == (False, 0, {})
    again.close()


def test_a_second_process_has_an_index_of_its_own(tmp_path: Path) -> None:
    first = begun(tmp_path)
    first.apply([put("t/a", A, 5, 1.0)], {A: 6})
    second = Index(tmp_path)
    assert (second.kept, second.fingerprint) == (False, "")
    second.begin("others")
    second.close()
    assert first.fingerprint == "made of these"
    first.close()
    third = Index(tmp_path)
    assert (third.kept, third.count()) == (True, 1)
    third.close()


def test_a_broken_file_is_made_again_and_no_room_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    index = Index(tmp_path)
    assert index.fingerprint == ""
    index.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceUnavailable, match="index of the topics"):
        Index(tmp_path / "file" / "folder")


def test_deletes_are_remembered_until_they_are_published(index: Index) -> None:
    """Given records that the log has removed, when they are pruned, then deletes stay until they are published, and
    for as long as another partition has a record that they hide.
    """
    index.apply([put("t/old", A, 0, 1.0), put("t/gone", A, 1, 1.0, True), put("t/both", A, 2, 9.0, True)], {A: 3})
    index.apply([put("t/both", B, 7, 1.0)], {B: 8})
    index.prune({A: 3, B: 0}, {A: 1})
    assert index.find("t/old") is None
    gone = index.find("t/gone")
    assert gone is not None
    assert gone.gone
    index.prune({A: 3, B: 0}, {A: 3, B: 8})
    assert index.find("t/gone") is None
    assert listed(index) == {}
    both = index.find("t/both")
    assert both is not None
    assert both.gone


def test_reading_again_brings_nothing_back(index: Index) -> None:
    """Given a truncation that was read, when a restart reads what lay before it again, then that stays gone."""
    log = [put("t/a", A, 0, 1.0), Truncate("t", A, 1, 2.0), put("t/b", A, 2, 3.0)]
    index.apply(log, {A: 3})
    index.apply(log[:1], {A: 1})
    assert listed(index).keys() == {"t/b"}
