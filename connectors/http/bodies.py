"""The bodies of requests and answers: what is decoded and encoded is what the OpenAPI page shows."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from connectors.http.media import KNOWN
from connectors.mapping import NAME, NAMES, TAKEN
from connectors.push.operations import REVISIONS

#: The longest key.
KEY_CHARACTERS: Final = 1024
#: No part between slashes is empty, ``.`` or ``..``: clients and proxies make something else of these on the way.
KEY_PATTERN: Final = r"^(?!\.{1,2}(/|$))[^\x00-\x1f\x7f/]+(/(?!\.{1,2}(/|$))[^\x00-\x1f\x7f/]+)*$"

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
        extra_json_schema={
            "maxProperties": NAMES,
            "propertyNames": {"pattern": f"^(?!({'|'.join(TAKEN)})$){NAME.pattern}$"},
            "additionalProperties": {
                "anyOf": [
                    {"type": "string", "maxLength": 4096},
                    {"type": ["integer", "number", "boolean", "null"]},
                    {"type": "array", "items": {"type": "string", "maxLength": 4096}, "maxItems": 1000},
                ]
            },
        },
    ),
]
MediaType: TypeAlias = Annotated[
    str,
    msgspec.Meta(description="What the text or content is.", extra_json_schema={"examples": list(KNOWN)}),
]
#: What a document's body must have; in a batch as well.
TEXT_OR_CONTENT: Final = {
    "oneOf": [
        {"required": ["text"], "not": {"required": ["content"]}},
        {"required": ["content", "media_type"], "not": {"required": ["text"]}},
    ]
}
#: Likewise of a patch, which may leave both.
TEXT_OR_CONTENT_OR_NONE: Final = {
    "oneOf": [
        {"required": ["text", "media_type"], "not": {"required": ["content"]}},
        {"required": ["content", "media_type"], "not": {"required": ["text"]}},
        {"not": {"anyOf": [{"required": [one]} for one in ("text", "content", "media_type")]}},
    ]
}
Unset: TypeAlias = msgspec.UnsetType
UNSET: Final = msgspec.UNSET
Key: TypeAlias = Annotated[
    str, msgspec.Meta(max_length=KEY_CHARACTERS, pattern=KEY_PATTERN, description="Of the document.")
]


class DocumentBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A whole document: its text, or its content in base64 with a media type."""

    text: str | Unset = UNSET
    content: bytes | Unset = UNSET
    media_type: MediaType | Unset = UNSET
    metadata: Metadata | Unset = UNSET
    revision: Revision | Unset = UNSET
    event_time: Time | Unset = UNSET


class PatchBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A merge patch (RFC 7396) of a document that exists. Another text needs its media type."""

    text: str | Unset = UNSET
    content: bytes | Unset = UNSET
    media_type: MediaType | Unset = UNSET
    metadata: Metadata | Unset | None = UNSET
    revision: Revision | Unset = UNSET
    event_time: Time | Unset = UNSET


class PutItem(DocumentBody, tag_field="op", tag="put", kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Create or replace a document."""

    key: Key


class PatchItem(PatchBody, tag_field="op", tag="patch", kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Change a part of a document."""

    key: Key


class DeleteItem(msgspec.Struct, tag_field="op", tag="delete", forbid_unknown_fields=True, omit_defaults=True):
    """Remove a document."""

    key: Key
    revision: Revision | Unset = UNSET
    event_time: Time | Unset = UNSET


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
