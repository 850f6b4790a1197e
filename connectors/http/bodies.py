"""The bodies of requests and answers: what is decoded and encoded is what the OpenAPI page shows."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from connectors.push.operations import REVISIONS

#: The longest key, in bytes of UTF-8.
KEY_BYTES: Final = 1024

Revision: TypeAlias = Annotated[
    int,
    msgspec.Meta(ge=0, lt=REVISIONS, description="The sender's own revision: it only grows. Without it, the next one."),
]
Time: TypeAlias = Annotated[
    float | dt.datetime,
    msgspec.Meta(description="When it changed: seconds since 1970, or ISO 8601. Without it, now."),
]
Metadata: TypeAlias = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="Texts, numbers, truth values and lists of texts, by names of letters, digits, _ and -.",
        max_length=64,
    ),
]
MediaType: TypeAlias = Annotated[str, msgspec.Meta(max_length=255, description="What the text or content is.")]
Key: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_BYTES, description="Of the document.")]


class DocumentBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A whole document: its text, or its content in base64 with a media type."""

    text: str | None = None
    content: bytes | None = None
    media_type: MediaType | None = None
    metadata: Metadata = {}
    revision: Revision | None = None
    event_time: Time | None = None


class PatchBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A merge patch (RFC 7396) of a document that exists. Another text needs its media type."""

    text: str | msgspec.UnsetType = msgspec.UNSET
    content: bytes | msgspec.UnsetType = msgspec.UNSET
    media_type: MediaType | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType | None = msgspec.UNSET
    revision: Revision | None = None
    event_time: Time | None = None


class PutItem(DocumentBody, tag_field="op", tag="put", forbid_unknown_fields=True, omit_defaults=True):
    """Create or replace a document."""

    key: Key = msgspec.field(default="")


class PatchItem(PatchBody, tag_field="op", tag="patch", forbid_unknown_fields=True, omit_defaults=True):
    """Change a part of a document."""

    key: Key = msgspec.field(default="")


class DeleteItem(msgspec.Struct, tag_field="op", tag="delete", forbid_unknown_fields=True, omit_defaults=True):
    """Remove a document."""

    key: Key
    revision: Revision | None = None
    event_time: Time | None = None


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """Operations that are written together, in order."""

    operations: Annotated[list[PutItem | PatchItem | DeleteItem], msgspec.Meta(min_length=1, max_length=500)]


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = ""
    revision: int | None = None
    """That the document has, where that is why."""


class ResultBody(msgspec.Struct, omit_defaults=True):
    """What became of an operation, once the log has it."""

    key: str
    result: Literal["created", "changed", "deleted", "unchanged"]
    revision: int | None = None
    version: int | None = None
    """Of the document in every index: `vectide explain` shows how far it has come."""
    partition: int | None = None
    offset: int | None = None


class ItemBody(msgspec.Struct, omit_defaults=True):
    """What became of one operation of a batch: its status, and a result or a problem."""

    key: str
    status: int
    result: Literal["created", "changed", "deleted", "unchanged", "refused"]
    revision: int | None = None
    version: int | None = None
    partition: int | None = None
    offset: int | None = None
    problem: ProblemBody | None = None


class BatchResultBody(msgspec.Struct):
    """What became of each operation of a batch, in order."""

    items: list[ItemBody]
    refused: int
    """How many of them were not done."""


class StandingBody(msgspec.Struct, omit_defaults=True):
    """What is known of a document: no text and no metadata, for nobody here keeps them."""

    key: str
    revision: int
    version: int | None = None
    partition: int | None = None
    offset: int | None = None
    published_at: float | None = None
    """Seconds since 1970."""
