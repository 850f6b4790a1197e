"""Qdrant's REST filters as objects of qdrant-edge. What it does not know it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.store.conditions import Filter


def edge_filter(matching: Filter) -> Any:
    """A filter of REST JSON for the engine.

    Raises:
        ValueError: a part of it is not understood; leaving it out would match too much.
    """
    import qdrant_edge

    _only(matching, "must", "should", "must_not")
    must, should, must_not = (
        [_condition(one) for one in matching.get(name) or ()] or None for name in ("must", "should", "must_not")
    )
    if not (must or should or must_not):
        raise ValueError(f"an empty filter matches every point: {matching!r}")
    return qdrant_edge.Filter(must=must, should=should, must_not=must_not)


def field_index(field: str, kind: str) -> Any:
    """The operation that makes a payload index."""
    import qdrant_edge

    kinds = qdrant_edge.PayloadSchemaType
    schemas: dict[str, Any] = {
        "keyword": kinds.Keyword,
        "integer": kinds.Integer,
        "float": kinds.Float,
        "tenant": qdrant_edge.KeywordIndexParams(is_tenant=True),
    }
    return qdrant_edge.UpdateOperation.create_field_index(field, schemas[kind])


def _condition(condition: Mapping[str, Any]) -> Any:
    import qdrant_edge as edge

    if "has_id" in condition:
        _only(condition, "has_id")
        return edge.HasIdCondition(set(condition["has_id"]))
    if "key" not in condition:
        return edge_filter(dict(condition))
    _only(condition, "key", "match", "range")
    if condition.get("match") is not None:
        match = condition["match"]
        _only(match, "value", "any")
        what = edge.MatchValue(match["value"]) if "value" in match else edge.MatchAny(list(match["any"]))
        return edge.FieldCondition(key=condition["key"], match=what)
    bounds = {name: float(value) for name, value in condition["range"].items() if value is not None}
    _only(bounds, "gte", "gt", "lte", "lt")
    return edge.FieldCondition(key=condition["key"], range=edge.RangeFloat(**bounds))


def _only(part: Mapping[str, Any], *known: str) -> None:
    unknown = {name for name, value in part.items() if value is not None} - set(known)
    if unknown:
        raise ValueError(f"filter parts {sorted(unknown)} are not understood")
