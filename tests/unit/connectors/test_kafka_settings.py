"""Settings of the kafka connector, from tables and from URIs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.settings import KafkaSettings
from connectors.registry import open_source, source_of
from connectors.settings import parse
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError

BROKER = {"bootstrap_servers": "b:9092"}


def parsed(**settings: Any) -> KafkaSettings:
    return parse(KafkaSettings, "shop", {**BROKER, **settings})


def test_what_is_said_once_is_said_of_all_topics() -> None:
    found = parsed(topics={"a": {}, "b": {"text": "{body}"}}, format="debezium", text="{title}", key="$.value.id")
    assert {name: one.text for name, one in found.topics.items()} == {"a": "{title}", "b": "{body}"}
    assert all((one.format, one.key) == ("debezium", ("$.value.id",)) for one in found.topics.values())
    assert set(parsed(topics=["a", "b"], format="text").topics) == {"a", "b"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"topics": ["a"]}, r"sources.shop.topics.a.format: Field required"),
        ({"topics": [], "format": "text"}, r"sources.shop.topics: .*at least 1 item"),
        ({"topics": ["a"], "format": "avro"}, r"sources.shop.topics.a.format: Input should be 'debezium', 'json'"),
        ({"topics": ["a"], "format": "json", "key": "$.id"}, r"sources.shop.topics.a.key.0: a key is one value each"),
        ({"topics": ["a"], "format": "json", "key": "$.value.ids[*]"}, "a key is one value each"),
        ({"topics": ["a"], "format": "json", "text": "no field"}, "the template names no field"),
        ({"topics": ["a"], "format": "json", "text": "{a!r}"}, "a template has fields in braces"),
        ({"topics": ["a"], "format": "text", "text": "{a}"}, "has no fields for a template"),
        ({"topics": ["a"], "format": "text", "expired": "hide"}, "sources.shop.expired"),
        ({"topics": ["a"], "format": "text", "sasl_password": "x", "sasl_password_file": "y"}, "exclude each other"),
        ({"topics": ["a"], "format": "text", "replication_factor": 3}, "unknown key 'sources.shop.replication_factor'"),
    ],
)
def test_a_mistake_is_named(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parsed(**settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sasl_password_file": "/nowhere/secret"}, "sources.shop.sasl_password_file: /nowhere/secret: No such file"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, "sources.shop.sasl_mechanism = 'PLAIN' needs"),
        (
            {"security_protocol": "SSL", "ssl_cafile": "/nowhere/ca"},
            "sources.shop.ssl_cafile: /nowhere/ca: No such file",
        ),
        ({"options": {"bootstrap_timeout": 1}}, "sources.shop.options.bootstrap_timeout: .*bootstrap_timeout_ms"),
    ],
)
def test_a_connection_that_cannot_be_is_named_before_it_is_tried(settings: dict[str, Any], why: str) -> None:
    config = SourceConfig.model_validate(
        {"connector": "kafka", **BROKER, "topics": ["a"], "format": "text", **settings}
    )
    with pytest.raises(ConfigError, match=why):
        open_source("shop", config, 1000)


def test_a_password_is_read_from_its_file_each_time_and_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    found = parsed(topics=["a"], format="text", sasl_password_file=secret)
    password = found.cluster().sasl_password
    assert password is not None
    assert password.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{found!r} {found.cluster()!r} {found.cluster().model_dump()}"
    secret.write_text("another")
    again = found.cluster().sasl_password
    assert again is not None
    assert again.get_secret_value() == "another"


def test_a_uri_is_a_table() -> None:
    uri = "kafka://one:9093,two/shop.public.articles?format=debezium&text=%23+{title}&key=$.key.id,$.key.tenant"
    found = source_of(f"{uri}&topic=notes&format=json&expired=delete&security_protocol=SSL")
    assert found.connector == "kafka"
    assert found.settings == {
        "bootstrap_servers": "one:9093,two:9092",
        "expired": "delete",
        "security_protocol": "SSL",
        "topics": {
            "shop.public.articles": {
                "format": "debezium",
                "text": "# {title}",
                "key": ["$.key.id", "$.key.tenant"],
            },
            "notes": {"format": "json"},
        },
    }
    parse(KafkaSettings, "shop", found.settings)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("kafka:///topic", "no broker"),
        ("kafka://b:9092", "no topic"),
        ("kafka://user:hunter2@b:9092/t", "no user and password"),
        ("kafka://b:9092/t?formt=json", "'formt' is not known"),
        ("kafka://b:9092?format=json&topic=t", "before any topic"),
        ("kafka://[b/t", "cannot be read"),
    ],
)
def test_a_uri_that_says_nothing_is_refused(uri: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        source_of(uri)
    assert "hunter2" not in str(raised.value)
