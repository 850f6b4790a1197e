"""What senders ask for, and what they are answered: plain values, without a word about HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from pipeline.identity import Metadata

#: Revisions are whole numbers below this: nanoseconds since 1970 are, and there are always some left above.
REVISIONS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of the document as it is: ``If-Match`` and ``If-None-Match``."""

    revisions: tuple[int, ...] | None = None
    """It must exist and have one of these; empty: any. None: no such condition."""
    absent: bool = False
    """It must not exist."""


ALWAYS: Final = Condition()


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was sent, its text extracted."""

    text: str
    media_type: str
    """What the chunker cuts it as."""
    metadata: Metadata
    found: Mapping[str, Any] = field(default_factory=dict)
    """What else it says of itself, nested: only rules for metadata see it."""


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace a document."""

    path: str
    document: Document
    event_time: float
    revision: int | None = None
    condition: Condition = ALWAYS


@dataclass(frozen=True, slots=True)
class Patch:
    """Change a part of a document that exists."""

    path: str
    metadata: Mapping[str, Any] | None
    """A merge patch (RFC 7396): null removes a name. None removes all."""
    event_time: float
    document: Document | None = None
    """Another text, with what it says of itself."""
    revision: int | None = None
    condition: Condition = ALWAYS


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a document, or say that it is removed: a put of an older revision is refused from then on."""

    path: str
    event_time: float
    revision: int | None = None
    condition: Condition = ALWAYS


Operation: TypeAlias = Put | Patch | Delete

Result: TypeAlias = Literal["created", "changed", "deleted", "unchanged", "refused"]
Refusal: TypeAlias = Literal[
    "stale-revision",  # a newer one is known
    "revision-taken",  # the same one is known, with another content
    "precondition-failed",
    "not-found",
    "forgotten",  # an operator had it forgotten
    "patch-impossible",  # what it is now cannot be told for sure
    "too-large",
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the last event of a document is in the log."""

    partition: int
    offset: int
    at: float
    """When it was published, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one operation."""

    result: Result
    revision: int | None = None
    """That the document has now, deleted ones too. None: nothing was ever heard of it."""
    place: Place | None = None
    """Of its last event. None: there is none in the log, or it was deleted."""
    refusal: Refusal | None = None
    detail: str = ""
