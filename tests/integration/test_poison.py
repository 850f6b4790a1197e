"""Poison among good documents: none is lost, each is said once with its cause, and nothing good waits or suffers."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker.reading import to_the_end
from pipeline.broker.topics import chunks_topic
from pipeline.cli.assembly import opened
from pipeline.cli.index import Index
from pipeline.codec import decode_chunked
from pipeline.config import load
from pipeline.deadline import Deadline
from pipeline.errors import MalformedRecord
from pipeline.identity import OFFSET_BITS, DocumentKey, version_of
from pipeline.points import Head
from pipeline.stages import dead_letters
from tests.support.poison import GOOD, KINDS, SOURCE, Expected, good, mixed, planted, unreadable_chunks

pytestmark = pytest.mark.timeout(300)

DOCUMENTS, POISON = 1_000, 100


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """The embedded default, on disk, with the hashing embedder."""
    settings = {"model__provider": "hashing", "model__name": "hashing", "embed__flush_seconds": 0.5}
    with opened(load(None, {}, state=tmp_path / "state", **settings), "test") as parts:
        made = Index(parts, {}, threading.Event())
        yield made
        made.close()


def until_quiet(index: Index) -> None:
    deadline = Deadline.after(200)
    while index.lag():
        assert not deadline.expired, "it never came to its end"
        index.crew.wait(0.05)


def head_of(index: Index, path: str) -> Head | None:
    doc = DocumentKey(SOURCE, path).doc
    return index.collection.heads([doc]).get(doc)


def test_a_tenth_of_poison_costs_the_good_nothing_and_is_said_once_each(index: Index) -> None:
    """Given 1,000 documents, 100 of them poison of every kind, and some whose next version is of the other sort."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    parts, epoch = index.parts, index.parts.config.pipeline.epoch
    topic, chunks = parts.names.documents(epoch), parts.names.chunks(index.spec.id)
    texts = [f"# Document {number}\n\nWords of number w{number} and some more.\n" for number in range(DOCUMENTS)]
    records, expected, keyless = mixed(topic, texts, POISON, seed)
    assert len(keyless) + sum(one is not GOOD for one in expected.values()) == POISON
    # And of some a second version: of good ones poison, of poison good ones
    rng = random.Random(seed)
    letters = Counter({path: 1 for path, one in expected.items() if one.reason})
    mended = rng.sample([path for path, one in expected.items() if one.state == "failed"], 20)
    for path in rng.sample([path for path, one in expected.items() if one is GOOD], 20):
        make, becomes = KINDS["cut off"]
        records.append(make(topic, path, "again"))
        expected[path] = becomes
        letters[path] += 1
    for path in mended:
        records.append(good(topic, path, f"# Mended\n\nmended text of {path}\n"))
        expected[path] = GOOD
    publisher = parts.broker.publisher("test")
    written = publisher.publish(records, Deadline.after(60))
    offsets = {record.key: at.offset for record, at in zip(records, written, strict=True)}
    # And one record in each partition of the next topic that was cut off there
    parts.broker.ensure_topics([chunks_topic(parts.names, index.spec.id, parts.config.pipeline)])
    for number, partition in enumerate(sorted({at.partition for at in written})):
        path, version = f"lost-{number}.md", version_of(epoch, (1 << OFFSET_BITS) - 1)
        lost = unreadable_chunks(chunks, path, index.spec.id, version, partition)
        publisher.publish([lost], Deadline.after(60))
        expected[path] = Expected("failed", "malformed_record")
        letters[path] += 1
    # When the pipeline has gone through them
    with planted() as passes:
        index.start()
        until_quiet(index)
    assert not index.crew.stop.is_set()
    # Then each head says what became of its document, at the version of its last record
    for path, becomes in expected.items():
        head = head_of(index, path)
        assert head is not None, path
        assert head.state == becomes.state, (path, head)
        key = DocumentKey(SOURCE, path)
        if key.to_bytes() in offsets:
            assert head.version == version_of(epoch, offsets[key.to_bytes()]), path
        assert bool(head.reason) == (becomes is not GOOD), path
        if becomes.state == "incomplete":
            assert len(head.missing) == 1
            assert head.chunks, "its other chunks are served"
    # And good documents, and mended ones, are found by what they say
    searched = {path: texts[int(path[1:7])].strip() for path, one in expected.items() if one is GOOD}
    searched |= {path: f"# Mended\n\nmended text of {path}" for path in mended}
    for path in [*rng.sample(sorted(searched), 150), *mended]:
        found = index.search.search(searched[path], 3)
        assert f"{SOURCE}:{path}" in [hit.key for hit in found.hits], path
    # And each poison is among the dead letters, once, with its cause
    standing = dead_letters.standing(parts.broker, parts.names).values()
    by_origin = Counter(letter.origin for letter in standing)
    assert set(by_origin.values()) == {1}
    said: Counter[str] = Counter()
    for letter in standing:
        try:
            said[DocumentKey.from_bytes(letter.record_key or b"").path] += 1
        except MalformedRecord:
            said[""] += 1
            assert letter.reason == "malformed_record"
    assert said.pop("", 0) == len(keyless)
    assert said == letters
    causes = Counter(letter.reason for letter in standing)
    assert causes.keys() == {"malformed_record", "chunking_failed", "embedding_failed"}
    for letter in standing:
        becomes = expected.get(DocumentKey.from_bytes(letter.record_key).path) if letter.record_key != b"\x01" else None
        if becomes is not None and becomes.reason == letter.reason:
            assert becomes.detail in letter.detail
    # And they were written once: not again at each turn
    written_letters = sum(
        bounds.end - bounds.start for bounds in parts.broker.offsets(parts.names.dead_letters).values()
    )
    assert written_letters == len(standing)
    # And the order within a partition was kept
    last: dict[int, int] = {}
    for page in to_the_end(parts.broker.reader(chunks), chunks, 500, 30.0):
        for record in page:
            try:
                version = decode_chunked(record).version
            except MalformedRecord:
                continue
            assert version > last.get(record.partition, -1)
            last[record.partition] = version
    # And no good text was embedded again for the sake of a bad one
    bad = causes["embedding_failed"]
    assert sum(passes) <= parts.metrics.totals()["chunks_embedded"] + 4 * bad
