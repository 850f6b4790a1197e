"""What a connector and the process that reads its documents say to each other, over two pipes.

A frame is 8 bytes of length and so many bytes. A request is two frames: :class:`Asked` and the document. The
answer is one, :class:`Answered`; the first of all is sent without being asked, when the process is ready.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipeline.identity import MetadataValue

#: Of a frame's length.
LENGTH_BYTES: Final = 8
#: The exit code of a process that has used up its memory. Others are of signals.
OUT_OF_MEMORY: Final = 70


class Asked(msgspec.Struct, frozen=True):
    """Read a document."""

    format: str
    """By name."""
    limit: int
    """Most bytes of its text in UTF-8."""
    seconds: int
    """Of processor time, at most."""


class Answered(msgspec.Struct, frozen=True):
    """What is in it, or why it cannot be read."""

    text: str = ""
    media_type: str = ""
    metadata: dict[str, MetadataValue] = {}
    found: dict[str, Any] = {}
    reason: str = ""
    """Not empty: a Poison of this reason."""
    detail: str = ""
    last: bool = False
    """The process has grown, and ends with this."""


encode: Final = msgspec.msgpack.encode
decode_asked: Final = msgspec.msgpack.Decoder(Asked).decode
decode_answered: Final = msgspec.msgpack.Decoder(Answered).decode


def framed(data: bytes) -> bytes:
    """A frame."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data
