"""Filter fields: the few metadata values that are copied to every chunk, with their types checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipeline.identity import filter_hash
from pipeline.records import ChunkedDocument
from pipeline.specs import FieldType

#: The store keeps integers in 64 bits.
_INTEGER_LIMIT: Final = 1 << 63


class FilterFields(NamedTuple):
    """A document's declared filter fields."""

    values: dict[str, Any]
    hash: str
    rejected: tuple[str, ...]
    """Declared names whose value had the wrong type and was left out: counted, never fatal."""


def filter_fields(document: ChunkedDocument, declared: Mapping[str, FieldType]) -> FilterFields:
    """The declared fields of a document; ``source`` and ``media_type`` are its own, not metadata's.
    A tombstone has none.
    """
    if document.state == "deleted":
        return FilterFields({}, filter_hash({}), ())
    own = {"source": document.key.source, "media_type": document.media_type}
    values: dict[str, Any] = {}
    rejected = []
    for name, kind in sorted(declared.items()):
        value = own[name] if name in own else document.metadata.get(name)
        if value is None:
            continue
        if _fits(value, kind):
            values[name] = list(value) if isinstance(value, (list, tuple)) else value
        else:
            rejected.append(name)
    return FilterFields(values, filter_hash(values), tuple(rejected))


def _fits(value: object, kind: FieldType) -> bool:
    match kind:
        case "tenant":
            return isinstance(value, str)
        case "keyword":
            items = value if isinstance(value, (list, tuple)) else [value]
            return all(isinstance(item, str) for item in items)
        case "bool":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool) and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
