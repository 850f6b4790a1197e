"""Documents in the log that fail, of every kind, among good ones; and a model and a chunker that fail on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest import mock

import msgspec
import numpy as np

from pipeline.chunking import chunk
from pipeline.codec import encode_chunked, encode_event
from pipeline.embedding import generation
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.identity import DocumentKey
from pipeline.ports import NewRecord
from pipeline.records import ChunkedDocument, DocumentChanged, Provenance

SOURCE: Final = "docs"
_UNTHINKABLE: Final = "unthinkable"
_UNEMBEDDABLE: Final = "unembeddable"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of a document."""

    state: str
    """Of its head; empty: it has none, for not even its key can be read."""
    reason: str = ""
    """Of its one dead letter; empty: it has none."""
    detail: str = ""
    """In that letter's detail."""


GOOD: Final = Expected("complete")


def good(topic: str, path: str, text: str) -> NewRecord:
    """A document as its connector publishes it."""
    event = DocumentChanged(DocumentKey(SOURCE, path), text, {"n": 1}, "text/markdown", "d", Provenance(1.0))
    return NewRecord(topic, *encode_event(event))


def _with(value: Callable[[bytes], bytes]) -> Callable[[str, str, str], NewRecord]:
    def made(topic: str, path: str, text: str) -> NewRecord:
        record = good(topic, path, text)
        return replace(record, value=value(record.value or b""))

    return made


def _bad_metadata(value: bytes) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(value), "metadata": {"nested": {"a": 1}}})


def _with_chunk(word: str) -> Callable[[str, str, str], NewRecord]:
    def made(topic: str, path: str, text: str) -> NewRecord:
        # Too long for one chunk: the others must be served all the same.
        long = " ".join(f"{path}{number}" for number in range(100))
        return good(topic, path, f"{text}\n\n{long}.\n\n# Apart\n\n{word} in {path}\n")

    return made


#: By kind, what makes such a record of the documents topic, and what must become of its document.
KINDS: Final[dict[str, tuple[Callable[[str, str, str], NewRecord], Expected]]] = {
    "cut off": (_with(lambda value: value[: len(value) // 2]), Expected("failed", "malformed_record", "record ")),
    "not unicode": (_with(lambda value: value.replace(b"# ", b"\xff\xfe ", 1)), Expected("failed", "malformed_record")),
    "bad metadata": (_with(_bad_metadata), Expected("failed", "malformed_record", "metadata")),
    "no headers": (
        lambda *of: replace(good(*of), headers=()),
        Expected("failed", "malformed_record", "lacks the headers"),
    ),
    "no key": (lambda *of: replace(good(*of), key=b"\x01"), Expected("", "malformed_record")),
    "not to be cut": (_with_chunk(_UNTHINKABLE), Expected("failed", "chunking_failed", "IndexError: no such place")),
    "one chunk not to be embedded": (_with_chunk(_UNEMBEDDABLE), Expected("incomplete", "embedding_failed", "NaN")),
}


def unreadable_chunks(topic: str, path: str, generation_id: str, version: int, partition: int) -> NewRecord:
    """A record of the chunks topic that was cut off: its document's head says failed, by the record's headers."""
    document = ChunkedDocument(DocumentKey(SOURCE, path), version, generation_id, "chunked", Provenance(1.0), "text")
    record = NewRecord(topic, *encode_chunked(document), partition=partition)
    return replace(record, value=(record.value or b"")[:9])


def mixed(
    topic: str, texts: Sequence[str], poison: int, seed: int
) -> tuple[list[NewRecord], dict[str, Expected], list[Expected]]:
    """Records of good documents and of so many poisonous ones in a random order.

    Returns:
        The records; what must become of each document, by path; and of those without a key.
    """
    rng = random.Random(seed)
    bad = set(rng.sample(range(len(texts)), poison))
    kinds = list(KINDS.values())
    records, expected, keyless = [], {}, []
    for number, text in enumerate(texts):
        path = f"d{number:06}.md"
        make, becomes = kinds[number % len(kinds)] if number in bad else (good, GOOD)
        records.append(make(topic, path, text))
        if becomes.state:
            expected[path] = becomes
        else:
            keyless.append(becomes)
    return records, expected, keyless


@contextmanager
def planted() -> Iterator[list[int]]:
    """The chunker fails on some documents, and the hashing embedder on some texts; yields the size of
    each forward pass.
    """
    passes: list[int] = []
    embed = HashingEmbedder.embed_documents

    def embed_some(self: HashingEmbedder, texts: Sequence[str]) -> Any:
        passes.append(len(texts))
        vectors = embed(self, texts)
        vectors[[_UNEMBEDDABLE in text for text in texts]] = np.nan
        return vectors

    def cut_some(text: str, *more: Any) -> Any:
        if _UNTHINKABLE in text:
            raise IndexError("no such place")
        return chunk(text, *more)

    with (
        mock.patch.object(HashingEmbedder, "embed_documents", embed_some),
        mock.patch.object(generation, "chunk", cut_some),
    ):
        yield passes
