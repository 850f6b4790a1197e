"""Names that never change meaning: document keys, versions, stamps, chunk ids and hashes."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

from pipeline.errors import MalformedRecord, Poison

#: Offsets below an epoch: 2**40 records in one partition of one documents topic.
OFFSET_BITS: Final = 40
#: Epochs below this keep stamps under 2**50, which survives a trip through a float (design: stamps).
MAX_EPOCH: Final = 16
#: Re-runs of one version (repair, dead-letter replay) that a stamp can tell apart.
ATTEMPTS: Final = 64

_NAMESPACE: Final = uuid.UUID("5b6d6c1e-1d0c-5a2f-9c59-0f5f2a1d7e31")

_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_BROKEN: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

Scalar: TypeAlias = str | int | float | bool
MetadataValue: TypeAlias = Scalar | list[str]
Metadata: TypeAlias = Mapping[str, MetadataValue]


@dataclass(frozen=True)
class DocumentKey:
    """What a document is called: the source's id and the path inside it, any Unicode.

    A path that is not UTF-8 on disk is carried as Python does it (surrogateescape), and survives
    the way through Kafka and the store byte for byte.
    """

    source: str
    path: str

    def to_bytes(self) -> bytes:
        """The key of its records: 4 bytes of length, the source, the path (both UTF-8).

        Raises:
            Poison: it has a surrogate that stands for no byte; nothing on disk is called so.
        """
        source, path = _bytes(self.source), _bytes(self.path)
        return len(source).to_bytes(4, "big") + source + path

    @classmethod
    def from_bytes(cls, data: bytes) -> DocumentKey:
        """The inverse of :meth:`to_bytes`.

        Raises:
            MalformedRecord: the length prefix does not fit the bytes.
        """
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 or len(data) < 4 + size:
            raise MalformedRecord(f"document key of {len(data)} bytes has a broken length prefix")
        return cls(
            data[4 : 4 + size].decode("utf-8", "surrogateescape"),
            data[4 + size :].decode("utf-8", "surrogateescape"),
        )

    @cached_property
    def text(self) -> str:
        """``source:path`` for people, JSON and the command line; :meth:`from_text` reverses it.

        Only ``%``, a ``:`` in the source and bytes that are not UTF-8 are percent-encoded.
        """
        return f"{_escape(self.source).replace(':', '%3A')}:{_escape(self.path)}"

    @classmethod
    def from_text(cls, text: str) -> DocumentKey:
        """The inverse of :attr:`text`.

        Raises:
            MalformedRecord: there is no ``:`` between source and path, or a broken escape.
        """
        source, colon, path = text.partition(":")
        if not colon:
            raise MalformedRecord(f"document key {text!r} is not of the form source:path")
        return cls(_unescape(source), _unescape(path))

    @cached_property
    def doc(self) -> str:
        """The store's id of this document: a UUID, also the id of its head point."""
        return _uuid(b"head", self.to_bytes())


def version_of(epoch: int, offset: int) -> int:
    """A document's version: its place in the log.

    Raises:
        ValueError: the epoch or the offset is outside what a stamp can hold.
    """
    if not 0 <= epoch < MAX_EPOCH or not 0 <= offset < 1 << OFFSET_BITS:
        raise ValueError(f"epoch {epoch} or offset {offset} is out of range")
    return (epoch << OFFSET_BITS) + offset


def offset_in(version: int) -> int:
    """The offset inside a version."""
    return version % (1 << OFFSET_BITS)


def stamp_of(version: int, attempt: int = 0) -> int:
    """What every guard of the store protocol compares: version * 64 + attempt."""
    if not 0 <= attempt < ATTEMPTS:
        raise ValueError(f"attempt {attempt} is not in 0..{ATTEMPTS - 1}")
    return version * ATTEMPTS + attempt


def version_in(stamp: int) -> int:
    """The version inside a stamp."""
    return stamp // ATTEMPTS


def attempt_in(stamp: int) -> int:
    """The attempt inside a stamp."""
    return stamp % ATTEMPTS


def content_hash(embedded_text: str) -> str:
    """128 bits, in hex, over exactly the text that the model is given (without its prompt)."""
    return hashlib.blake2b(embedded_text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def chunk_id(key: DocumentKey, content: str, occurrence: int) -> str:
    """The point id of a chunk: a UUID of (document key, content hash, how many of it came before)."""
    return _uuid(b"chunk", key.to_bytes(), bytes.fromhex(content), occurrence.to_bytes(4, "big"))


def filter_hash(fields: Mapping[str, Any]) -> str:
    """64 bits, in hex, over the declared filter fields as they are copied to chunks."""
    return hashlib.blake2b(canonical_json(fields), digest_size=8).hexdigest()


def fingerprint(spec: Mapping[str, Any]) -> str:
    """64 bits, in hex, over a spec: equal specs have equal fingerprints, on every machine."""
    return hashlib.sha256(canonical_json(spec)).hexdigest()[:16]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: one byte string for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def occurrences(hashes: Sequence[str]) -> list[int]:
    """For each hash of a document's chunks, in reading order, how many equal ones came before."""
    seen: dict[str, int] = {}
    result = []
    for content in hashes:
        result.append(seen.get(content, 0))
        seen[content] = result[-1] + 1
    return result


def _uuid(*parts: bytes) -> str:
    # uuid5 takes text; we have bytes, and lengths keep (a, bc) apart from (ab, c).
    digest = hashlib.sha1(_NAMESPACE.bytes, usedforsecurity=False)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return str(uuid.UUID(bytes=digest.digest()[:16], version=5))


def _escape(text: str) -> str:
    return "".join(
        f"%{ord(char) - 0xDC00:02X}" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in text.replace("%", "%25")
    )


def _unescape(text: str) -> str:
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise MalformedRecord(f"document key {text!r}: {error}") from None
    if _BROKEN.search(data):
        raise MalformedRecord(f"document key {text!r} has a broken %-escape")
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), data).decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Poison("not_unicode", f"document key {text!r}: {error}") from None
