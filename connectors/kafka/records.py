"""A topic's records as documents: which one a record is of, and what it says."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

from connectors.kafka.envelopes import Change, change_of, unavailable, unwrapped
from connectors.kafka.settings import TopicSettings
from connectors.keys import LIMIT_BYTES, escaped, path_of
from connectors.paths import Path
from connectors.templates import fields_of
from pipeline.codec import KIND, SCHEMA
from pipeline.errors import ConfigError, Poison
from pipeline.ports import Record

#: How the serializers of a schema registry begin: a zero, and the schema's number in four bytes.
_REGISTRY: Final = b"\0"
_REGISTRY_BYTES: Final = 5
_NULL: Final = b"null"

What: TypeAlias = Literal["put", "delete", "truncate"]


class OwnRecords(ConfigError):
    """A topic that vectide itself has written."""


class NoDocument(Exception):
    """A record that nothing says the document of; the text says why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a record says of which document."""

    what: What
    path: str
    """Of the document; of a truncated topic, the first part of all its documents' paths."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a document is made of."""

    text: str
    at: float
    """When it changed, in seconds since 1970."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """``key``, ``value`` and ``record``, for a mapping of metadata."""


class TopicRecords:
    """The records of one topic.

    Args:
        topic: its name.
        settings: of the topic.
    """

    def __init__(self, topic: str, settings: TopicSettings) -> None:
        self._topic = topic
        self._settings = settings
        self._keys = [Path.parse(one) for one in settings.key]
        self._keyed_by_value = any(one.steps[0] == "value" for one in self._keys)
        self._fields = fields_of(settings.text)
        self._debezium = settings.format == "debezium"

    def told(self, record: Record) -> Told | None:
        """What a record says; None: nothing about any document.

        Raises:
            NoDocument: it is left out.
            OwnRecords: it is a record of vectide's own.
        """
        self._refuse_own(record)
        if self._settings.format == "text":
            return Told("delete" if record.value is None else "put", self._path(record, None))
        if not self._debezium and not self._keyed_by_value:
            gone = record.value is None or _is_null(record.value)
            return Told("delete" if gone else "put", self._path(record, None))
        try:
            change = self._change(record)
        except Poison as error:
            if self._keyed_by_value:
                raise NoDocument(error.detail) from None
            return Told("put", self._path(record, None))  # who reads it says what is wrong with it
        match change.kind:
            case "nothing":
                return None
            case "truncated":
                return Told("truncate", escaped(self._topic))
            case "deleted":
                return Told("delete", self._path(record, change.row))
            case "row":
                return Told("put", self._path(record, change.row))

    def content(self, record: Record) -> Content:
        """What a record's document says.

        Raises:
            Poison: nobody can read it.
        """
        if self._settings.format == "text":
            value: Any = _decoded_text(record.value or b"")
            return Content(value, record.timestamp, self._found(record, value))
        change = self._change(record)
        at = record.timestamp if change.at is None else change.at
        value = change.row if self._debezium else change.row["value"]
        return Content(self._text(record, value).replace("\0", "\ufffd"), at, self._found(record, value))

    # ------------------------------------------------------------------------ private

    def _refuse_own(self, record: Record) -> None:
        names = {name for name, _ in record.headers}
        if {KIND, SCHEMA} <= names:
            raise OwnRecords(
                f"topic {self._topic} holds records of vectide's own, such as a pipeline's documents: "
                "it would publish what it has published",
                "name the topic that they were made from",
            )

    def _change(self, record: Record) -> Change:
        if record.value is None:
            return Change("deleted")
        value = _decoded_json(record.value)
        if self._debezium:
            return change_of(value)
        value = unwrapped(value)  # as JsonConverter writes it, whatever the connector
        return Change("deleted" if value is None else "row", {"value": value})

    def _path(self, record: Record, row: Mapping[str, Any] | None) -> str:
        try:
            parts = self._chosen(record, row) if self._keys else self._parts(record)
        except Poison:
            raise NoDocument("its key nests too deeply") from None
        path = path_of(self._topic, parts).translate(_BAD_BYTES)
        if len(path.encode()) > LIMIT_BYTES:
            raise NoDocument(f"its key is too long for a path: {len(path.encode())} bytes, {LIMIT_BYTES} at most")
        return path

    def _parts(self, record: Record) -> list[str]:
        """The record's key, of several columns if it has them."""
        if record.key is None:
            raise NoDocument('it has no key: give `key`, as ["$.value.id"], or ["$.record.partition", ...]')
        key = self._key(record)
        if isinstance(key, Mapping):
            if not key:
                raise NoDocument("its key is an empty object")
            return [_written(one) for one in key.values()]
        if isinstance(key, str):
            return [key]
        # As it stands: 7.0 and 7 are two keys.
        return [record.key.decode("utf-8", "surrogateescape")]

    def _chosen(self, record: Record, row: Mapping[str, Any] | None) -> list[str]:
        value = row if self._debezium or row is None else row.get("value")
        root = {"key": self._key(record), "value": value, "record": _facts(record)}
        parts = []
        for path, text in zip(self._keys, self._settings.key, strict=True):
            values = path.find(root)
            if not values or isinstance(values[0], Mapping | list):
                lacks = "it is a null, or" if value is None or not value else "it"
                raise NoDocument(f"{lacks} has no plain value at {text}, which is to name its document")
            parts.append(_written(values[0]))
        return parts

    def _key(self, record: Record) -> Any:
        """The key as far as it can be read: JSON's, else its text."""
        if record.key is None:
            return None
        if self._settings.format != "text" and record.key[:1] in (b"{", b'"'):
            try:
                return unwrapped(msgspec.json.decode(record.key))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        elif self._debezium and _by_registry(record.key):
            raise NoDocument(f"its key is {_registry(record.key)}")
        return record.key.decode("utf-8", "surrogateescape")

    def _found(self, record: Record, value: Any) -> dict[str, Any]:
        try:
            key = self._key(record)
        except NoDocument:
            key = None
        return {"key": key, "value": value, "record": _facts(record)}

    def _text(self, record: Record, value: Any) -> str:
        if self._fields:
            names = self._fields
        elif self._debezium:
            names = tuple(self._texts(record, value))
        else:
            return value if isinstance(value, str) else _dumped(value, indent=1)
        values = {name: _at(value, name) for name in names}
        for name, one in values.items():
            if unavailable(one):
                raise Poison(
                    "value_not_sent",
                    f"the database did not log {name}, which is long and did not change: set REPLICA IDENTITY FULL, "
                    "or let Debezium reselect columns",
                )
        texts = {name: _written(one) for name, one in values.items()}
        if self._fields:
            return "".join(
                literal + ("" if name is None else texts[name])
                for literal, name, _, _ in string.Formatter().parse(self._settings.text)
            )
        return "\n\n".join(one for one in texts.values() if one)

    def _texts(self, record: Record, row: Mapping[str, Any]) -> Iterable[str]:
        key = self._key(record)
        of_key = key.keys() if isinstance(key, Mapping) else ()
        chosen = {one.steps[-1] for one in self._keys}
        for name, value in row.items():
            if isinstance(value, str) and name not in of_key and name not in chosen and not name.startswith("__"):
                yield name


def _is_null(value: bytes) -> bool:
    """Whether it is JSON's null, with its schema or without."""
    if b'"payload"' not in value or b'"schema"' not in value:
        return value.strip() == _NULL
    try:
        return unwrapped(msgspec.json.decode(value)) is None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _decoded_json(value: bytes) -> Any:
    if _by_registry(value):
        raise Poison("schema_registry", f"the value is {_registry(value)}")
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Poison("not_json", f"the value is no JSON: {error}") from None
    except RecursionError:
        raise Poison("not_json", "the value nests too deeply") from None


def _decoded_text(value: bytes) -> str:
    try:
        return value.decode().replace("\0", "\ufffd")
    except UnicodeDecodeError as error:
        registry = f"; it is perhaps {_registry(value)}" if _by_registry(value) else ""
        raise Poison("not_unicode", f"the value is not UTF-8: {error.reason} at byte {error.start}{registry}") from None


def _by_registry(value: bytes) -> bool:
    return value[:1] == _REGISTRY and len(value) >= _REGISTRY_BYTES


def _registry(value: bytes) -> str:
    number = int.from_bytes(value[1:_REGISTRY_BYTES], "big")
    return (
        f"written with schema {number} of a schema registry (it begins with a zero byte): Avro, Protobuf and its own "
        "JSON are not read; let the producer use plain JSON, as org.apache.kafka.connect.json.JsonConverter"
    )


def _facts(record: Record) -> dict[str, Any]:
    """What a record is besides key and value."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "headers": {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers},
    }


def _at(value: Any, name: str) -> Any:
    """A field by its name, or by a way through what nests: ``author.name``."""
    if isinstance(value, Mapping) and name in value:
        return value[name]
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def _written(value: Any) -> str:
    """A value in a text or a path."""
    match value:
        case None:
            return ""
        case str():
            return value
        case list() if not any(isinstance(one, list | Mapping) for one in value):
            return ", ".join(_written(one) for one in value)
    return _dumped(value)


def _dumped(value: Any, indent: int | None = None) -> str:
    """As JSON.

    Raises:
        Poison: what could just be read nests too deeply to be written.
    """
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except RecursionError:
        raise Poison("not_json", "the value nests too deeply") from None


#: Bytes of a key that are not UTF-8, as Python carries them, and as a path has them.
_BAD_BYTES: Final = {0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}
