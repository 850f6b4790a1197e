"""Settings of the postgres connector, and those that a URI stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from connectors.templates import naming
from pipeline.errors import ConfigError

SCHEMES: Final = ("postgres", "postgresql")
#: Of a table in a URI; everything else there is libpq's.
_OF_TABLE: Final = ("key", "text", "media_type", "metadata", "event_time", "deleted", "where")
_OF_SOURCE: Final = ("slot", "publication")


def _identifier(value: str) -> str:
    # PostgreSQL's own rule for slots; a publication is held to it, too.
    if value and re.fullmatch(r"[a-z0-9_]{1,63}", value) is None:
        raise ValueError("up to 63 lower-case letters, digits and underscores")
    return value


class TableSettings(BaseModel):
    """``[sources.<id>.tables.<table>]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: tuple[str, ...] = Field(
        (),
        description="columns that name a document, of a unique index, all `NOT NULL`; the primary key if not given",
    )
    text: Annotated[str, AfterValidator(naming("column"))] = Field(
        "", description="template, `# {title}\\n\\n{body}`; all columns of a text type but the key if not given"
    )
    media_type: str = Field(
        "text/plain",
        min_length=1,
        description="of the text: `text/markdown`, `text/html` ...; HTML is read as Markdown",
    )
    metadata: dict[str, str] = Field({}, description="columns, or a table of column and name in the metadata")
    event_time: str = Field("", description="a timestamp column: when the row last changed")
    deleted: str = Field("", description="a column that says deleted: true, or anything but null if it is no boolean")
    where: str = Field("", description="SQL condition; rows for which it does not hold are no documents")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            data = dict(data)
            if isinstance(data.get("metadata"), list | tuple):
                data["metadata"] = {name: name for name in data["metadata"]}
            if isinstance(data.get("key"), str):
                data["key"] = (data["key"],)
        return data


class PostgresSettings(BaseModel):
    """``[sources.<id>]`` with ``connector = "postgres"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: SecretStr = Field(
        description="`postgres://user@host:5432/database?sslmode=verify-full`, or libpq's `host=...`"
    )
    password_file: Path | None = Field(None, description="a file with the password; read again at each connection")
    tables: dict[str, TableSettings] = Field(
        min_length=1, description="by name, as in SQL: `articles`, `shop.articles`"
    )
    slot: Annotated[str, AfterValidator(_identifier)] = Field(
        "", description="the replication slot; `vectide_<source>` if not given"
    )
    publication: Annotated[str, AfterValidator(_identifier)] = Field(
        "", description="the publication; named like the slot if not given"
    )
    create: bool = Field(True, description="make slot and publication where they are missing; `false`: an admin does")
    lag_warning_bytes: int = Field(
        1 << 30, gt=0, description="of WAL that the server keeps for the slot; beyond it a warning"
    )
    timeout_seconds: float = Field(30.0, gt=0, description="for one statement")

    def slot_of(self, source_id: str) -> str:
        """The slot's name, for a source."""
        return self.slot or ("vectide_" + re.sub(r"[^a-z0-9_]", "_", source_id.lower()))[:63]

    def publication_of(self, source_id: str) -> str:
        """The publication's name, for a source."""
        return self.publication or self.slot_of(source_id)


def settings_of(uri: str) -> dict[str, Any]:
    """The table ``[sources.<id>]`` that a URI stands for: ``postgres://user@host/database?table=articles&text={body}``.

    ``table`` may come several times; ``key``, ``text``, ``media_type``, ``metadata``, ``event_time``,
    ``deleted`` and ``where`` are those of the table before them (``key`` and ``metadata``: comma between
    columns), ``slot`` and ``publication`` those of the source. All else is libpq's.

    Raises:
        ConfigError: it cannot be read, names no table, or a setting before the first one.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # its text can repeat the password
        raise ConfigError("postgres URI: it cannot be read", "percent-encode special characters in it") from None
    tables: dict[str, dict[str, Any]] = {}
    of_source: dict[str, str] = {}
    of_libpq: list[tuple[str, str]] = []
    table: dict[str, Any] | None = None
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "table":
            table = tables.setdefault(value, {})
        elif name in _OF_SOURCE:
            of_source[name] = value
        elif name not in _OF_TABLE:
            of_libpq.append((name, value))
        elif table is None:
            raise ConfigError(f"postgres URI: {name}= stands before any table=", "write ?table=NAME first")
        else:
            table[name] = [one.strip() for one in value.split(",")] if name in ("key", "metadata") else value
    if not tables:
        raise ConfigError("postgres URI: it names no table", "add ?table=NAME, more with &table=NAME")
    url = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(of_libpq), ""))
    return {"connector": "postgres", "url": url, "tables": tables, **of_source}
