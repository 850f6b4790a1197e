"""The embed stage keeps the part of the protocol that is its own: when a tombstone's chunks are swept."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from pipeline.codec import encode_chunked
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.points import Vectors
from pipeline.ports import NewRecord, Record, TopicPartition, Written
from pipeline.records import ChunkedDocument
from pipeline.stages import repair as walking
from pipeline.stages.embed import EmbedLimits
from pipeline.stages.window import Window
from pipeline.store.memory import MemoryCollection
from pipeline.sync import Embed, ToEmbed, synchronise
from tests.simulation.world import SPEC, World, chunked, deleted
from tests.support.workers import embed_stage

KEY = DocumentKey("source", "document")


class _NoLetters:
    """A publisher for a stage that has nothing to bury."""

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        raise AssertionError(f"dead letters: {records}")

    def close(self, deadline: Deadline) -> None:
        """Nothing is open."""


def _finished_by_the_stage(
    collection: MemoryCollection,
    *documents: ChunkedDocument,
    embed: Embed | None = None,
    window: Window | None = None,
    enough: threading.Event | None = None,
    most: float = 30.0,
) -> list[int]:
    """What a fresh worker finishes of these records, by offset; it writes one chunk at a time."""
    health, metrics = Health(), Metrics()
    stage = embed_stage(
        collection,
        embed or World([KEY]).embed,
        _NoLetters(),
        health,
        metrics,
        EmbedLimits(slice_chunks=1, delete_grace_seconds=0.3),
        enough,
    )
    window = window or Window()
    records = []
    for offset, document in enumerate(documents):
        encoded = encode_chunked(document)
        records.append(Record("chunks", 0, offset, encoded.key, encoded.value, encoded.headers))
    finished: list[int] = []
    stage.start()
    try:
        stage.offer([window.take(record) for record in records])
        deadline = time.monotonic() + most
        while len(finished) < len(records) and time.monotonic() < deadline:
            stage.raise_failure()
            finished += [taken.record.offset for taken in stage.finished()]
            time.sleep(0.01)
    finally:
        stage.stop(Deadline.after(10))
    return finished


def test_a_redelivered_delete_is_finished_only_with_its_sweep() -> None:
    """Given a worker that died between a tombstone and its sweep, when the delete is delivered again, then it
    is finished after the chunks are gone: its offset may not be committed before.
    """
    collection, world = MemoryCollection(SPEC), World([KEY])
    v0, v1 = chunked(KEY, 0, "ab", "x"), deleted(KEY, 1)
    synchronise(collection, [v0], world.embed)
    synchronise(collection, [v1], world.embed, donor_seconds=10.0)
    assert collection.count_chunks() == 2
    assert _finished_by_the_stage(collection, v1) == [0]
    assert collection.count_chunks() == 0


def test_an_event_behind_a_tombstone_is_finished_only_with_the_sweep() -> None:
    """Given a tombstone whose chunks still wait, when an older version is delivered again, then so for it."""
    collection, world = MemoryCollection(SPEC), World([KEY])
    v0, v1 = chunked(KEY, 0, "ab", "x"), deleted(KEY, 1)
    synchronise(collection, [v0], world.embed)
    synchronise(collection, [v1], world.embed, donor_seconds=10.0)
    assert _finished_by_the_stage(collection, v0) == [0]
    assert collection.count_chunks() == 0


@pytest.mark.parametrize("leaves", ["loses its partition", "stops"])
def test_slices_of_a_zombie_do_not_stay(leaves: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a worker in the middle of a big document, whose new owner deletes the document and sweeps, then the
    slice that comes after that does not stand there until a repair walk finds it.
    """
    collection, world, window, enough = MemoryCollection(SPEC), World([KEY]), Window(), threading.Event()
    v0, v1 = chunked(KEY, 0, "abc", "x"), deleted(KEY, 1)
    calls = 0
    monkeypatch.setattr(walking, "_CALM_SECONDS", 1_000.0)

    def embed(items: Sequence[ToEmbed]) -> tuple[dict[str, Vectors], dict[str, str]]:
        nonlocal calls
        calls += 1
        if calls == 2:
            if leaves == "stops":
                enough.set()  # before it has heard of anything
            else:
                window.revoke([TopicPartition("chunks", 0)])
            synchronise(collection, [v1], world.embed, donor_seconds=0)
        return world.embed(items)

    done = _finished_by_the_stage(collection, v0, embed=embed, window=window, enough=enough, most=5.0)
    assert done == ([] if leaves == "stops" else [0])
    assert calls == 2, "nothing is embedded for a partition that is lost"
    assert collection.count_chunks() == 0
