"""The guards of the store protocol as Qdrant filters (its REST JSON); see design: what bites.

``must_not: stamp >= s``, never ``must: stamp < s``: a point without the field never matches ``lt``.
An empty ``should`` matches everything, so :func:`any_of` refuses one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pipeline.points import Alignment, Sweep, Where
from pipeline.store.payload import CELLS_OF, stored_value

#: The store keeps integers in 64 bits.
_INTEGERS: Final = 1 << 63
Condition = dict[str, Any]
Filter = dict[str, Any]


def equals(key: str, value: object) -> Condition:
    """The field has this value."""
    return {"key": key, "match": {"value": value}}


def one_of(key: str, values: Sequence[object]) -> Condition:
    """The field has one of these values."""
    return {"key": key, "match": {"any": list(values)}}


def at_least(stamp: int) -> Condition:
    """``stamp >= s``. Exact as a float: stamps are below 2**50."""
    return {"key": "stamp", "range": {"gte": stamp}}


def above(stamp: int) -> Condition:
    """``stamp > s``."""
    return {"key": "stamp", "range": {"gt": stamp}}


def any_of(clauses: Sequence[Filter]) -> Filter:
    """One of the clauses.

    Raises:
        ValueError: there is none; the filter would match every point.
    """
    if not clauses:
        raise ValueError("a filter without clauses matches every point")
    return {"should": list(clauses)}


def fence(doc: str, stamp: int) -> Filter:
    """Points of a document below a stamp."""
    return {"must": [equals("doc", doc)], "must_not": [at_least(stamp)]}


def head_at(doc: str, stamp: int) -> Filter:
    """The head of a document, if it has exactly this stamp."""
    return {"must": [equals("doc", doc), equals("kind", "head"), equals("stamp", stamp)]}


def tombstone_at(doc: str, stamp: int) -> Filter:
    """The head of a document, if it is a tombstone of exactly this stamp."""
    return {"must": [*head_at(doc, stamp)["must"], equals("state", "deleted")]}


def swept(sweep: Sweep) -> Filter:
    """The chunks that a sweep deletes."""
    must_not: list[Condition] = [above(sweep.stamp)]
    if sweep.keep:
        must_not.append({"has_id": sorted(sweep.keep)})
    return {"must": [equals("doc", sweep.doc), equals("kind", "chunk")], "must_not": must_not}


def misaligned(alignment: Alignment) -> Filter:
    """The chunks that an alignment changes."""
    return {
        "must": [equals("doc", alignment.doc), equals("kind", "chunk")],
        "must_not": [equals("fh", alignment.filter_hash), above(alignment.stamp)],
    }


def passing(where: Where | None, types: Mapping[str, str]) -> list[Condition]:
    """A caller's filter: every field must have one of its values.

    Args:
        where: fields and values; a value that its field's type can never have matches nothing, as
            does a field that is not declared.
        types: the declared filter fields.
    """
    return [_field(name, values, types.get(name)) for name, values in sorted((where or {}).items())]


def _field(name: str, values: Sequence[object], kind: str | None) -> Condition:
    fitting = [fitted for value in values if (fitted := _fitted(value, kind)) is not None]
    if not fitting:
        return {"has_id": []}  # no point at all
    if kind == "float":
        # Qdrant matches words and whole numbers; a float is a range of one value.
        return {"should": [{"key": f"f.{name}", "range": {"gte": value, "lte": value}} for value in fitting]}
    return one_of(f"f.{name}", [stored_value(value) for value in fitting])


def _fitted(value: object, kind: str | None) -> object | None:
    match kind, value:
        case "bool", bool():
            return value
        case _, bool():
            return None
        case "keyword" | "tenant", str():
            return value
        case "float", int() | float():
            return float(value) if math.isfinite(value) else None
        case "integer", int() | float():
            whole = math.isfinite(value) and value == int(value) and -_INTEGERS <= value < _INTEGERS
            return int(value) if whole else None
    return None


def slices(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Lists of at most ``size`` items: servers bound the clauses of one request."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def indexes(filter_fields: Mapping[str, str]) -> list[tuple[str, str]]:
    """Payload indexes, field and type, made before anything is loaded."""
    ours = [
        ("kind", "keyword"),
        ("doc", "keyword"),
        ("stamp", "integer"),
        ("state", "keyword"),
        ("hash", "keyword"),
        ("fh", "keyword"),
        *((field, "integer") for field in CELLS_OF.values()),
    ]
    words = {"bool": "keyword"}
    return ours + [(f"f.{name}", words.get(kind, kind)) for name, kind in sorted(filter_fields.items())]
