"""Metadata by configuration: a source whose documents carry what ``[sources.<id>.metadata]`` says.

It stands between any source and its runner, so no connector knows of it. A name that is mapped never has
another value than the mapping's: an author who writes ``acl`` into a document grants nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from connectors.languages import EXTRA, installed, language_of, revision
from connectors.paths import Path
from pipeline.anchors import ANCHORS
from pipeline.errors import ConfigError
from pipeline.identity import MetadataValue, fingerprint
from pipeline.ports import Backlog, Expired, Fetched, Hint, Listed, LogSource, Skipped, Source

Type: TypeAlias = Literal["text", "integer", "float", "bool", "list", "time"]

#: Names that mean the same everywhere have a type of their own.
TYPES: Final[Mapping[str, Type]] = {
    "title": "text", "author": "text", "uri": "text", "language": "text",
    "created": "time", "modified": "time", "published": "time",
    "tags": "list", "acl": "list",
}  # fmt: skip
#: Those of the document itself, and where its pages are.
_TAKEN: Final = ("source", "media_type", "extractor", ANCHORS)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")
_RULES: Final = 64
_CHARACTERS: Final = 4_096
_ITEMS: Final = 1_000
_ALL_CHARACTERS: Final = 32_768
_INTEGERS: Final = 1 << 63
#: Seconds since 1970 of the year 5138: beyond are milliseconds, and no time.
_SECONDS: Final = 1e11


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str | None = None
    value: str | int | float | bool | list[str] | None = None
    default: str | int | float | bool | list[str] | None = None
    type: Type | None = None
    detect: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the value of one name comes from."""

    name: str
    type: Type | None
    """None: as it was found, a scalar or a list of them."""
    path: Path | None
    """None: a constant."""
    value: MetadataValue | None
    """The constant, or what stands there where the path leads to nothing."""
    detect: bool = False
    """Where the path leads to nothing, the language of the text, if it can be told."""


class Unfit(ValueError):
    """A value that its type cannot have."""


def rules_of(source_id: str, metadata: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a source's configuration.

    Raises:
        ConfigError: names ``sources.<id>.metadata.<name>`` and what is wrong there.
    """
    place = f"sources.{source_id}.metadata"
    if len(metadata) > _RULES:
        raise ConfigError(f"{place} has {len(metadata)} names", f"map {_RULES} at most")
    wrong, rules = [], []
    for name, given in metadata.items():
        try:
            rules.append(_rule(name, given))
        except ValueError as error:
            wrong.append(f"{place}.{name}: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong), "see docs/connectors.md: metadata")
    return tuple(rules)


def _rule(name: str, given: Any) -> Rule:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits, _ and - only, 64 at most")
    if name in _TAKEN:
        raise ValueError("this name is the document's own")
    table = _table(given)
    if table.detect:
        return _detected(name, table, type_=table.type or TYPES.get(name))
    if (table.path is None) == (table.value is None):
        raise ValueError('give either a path, as "$.owner", or a value')
    if table.value is not None and table.default is not None:
        raise ValueError("a value is always there, and needs no default")
    type_ = table.type or TYPES.get(name)
    if table.path is not None:
        default = None if table.default is None else fitted(table.default, type_)
        return Rule(name, type_, Path.parse(table.path), default)
    assert table.value is not None  # one of the two is given
    value = fitted(table.value, type_)
    if name == "uri" and isinstance(value, str):
        for placeholder in _PLACEHOLDER.findall(value):
            if placeholder != "{path}":
                raise ValueError(f"{placeholder} stands for nothing; there is {{path}}")
    return Rule(name, type_, None, value)


def _detected(name: str, table: _Table, type_: Type | None) -> Rule:
    if table.value is not None:
        raise ValueError("a value is always there, and needs no detection")
    if type_ not in (None, "text"):
        raise ValueError("what is detected is a language, a text")
    if not installed():
        raise ValueError(f"py3langid is not installed: pip install '{EXTRA}'")
    default = None if table.default is None else fitted(table.default, "text")
    return Rule(name, "text", Path.parse(table.path or "$.language"), default, detect=True)


def _table(given: Any) -> _Table:
    if isinstance(given, str):
        return _Table(path=given) if given.startswith("$") else _Table(value=given)
    try:
        return _Table.model_validate(given if isinstance(given, dict) else {"value": given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"][:1])
        raise ValueError(f"{where}: {first['msg']}" if isinstance(given, dict) else first["msg"]) from None


@dataclass(frozen=True, slots=True)
class Mapped:
    """A :class:`pipeline.ports.Source` with metadata by rules.

    The rules are part of every revision: others mean that each document is looked at again, and published if
    its metadata differ. That embeds nothing.
    """

    source: Source
    rules: tuple[Rule, ...]

    @property
    def id(self) -> str:
        """The source's."""
        return self.source.id

    def scan(self) -> Iterator[Listed | None]:
        """As the source."""
        for one in self.source.scan():
            yield None if one is None else Listed(one.path, self._revision(one.revision))

    def hints(self, timeout: float) -> list[Hint]:
        """As the source."""
        return self.source.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | Expired | None:
        """As the source, with metadata by the rules."""
        found = self.source.fetch(path)
        if found is None or isinstance(found, Expired):
            return found
        if isinstance(found, Skipped):
            return replace(found, revision=self._revision(found.revision))
        metadata, unfit = mapped(self.rules, self.id, found)
        return replace(found, revision=self._revision(found.revision), metadata=metadata, unfit=unfit)

    def close(self) -> None:
        """As the source."""
        self.source.close()

    def _revision(self, revision: str) -> str:
        return f"{revision}~{self._fingerprint()}"

    def _fingerprint(self) -> str:
        rules = [[one.name, one.type, one.path and one.path.steps, one.value] for one in self.rules]
        detected = [one.name for one in self.rules if one.detect]
        # Without these, rules of before have the fingerprint that they had.
        return fingerprint({"rules": rules} | ({"detected": detected, "by": revision()} if detected else {}))


@dataclass(frozen=True, slots=True)
class MappedLog(Mapped):
    """A :class:`pipeline.ports.LogSource` with metadata by rules; a position of other rules leads to a scan."""

    source: LogSource

    def resume(self, position: str | None) -> bool:
        """As the source, if these rules were in force up to there."""
        rules, _, own = (position or "").partition("~")
        known = own if rules == self._fingerprint() else None
        return self.source.resume(known) and known is not None

    def caught_up(self) -> bool:
        """As the source."""
        return self.source.caught_up()

    def position(self) -> str:
        """The source's, and which rules."""
        return f"{self._fingerprint()}~{self.source.position()}"

    def acknowledge(self, position: str) -> None:
        """As the source."""
        self.source.acknowledge(position.partition("~")[2])

    def backlog(self) -> Backlog | None:
        """The source's."""
        return self.source.backlog()


def with_rules(source: Source, rules: tuple[Rule, ...]) -> Source:
    """The source with metadata by rules; the very source if there are none."""
    if not rules:
        return source
    return MappedLog(source, rules) if isinstance(source, LogSource) else Mapped(source, rules)


def mapped(rules: tuple[Rule, ...], source_id: str, found: Fetched) -> tuple[dict[str, MetadataValue], tuple[str, ...]]:
    """A document's metadata by the rules, and the names whose value did not fit and was left out."""
    # What nests is whole only in the former: of a list of tables the metadata has an empty one.
    root = {**found.metadata, **found.found, "document": _document(source_id, found)}
    metadata, unfit = dict(found.metadata), []
    for rule in rules:
        metadata.pop(rule.name, None)
        try:
            value = _value(rule, root, found)
        except Unfit:
            unfit.append(rule.name)
            continue
        if value is not None:
            metadata[rule.name] = value
    return metadata, tuple(unfit)


def _document(source_id: str, found: Fetched) -> dict[str, object]:
    """What every document has, whatever its source."""
    return {
        "source": source_id,
        "path": found.path,
        "name": found.path.rpartition("/")[2],
        "media_type": found.media_type,
        "size": found.size,
        "modified": found.event_time,
    }


def _value(rule: Rule, root: object, found: Fetched) -> MetadataValue | None:
    if rule.path is None:
        if rule.name == "uri" and isinstance(rule.value, str):
            return rule.value.replace("{path}", quote(found.path.encode("utf-8", "surrogateescape"), safe="/"))
        return rule.value
    values = rule.path.find(root)
    if rule.detect and not any(values):
        return language_of(found.text, found.media_type) or rule.value
    if not values:
        return rule.value
    return fitted(values[0] if rule.path.single else values, rule.type)


def fitted(value: Any, type_: Type | None) -> MetadataValue:
    """A value as its type has it.

    Raises:
        Unfit: it cannot be one, or is too large.
    """
    match type_:
        case "text":
            return _text(value)
        case "integer":
            return _integer(value)
        case "float":
            return _float(value)
        case "bool":
            return _bool(value)
        case "list":
            return _list(value if isinstance(value, list | tuple) else [value])
        case "time":
            return _time(value)
        case None:
            pass
    if isinstance(value, list | tuple):
        return _list(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _integer(value)
    return _float(value) if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise Unfit("it is no text")
    if len(value) > _CHARACTERS:
        raise Unfit(f"it has more than {_CHARACTERS} characters")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise Unfit("it is not Unicode")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,19}", value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -_INTEGERS <= value < _INTEGERS:
        raise Unfit("it is no whole number of 64 bits")
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unfit("it is no number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Unfit("it is no number") from None
    if not math.isfinite(number):
        raise Unfit("it is no finite number")
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise Unfit("it is neither true nor false")
    return value


def _list(value: Any) -> list[str]:
    if len(value) > _ITEMS:
        raise Unfit(f"it has more than {_ITEMS} items")
    items = [_text(one) for one in value if one is not None]
    if sum(map(len, items)) > _ALL_CHARACTERS:
        raise Unfit(f"it has more than {_ALL_CHARACTERS} characters")
    return items


def _time(value: Any) -> str:
    """ISO 8601: a day, or a moment in UTC. A moment without a zone counts as UTC."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value.strip()):
        try:
            return dt.date.fromisoformat(value.strip()).isoformat()
        except ValueError:
            raise Unfit("there is no such day") from None
    try:
        if isinstance(value, str):
            moment = dt.datetime.fromisoformat(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _SECONDS:
            moment = dt.datetime.fromtimestamp(value, dt.UTC)
        else:
            raise Unfit("it is no time: ISO 8601, or seconds since 1970")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    except Unfit:
        raise
    except (ValueError, OverflowError, OSError):
        raise Unfit("it is no time: ISO 8601, or seconds since 1970") from None
