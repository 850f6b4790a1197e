"""Settings of a Kafka connection: what is wrong with them is said before anything is tried, and without a secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.kafka_connection import Connection
from pipeline.config import KafkaConfig, load
from pipeline.errors import BrokerUnavailable, ConfigError
from tests.support.certificates import Authority, Missing

SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "me"}


def refused(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Connection(KafkaConfig.model_validate(settings))
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    try:
        yield Authority(tmp_path_factory.mktemp("tls"))
    except Missing as missing:
        pytest.skip(str(missing))


def test_half_of_sasl_is_refused() -> None:
    assert "kafka.sasl_password is given" in refused(sasl_password="hunter2", sasl_username="me")
    assert "kafka.sasl_mechanism = None" in refused(security_protocol="SASL_SSL", sasl_password="hunter2")
    assert "kafka.sasl_mechanism = 'plain'" in refused(**{**SASL, "sasl_mechanism": "plain"}, sasl_password="hunter2")
    assert "needs a name and a password" in refused(**SASL)
    assert "needs a name and a password" in refused(**{**SASL, "sasl_username": ""}, sasl_password="hunter2")


def test_a_password_among_the_options_counts_too() -> None:
    options = {"sasl_plain_password": "hunter2"}
    assert (
        Connection(KafkaConfig.model_validate({**SASL, "options": options})).options["sasl_plain_password"] == "hunter2"
    )
    assert "kafka.security_protocol" in refused(options=options)


def test_an_option_that_kafka_python_does_not_know_is_named_without_its_value() -> None:
    assert "did you mean 'sasl_plain_password'" in refused(options={"sasl_plain_pasword": "hunter2"})
    assert "kafka.options.acks" in refused(options={"acks": "hunter2"}), "a producer's alone"


@pytest.mark.parametrize(
    "servers", ["me:hunter2@kafka:9092", "sasl://kafka:9092", "", "a:9092,,b:9092", "a b:9092", "a:hunter2"]
)
def test_an_address_that_is_none_is_refused_and_not_shown(servers: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"VECTIDE_KAFKA__BOOTSTRAP_SERVERS": servers})
    assert "VECTIDE_KAFKA__BOOTSTRAP_SERVERS" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("servers", ["kafka", "kafka-1.a_b:9092, 10.0.0.1:9093", "[2001:db8::1]:9092"])
def test_an_address_is_a_host_and_a_port(servers: str) -> None:
    assert load(None, {"VECTIDE_KAFKA__BOOTSTRAP_SERVERS": servers}).kafka.bootstrap_servers == servers


def test_files_of_tls_are_looked_at_at_once_and_named(authority: Authority, tmp_path: Path) -> None:
    """Given files that are missing, no PEM, or of a key with another password, then the setting is named."""
    nothing, junk = tmp_path / "nothing.pem", tmp_path / "junk.pem"
    junk.write_text("hunter2")
    tls = {"security_protocol": "SSL", "ssl_cafile": str(authority.certificate)}
    client = authority.sign("client", password="key-password")
    mine = {**tls, "ssl_certfile": str(client.certificate), "ssl_keyfile": str(client.key)}
    for file in (nothing, junk):
        assert f"kafka.ssl_cafile: {file}" in refused(**{**tls, "ssl_cafile": str(file)})
        assert f"kafka.ssl_keyfile: {file}" in refused(**{**mine, "ssl_certfile": str(file)})
    assert "kafka.ssl_key_password" in refused(**mine), "without one, OpenSSL would ask for it on the terminal"
    assert "kafka.ssl_key_password" in refused(**mine, ssl_key_password="hunter2")
    assert "without kafka.ssl_certfile" in refused(**tls, ssl_keyfile=str(client.key))
    Connection(KafkaConfig.model_validate({**mine, "ssl_key_password": "key-password"}))
    Connection(KafkaConfig.model_validate({**mine, "options": {"ssl_password": "key-password"}}))


def test_a_broker_that_is_away_leaves_nothing_behind_and_says_why() -> None:
    """Given nobody at an address, when it is tried again and again, then no thread is left of it."""
    config = KafkaConfig.model_validate({"bootstrap_servers": "127.0.0.1:1", "options": {"bootstrap_timeout_ms": 50}})
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match="ECONNREFUSED"):
            KafkaBroker(config, "test")
    assert threading.active_count() == before


def test_the_limit_of_a_topic_is_told_while_another_thread_forgets_those_of_all() -> None:
    class Emptied(dict[str, int]):
        def __setitem__(self, topic: str, limit: int) -> None:
            self.clear()

    broker = object.__new__(KafkaBroker)
    broker._limits = Emptied()
    broker._settings = lambda topic: {"max.message.bytes": "1000000"}  # type: ignore[method-assign]
    assert broker._limit("t") < 1_000_000
