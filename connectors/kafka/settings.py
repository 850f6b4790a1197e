"""Settings of the kafka connector, and those that a URI stands for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from connectors import paths
from connectors.settings import secret_in
from connectors.templates import naming
from pipeline.config import KafkaClusterConfig

Format: TypeAlias = Literal["debezium", "json", "text"]

#: Of the source in a URI; what is one topic's stands behind the topic.
_OF_SOURCE: Final = (
    "security_protocol", "sasl_mechanism", "sasl_username", "sasl_password_file", "ssl_cafile", "ssl_certfile",
    "ssl_keyfile", "ssl_key_password_file", "expired",
)  # fmt: skip
_OF_TOPIC: Final = ("format", "key", "text", "media_type")
#: Where a path of ``key`` may begin.
_ROOTS: Final = ("key", "value", "record")


def _path(value: str) -> str:
    path = paths.Path.parse(value)
    if path.steps[0] not in _ROOTS or not path.single:
        raise ValueError("a key is one value each: $.key.id, $.value.id, or $.record.offset")
    return value


class TopicSettings(BaseModel):
    """``[sources.<id>.topics.<topic>]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format = Field(description="of its records: `debezium`, `json` or `text`")
    key: tuple[Annotated[str, AfterValidator(_path)], ...] = Field(
        (), description="what names a document: paths as `$.key.id`, `$.value.id`; the record's key if not given"
    )
    text: Annotated[str, AfterValidator(naming("field"))] = Field(
        "",
        description="template over the value's fields, `# {title}\\n\\n{author.name}`; "
        "if not given, the whole value, and of Debezium all fields that are texts but the key",
    )
    media_type: str = Field(
        "text/plain",
        min_length=1,
        description="of the text: `text/markdown`, `text/html` ...; HTML is read as Markdown",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("key"), str):
            return {**data, "key": (data["key"],)}
        return data

    @model_validator(mode="after")
    def _fits(self) -> TopicSettings:
        if self.format == "text" and self.text:
            raise ValueError('format = "text" has no fields for a template: leave `text` out')
        return self


class KafkaSettings(KafkaClusterConfig):
    """``[sources.<id>]`` with ``connector = "kafka"``."""

    bootstrap_servers: str = Field(description="`host:port`, several with commas")
    topics: dict[str, TopicSettings] = Field(
        min_length=1, description="by name; a list of names where the defaults will do"
    )
    expired: Literal["keep", "delete"] = Field(
        "keep", description="what becomes of a document whose last record the topic's retention has removed"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_all_topics(cls, data: Any) -> Any:
        """What stands in the source's own table is said for all its topics."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        common = {name: data.pop(name) for name in _OF_TOPIC if name in data}
        topics = data.get("topics")
        if isinstance(topics, str):
            topics = [topics]
        if isinstance(topics, list | tuple) and all(isinstance(one, str) for one in topics):
            topics = {name: {} for name in topics}
        if isinstance(topics, Mapping):
            merged = {name: {**common, **one} if isinstance(one, Mapping) else one for name, one in topics.items()}
            data["topics"] = merged
        return data

    @model_validator(mode="after")
    def _secrets(self) -> KafkaSettings:
        for name in ("sasl_password", "ssl_key_password"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"{name} and {name}_file exclude each other")
        return self

    def cluster(self) -> KafkaClusterConfig:
        """How to reach the cluster, secrets read from their files.

        Raises:
            ValueError: a file cannot be read.
        """
        secrets = {
            name: _read(f"{name}_file", path)
            for name in ("sasl_password", "ssl_key_password")
            if (path := getattr(self, f"{name}_file")) is not None
        }
        return self.model_copy(update=secrets)


def settings_of(uri: str) -> dict[str, Any]:
    """The table ``[sources.<id>]`` that a URI stands for: ``kafka://host:9092,other:9092/topic?format=debezium``.

    More topics follow with ``&topic=NAME``; ``format``, ``key`` (comma between several), ``text`` and ``media_type``
    are those of the topic before them; before the first one and without one in the path, of all topics. All else is the
    source's.

    Raises:
        ValueError: it cannot be read, names no broker or topic, or holds a password.
    """
    try:
        parts = urlsplit(uri)
        servers, name = parts.netloc, unquote(parts.path.strip("/"))
    except ValueError:  # its text can repeat a password
        raise ValueError("it cannot be read: percent-encode special characters in it") from None
    if "@" in servers:
        raise ValueError("it must hold no user and password: sasl_username and sasl_password_file are for that")
    if not servers:
        raise ValueError("there is no broker in it; give kafka://host:9092/topic")
    table: dict[str, Any] = {"bootstrap_servers": _with_ports(servers)}
    topics: dict[str, dict[str, Any]] = {}
    topic = topics.setdefault(name, {}) if name else None
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "topic":
            topic = topics.setdefault(value, {})
        elif name in _OF_SOURCE:
            table[name] = value
        elif name not in _OF_TOPIC:
            raise ValueError(f"{name!r} is not known; there are topic, {', '.join((*_OF_TOPIC, *_OF_SOURCE))}")
        elif topic is None:
            raise ValueError(f"{name}= stands before any topic")
        else:
            topic[name] = [one.strip() for one in value.split(",")] if name == "key" else value
    if not topics:
        raise ValueError("there is no topic in it; give kafka://host:9092/topic")
    return {"connector": "kafka", **table, "topics": topics}


def _with_ports(servers: str) -> str:
    """Kafka's usual port where none is given."""
    return ",".join(one if ":" in one else f"{one}:9092" for one in servers.split(","))


def _read(name: str, file: Path) -> SecretStr:
    secret = secret_in(name, file)
    if not secret:
        raise ValueError(f"{name}: {file} is empty")
    return SecretStr(secret)
