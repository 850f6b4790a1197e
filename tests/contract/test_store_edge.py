"""The embedded store's own ground: killed processes, a second process, half-made collections, bad folders."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cells import chunk_cell, document_cells, head_cells
from pipeline.errors import CollectionMissing, Fatal, ForeignCollection, StateInUse, StoreBusy, StoreUnavailable
from pipeline.identity import filter_hash
from pipeline.points import Alignment, Sweep
from pipeline.store.edge import EdgeEngine, EdgeStore
from tests.contract.store_points import SPEC, chunk, chunks_of, contents, head, heads_of, key, stamp, vector


def _writer(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.edge_writer", str(directory)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.processes
def test_sigkill_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """Given a process that writes, when it is killed at a random moment and the store is opened again, then
    everything it was told is written is there, and what it deleted is not; four times over.
    """
    seed = int(os.environ.get("VECTIDE_TEST_SEED") or secrets.randbelow(1 << 32))
    print(f"VECTIDE_TEST_SEED={seed}")
    random_ = random.Random(seed)
    last = -1
    for _ in range(4):
        writer = _writer(tmp_path)
        assert writer.stdout is not None
        for line in writer.stdout:
            last = int(line)
            if random_.random() < 0.03:
                break
        writer.send_signal(signal.SIGKILL)
        # What was printed before the kill was acknowledged as well.
        last = max([last, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        writer.wait(30)
        writer.stdout.close()
        store = EdgeStore(tmp_path)
        collection = store.open(SPEC.name)
        heads = collection.heads([key(f"d{n}").doc for n in range(last + 1)])
        assert len(heads) == last + 1
        texts = {one.text for one in chunks_of(collection)}
        swept = {n - 1 for n in range(2, last + 1, 3)}
        for n in range(last + 1):
            expected = {f"text {n} 0", f"text {n} 1"}
            assert texts & expected == (set() if n in swept else expected) or n >= last, n
        store.close()
    assert last > 10


@pytest.mark.processes
def test_a_second_process_is_told(tmp_path: Path) -> None:
    """Given a process that has the store open, when another opens it, then it fails at once with what to do."""
    writer = _writer(tmp_path)
    assert writer.stdout is not None
    writer.stdout.readline()
    try:
        with pytest.raises(StateInUse, match="another process"):
            EdgeStore(tmp_path).open(SPEC.name)
    finally:
        writer.kill()
        writer.wait(30)
        writer.stdout.close()
    store = EdgeStore(tmp_path)
    assert store.open(SPEC.name).count_heads()["complete"] > 0
    store.close()


def test_what_was_flushed_is_there_after_reopening(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    collection = store.create(SPEC)
    point = chunk("d", "text", stamp(1), filters={"acl": "x"})
    collection.upsert_chunks([point], {})
    collection.insert_heads([head("d", stamp(1), point)])
    store.point_alias("live", SPEC.name)
    assert not collection.flush_each_batch
    collection.flush()
    store.close()
    again = EdgeStore(tmp_path)
    reopened = again.open(SPEC.name)
    assert reopened.spec == SPEC
    assert [one.id for one in chunks_of(reopened)] == [point.id]
    assert [hit.text for hit in reopened.search(point.vector, 3, {"acl": ("x",)})] == ["text"]
    assert again.alias("live") == SPEC.name
    again.close()


def test_the_room_of_deleted_points_comes_back(tmp_path: Path) -> None:
    """Given as many deleted points as there are left, when it is flushed, then the folder shrinks and the rest
    is there; and a collection that was made before that was done is treated alike.
    """
    store = EdgeStore(tmp_path)
    collection = store.create(SPEC)
    count, rounds = 400, 10
    kept = [chunk("kept", f"kept {n}", stamp(1)) for n in range(count)]
    collection.upsert_chunks(kept, {})
    for n in range(rounds):
        collection.upsert_chunks([chunk(f"d{n}", f"text {n} {one}", stamp(1)) for one in range(count)], {})
    store.close()
    store = EdgeStore(tmp_path)
    collection = store.open(SPEC.name)
    segments = tmp_path / SPEC.name / "shard" / "segments"
    collection.flush()
    before = _bytes(segments)
    for n in range(rounds):
        collection.sweep([Sweep(key(f"d{n}").doc, frozenset(), stamp(1))])
    collection.flush()
    assert _bytes(segments) < before / 2
    assert {one.id for one in chunks_of(collection)} == {one.id for one in kept}
    store.close()
    again = EdgeStore(tmp_path)
    assert {one.id for one in chunks_of(again.open(SPEC.name))} == {one.id for one in kept}
    again.close()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_a_creation_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    """Given a folder whose creation died before it was complete, when it is made again, then it works."""
    shard = tmp_path / SPEC.name / "shard"
    shard.mkdir(parents=True)
    (shard / "half a segment").write_bytes(b"\0" * 100)
    store = EdgeStore(tmp_path)
    assert store.names("") == []
    with pytest.raises(CollectionMissing):
        store.open(SPEC.name)
    store.create(SPEC).insert_heads([head("d", stamp(1))])
    assert store.open(SPEC.name).count_heads() == {"complete": 1}
    store.close()


def test_a_drop_that_was_cut_off_leaves_no_collection(tmp_path: Path) -> None:
    """Given a drop that died after its first step, when names are asked for, then the collection is not one."""
    store = EdgeStore(tmp_path)
    store.create(SPEC)
    store.close()
    (tmp_path / SPEC.name / "collection.json").unlink()
    again = EdgeStore(tmp_path)
    assert again.names("") == []
    assert again.create(SPEC).count_chunks() == 0
    again.close()


@pytest.mark.parametrize("done", ["nothing", "a part"])
def test_a_drop_that_was_killed_leaves_no_text_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: str
) -> None:
    """Given a kill while the folder is removed, then it is no collection, and the next start removes the rest."""

    class Killed(BaseException):
        pass

    def kill(path: Path, **given: object) -> None:
        if path.exists():
            described = next(iter(path.rglob("collection.json")), None)
            if done == "a part" and described is not None:
                described.unlink()
            raise Killed

    store = EdgeStore(tmp_path)
    store.create(SPEC).upsert_chunks([chunk("gone", SECRET, stamp(1), at=(0, 1, 0))], {})
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.store.edge.shutil.rmtree", kill)
        with pytest.raises(Killed):
            store.drop(SPEC.name)
    assert store.names("") == []
    store.close()
    assert _files_with(tmp_path, SECRET)
    again = EdgeStore(tmp_path)
    assert _files_with(tmp_path, SECRET) == []
    assert again.create(SPEC).count_chunks() == 0
    again.drop(SPEC.name)
    again.drop(SPEC.name)
    assert again.names("") == []
    again.close()


@pytest.mark.parametrize("described", ["{", "[]", "{}", json.dumps({"made_by": "another"}), "null"])
def test_a_foreign_folder_is_refused(tmp_path: Path, described: str) -> None:
    folder = tmp_path / SPEC.name
    folder.mkdir()
    (folder / "collection.json").write_text(described)
    store = EdgeStore(tmp_path)
    with pytest.raises(ForeignCollection):
        store.open(SPEC.name)
    with pytest.raises(ForeignCollection):
        store.create(SPEC)
    assert (folder / "collection.json").read_text() == described


def test_a_later_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create(SPEC)
    store.close()
    path = tmp_path / SPEC.name / "collection.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ForeignCollection, match="upgrade"):
        EdgeStore(tmp_path).open(SPEC.name)


def test_a_damaged_shard_is_fatal_and_says_what_to_do(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create(SPEC)
    store.close()
    for path in (tmp_path / SPEC.name / "shard").rglob("*.json"):
        path.write_text("no json")
    with pytest.raises(Fatal, match="built again from the sources"):
        EdgeStore(tmp_path).open(SPEC.name)


def test_a_folder_that_cannot_be_made_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Fatal, match="--state"):
        EdgeStore(tmp_path / "file" / "store")


def test_a_folder_that_vanished_is_unavailable(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path / "store")
    (tmp_path / "store").rmdir()
    with pytest.raises(StoreUnavailable):
        store.check()


# -------------------------------------------------------------------------------------- purge

SECRET = "QxZjKw19VbPt"


def _files_with(folder: Path, text: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def _with_a_deleted_chunk(folder: Path) -> EdgeStore:
    store = EdgeStore(folder)
    collection = store.create(SPEC)
    for name in ("kept", "gone"):
        text = SECRET if name == "gone" else f"text of {name}"
        collection.upsert_chunks([chunk(name, text, stamp(1), at=(0, 1, 0))], {})
        collection.insert_heads([head(name, stamp(1))])
    collection.sweep([Sweep(key("gone").doc, frozenset(), stamp(1))])
    collection.flush()
    return store


def test_purged_files_have_no_byte_of_what_was_deleted_and_all_else(tmp_path: Path) -> None:
    """Given a text that only files still hold, then it is in none of them, and the rest can be read and written."""
    store = _with_a_deleted_chunk(tmp_path)
    assert _files_with(tmp_path, SECRET), "the engine keeps it in its segments and its log"
    collection = store.open(SPEC.name)
    before = contents(collection)
    assert store.purge(SPEC.name)
    assert _files_with(tmp_path, SECRET) == []
    assert contents(collection) == before
    collection.replace_heads([head("kept", stamp(2), state="deleted")], {key("kept").doc: stamp(1)})
    assert collection.heads([key("kept").doc])[key("kept").doc].state == "deleted", "operations go on being applied"
    store.close()
    again = EdgeStore(tmp_path)
    assert again.open(SPEC.name).heads([key("kept").doc])[key("kept").doc].stamp == stamp(2)
    again.close()


@pytest.mark.parametrize("state", ["new beside old", "old aside", "old aside, new in place"])
def test_a_purge_that_was_cut_off_leaves_one_whole_collection(tmp_path: Path, state: str) -> None:
    store = _with_a_deleted_chunk(tmp_path)
    before = contents(store.open(SPEC.name))
    store.close()
    shard = tmp_path / SPEC.name / "shard"
    fresh, old = shard.with_name("shard.new"), shard.with_name("shard.old")
    shutil.copytree(shard, fresh)
    if state != "new beside old":
        shard.rename(old)
    if state == "old aside, new in place":
        fresh.rename(shard)
    again = EdgeStore(tmp_path)
    assert contents(again.open(SPEC.name)) == before
    assert sorted(path.name for path in shard.parent.iterdir()) == ["collection.json", "shard"]
    again.close()


def test_readers_go_on_while_files_are_written_anew(tmp_path: Path) -> None:
    store = _with_a_deleted_chunk(tmp_path)
    collection = store.open(SPEC.name)
    stop, found, failed = threading.Event(), [], []

    def reads() -> None:
        while not stop.is_set():
            try:
                found.append(len(collection.search(vector(0, 1, 0), 5)))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=reads) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        store.purge(SPEC.name)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert set(found) == {1}
    store.close()


def test_tallies_are_exact_under_churn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given points that are written, written over, aligned and swept by the hundred, with the room of deleted ones
    given back and the store opened again in between, then every tally counts what is there, by the index alone.
    """
    seed = int(os.environ.get("VECTIDE_TEST_SEED") or secrets.randbelow(1 << 32))
    print(f"VECTIDE_TEST_SEED={seed}")
    random_ = random.Random(seed)
    monkeypatch.setattr("pipeline.store.edge.VACUUM_POINTS", 100)
    monkeypatch.setattr("pipeline.store.edge.VACUUM_DELETED", 0.2)
    store = EdgeStore(tmp_path)
    collection = store.create(SPEC)
    walks: list[str] = []
    counted = EdgeEngine._walked
    monkeypatch.setattr(EdgeEngine, "_walked", lambda *given: (walks.append("walked"), counted(*given))[1])
    for step in range(12):
        names = [f"d{random_.randrange(400)}" for _ in range(150)]
        points = [chunk(name, f"{name} {random_.randrange(6)}", stamp(step)) for name in names]
        collection.upsert_chunks(points, {key(name).doc: stamp(step) for name in names})
        collection.insert_heads([head(name, stamp(step)) for name in names[:50]])
        fields = {"acl": random_.choice("xyz")}
        collection.align([Alignment(key(name).doc, fields, filter_hash(fields), stamp(step)) for name in names[:30]])
        gone = names[50 : random_.randint(60, 150)]
        collection.sweep([Sweep(key(name).doc, frozenset(), stamp(step)) for name in gone])
        if step % 4 == 3:
            collection.flush()
        if step % 5 == 4:
            store.close()
            store = EdgeStore(tmp_path)
            collection = store.open(SPEC.name)
        there = chunks_of(collection, page=1_000)
        expected = {
            "heads": Counter(cell for one in heads_of(collection, page=1_000) for cell in head_cells(one)),
            "documents": Counter(cell for one in there for cell in document_cells(one.doc, one.filter_hash)),
            "chunks": Counter(chunk_cell(one.id) for one in there),
        }
        for of, cells in expected.items():
            counts = collection.tally(of)  # type: ignore[arg-type]
            assert {int(cell): int(counts[cell]) for cell in counts.nonzero()[0]} == cells, (step, of)
    assert walks == []
    store.close()


def test_a_tally_that_does_not_add_up_is_counted_point_by_point(tmp_path: Path) -> None:
    """Given an index that counts a point twice, as one may while it is moved, then the points are walked."""
    store = EdgeStore(tmp_path)
    collection = store.create(SPEC)
    points = [chunk(f"d{number}", "text", stamp(1)) for number in range(20)]
    collection.upsert_chunks(points, {})
    right = collection.tally("documents")

    class Twice:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def facet(self, request: Any) -> Any:
            found = self._inner.facet(request)
            first, *others = found.hits
            return SimpleNamespace(hits=[SimpleNamespace(value=first.value, count=first.count + 1), *others])

    engine: Any = collection._engine
    engine._shard = Twice(engine._shard)
    assert (collection.tally("documents") == right).all()
    assert right.sum() == 40
    store.close()


def test_a_collection_is_not_begun_where_the_disk_has_no_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine writes to mapped files: with no page left for them the kernel kills the process."""
    store = EdgeStore(tmp_path)
    monkeypatch.setattr("pipeline.store.edge.shutil.disk_usage", lambda folder: SimpleNamespace(free=100 << 20))
    with pytest.raises(StoreBusy, match="100 MiB are free"):
        store.create(SPEC)
    assert store.names("") == []
    monkeypatch.undo()
    assert store.create(SPEC).count_chunks() == 0
