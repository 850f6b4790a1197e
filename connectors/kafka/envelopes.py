"""What Debezium writes: envelopes with and without their schema, flattened rows, and what is no row at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

from pipeline.errors import Poison

#: What stands for a long value that did not change and that the database has not logged (PostgreSQL's TOAST);
#: the latter is the same of a binary column.
_UNAVAILABLE: Final = ("__debezium_unavailable_value", "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==")
_MILLISECONDS: Final = 1000
#: The end of the year 9999: what lies behind is no time, and may be no number that anybody can divide.
_LAST_MILLISECONDS: Final = 253_402_300_799_999
_UPSERTS: Final = ("c", "u", "r")

Kind: TypeAlias = Literal["row", "deleted", "truncated", "nothing"]


@dataclass(frozen=True, slots=True)
class Change:
    """What one record says of its table."""

    kind: Kind
    """``nothing``: it is about no row: a heartbeat, the border of a transaction, a message, a schema's change."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row, and of a deleted one what is known of it."""
    at: float | None = None
    """When the database changed it, in seconds since 1970."""


_NOTHING: Final = Change("nothing")


def unwrapped(value: Any) -> Any:
    """The payload of what carries its schema with it; else the value itself."""
    if isinstance(value, Mapping) and value.keys() == {"schema", "payload"}:
        return value["payload"]
    return value


def change_of(value: Any) -> Change:
    """A record's value, decoded from JSON; null is a tombstone.

    Raises:
        Poison: it is none of what Debezium writes.
    """
    value = unwrapped(value)
    if value is None:
        return Change("deleted")
    if not isinstance(value, Mapping):
        raise Poison("not_debezium", "the value is no object of JSON: this is no record of Debezium")
    if _enveloped(value):
        return _from_envelope(value)
    if _about_no_row(value):
        return _NOTHING
    return _flattened(value)


def unavailable(value: Any) -> bool:
    """Whether the database has not logged a value, so that Debezium put a placeholder there."""
    return isinstance(value, str) and value in _UNAVAILABLE


def _enveloped(value: Mapping[str, Any]) -> bool:
    if not isinstance(value.get("op"), str):
        return False
    return isinstance(value.get("source"), Mapping) or "after" in value or "before" in value


def _from_envelope(value: Mapping[str, Any]) -> Change:
    source = value.get("source")
    at = _seconds(source.get("ts_ms")) if isinstance(source, Mapping) else None
    at = _seconds(value.get("ts_ms")) if at is None else at
    match value["op"]:
        case op if op in _UPSERTS:
            row = _row(value.get("after"))
            if row is None:
                raise Poison("no_row", f"the envelope of op {op!r} has no `after`: let the connector send whole rows")
            return Change("row", row, at)
        case "d":
            return Change("deleted", _row(value.get("before")) or {}, at)
        case "t":
            return Change("truncated", at=at)
        case "m":
            return _NOTHING
        case op:
            raise Poison("not_debezium", f"the envelope has an op that is not known: {op[:20]!r}")


def _row(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):  # of MongoDB, a document is a text of JSON
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


def _about_no_row(value: Mapping[str, Any]) -> bool:
    heartbeat = value.keys() == {"ts_ms"}
    transaction = value.get("status") in ("BEGIN", "END") and {"id", "event_count"} <= value.keys()
    schema_change = "databaseName" in value and ("ddl" in value or "tableChanges" in value)
    return heartbeat or transaction or schema_change


def _flattened(value: Mapping[str, Any]) -> Change:
    """A row as ExtractNewRecordState leaves it."""
    at = _seconds(value.get("__source_ts_ms"))
    at = _seconds(value.get("__ts_ms")) if at is None else at
    deleted = value.get("__deleted") in (True, "true") or value.get("__op") == "d"
    return Change("deleted" if deleted else "row", value, at)


def _seconds(milliseconds: Any) -> float | None:
    whole = isinstance(milliseconds, int) and not isinstance(milliseconds, bool)
    return milliseconds / _MILLISECONDS if whole and 0 < milliseconds <= _LAST_MILLISECONDS else None
