"""Where documents can be found: the records, heads, chunks and letters of some keys or of a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Final

from pipeline.broker.partitioner import partition_of
from pipeline.broker.reading import to_the_end
from pipeline.cli.assembly import Parts
from pipeline.codec import decode_chunked, decode_dead_letter
from pipeline.errors import CollectionMissing, ConfigError, ForeignCollection, NewerSchema, Poison
from pipeline.identity import DocumentKey
from pipeline.points import Head
from pipeline.ports import Collection, Record
from pipeline.records import DeadLetter

_PAGE: Final = 500
#: Dead letters and chunked documents hold whole texts.
_LARGE_PAGE: Final = 100
_HEADS: Final = 256
_STALL_SECONDS: Final = 30.0


class Wanted:
    """Which documents: these keys, or all of a source."""

    def __init__(self, keys: Sequence[DocumentKey] = (), source: str | None = None) -> None:
        self.keys = tuple(keys)
        self.source = source
        self._keys = {key.to_bytes() for key in self.keys}
        self._prefix = None if source is None else DocumentKey(source, "").to_bytes()

    def has(self, key: bytes | None) -> bool:
        """Whether a record with this key is of one of them."""
        if key is None:
            return False
        return key in self._keys if self._prefix is None else key.startswith(self._prefix)

    def partitions(self, count: int) -> set[int]:
        """Where their records can be, of so many partitions."""
        if self._prefix is not None:
            return set(range(count))
        return {partition_of(key, count) for key in self._keys}


def records(parts: Parts, topic: str, wanted: Wanted, page: int = _PAGE) -> Iterator[Record]:
    """Their records in a topic whose partition follows from the document's key; none if there is no such topic.

    Raises:
        BrokerUnavailable: no answer.
    """
    info = parts.broker.topics(topic).get(topic)
    if info is None:
        return
    where = wanted.partitions(info.partitions)
    ends = {partition: bounds.end for partition, bounds in parts.broker.offsets(topic).items()}
    elsewhere = {partition: end for partition, end in ends.items() if partition not in where}
    with closing(to_the_end(parts.broker.reader(topic, elsewhere), topic, page, _STALL_SECONDS)) as pages:
        for record in chain.from_iterable(pages):
            if record.partition in where and wanted.has(record.key):
                yield record


def texts_in_chunks(parts: Parts, topic: str, wanted: Wanted) -> Iterator[Record]:
    """Their records in a chunks topic that hold a text, or may."""
    for record in records(parts, topic, wanted, _LARGE_PAGE):
        try:
            if decode_chunked(record).state == "deleted":
                continue
        except (Poison, NewerSchema):
            pass  # whatever it holds, it is of this document
        yield record


@dataclass(frozen=True, slots=True)
class Letters:
    """Their dead letters."""

    standing: dict[str, DeadLetter]
    """Those that are not resolved, without their records' values."""
    lying: int
    """Letters with a record that can still be read, resolved or not."""
    last: float
    """When the last of these was written; 0: there is none."""
    ended: float = 0.0
    """When the null was written that resolved the last of them; 0: none is resolved."""
    unread: int = 0
    """Letters that cannot be read: nobody knows whose they are."""


def letters(parts: Parts, wanted: Wanted) -> Letters:
    """The dead letters of these documents, in all generations.

    Raises:
        BrokerUnavailable: no answer.
    """
    topic = parts.names.dead_letters
    standing: dict[str, DeadLetter] = {}
    lying, last, ended = 0, 0.0, 0.0
    unread: set[bytes] = set()
    with closing(to_the_end(parts.broker.reader(topic), topic, _LARGE_PAGE, _STALL_SECONDS)) as pages:
        for record in chain.from_iterable(pages):
            try:
                letter = decode_dead_letter(record)
            except (Poison, NewerSchema):
                unread.add(record.key or b"")  # not ours, or not for us to read
                continue
            unread.discard(record.key or b"")
            if letter is None:
                # The first null: one that is written again, after a kill, puts nothing off.
                if standing.pop((record.key or b"").decode(errors="replace"), None) is not None:
                    ended = max(ended, record.timestamp)
            elif wanted.has(letter.record_key):
                standing[letter.id] = letter
                lying, last = lying + 1, max(last, record.timestamp)
    return Letters(standing, lying, last, ended, len(unread))


def collections(parts: Parts) -> Iterator[Collection]:
    """Every collection of this pipeline, of generations that are over too.

    Raises:
        StoreUnavailable: no answer.
    """
    for name in parts.store.names(parts.names.root):
        try:
            yield parts.store.open(name)
        except (CollectionMissing, ForeignCollection):
            continue  # dropped since, or not ours to look into


def heads(collection: Collection, wanted: Wanted) -> Iterator[list[Head]]:
    """The heads of these documents, tombstones too, by the page.

    Raises:
        StoreUnavailable: no answer.
    """
    if wanted.source is None:
        yield from _pages(list(collection.heads([key.doc for key in wanted.keys]).values()))
        return
    after: str | None = None
    while True:
        page, after = collection.scan_heads(after, _HEADS)
        found = [head for head in page if head.key.source == wanted.source]
        if found:
            yield found
        if after is None:
            return


def count_chunks(collection: Collection, docs: Sequence[str]) -> int:
    """How many chunk points there are of these documents."""
    count = 0
    for start in range(0, len(docs), _HEADS):
        after: str | None = None
        while True:
            chunks, after = collection.scan_chunks(after, _HEADS, list(docs[start : start + _HEADS]))
            count += len(chunks)
            if after is None:
                break
    return count


def key_of(text: str) -> DocumentKey:
    """A key as people write it.

    Raises:
        ConfigError: it is none.
    """
    try:
        key = DocumentKey.from_text(text)
        key.to_bytes()
    except Poison as error:
        raise ConfigError(error.detail, "`vectide search --json` shows keys") from None
    return key


def _pages(found: list[Head]) -> Iterator[list[Head]]:
    if found:
        yield found
