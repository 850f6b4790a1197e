"""TLS, passwords and client certificates to a real broker: who is let in, and what the others are told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipeline.broker.kafka import KafkaBroker
from pipeline.config import KafkaConfig
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, ConfigError, Fatal
from pipeline.ports import Broker, Record, TopicSpec
from tests.contract.brokers import MEGABYTE, record, values
from tests.support.certificates import Authority
from tests.support.secure_kafka import SecureKafka

pytestmark = pytest.mark.kafka

#: TLS is tried for so long before a command gives up: many attempts, and one at least where others take the machine.
QUICK = {"options": {"bootstrap_timeout_ms": 8000}}


@contextmanager
def administration(server: SecureKafka) -> Iterator[Any]:
    admin = KafkaAdminClient(bootstrap_servers=server.bootstrap)
    try:
        yield admin
    finally:
        admin.close()


@pytest.fixture(scope="module")
def server(secure_kafka: SecureKafka) -> SecureKafka:
    """`writer` may do everything with names that begin with t."""
    with administration(secure_kafka) as admin:
        admin.create_acls(
            [
                ACL(
                    f"User:{user}",
                    "*",
                    ACLOperation.ALL,
                    ACLPermissionType.ALLOW,
                    ResourcePattern(kind, "t", ACLResourcePatternType.PREFIXED),
                )
                for user in ("writer", "CN=client", "scram")
                for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
            ]
        )
        told = admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("scram", ScramMechanism.SCRAM_SHA_512, "scram-password", 4096)]
        )
    assert told == {"scram": None}
    return secure_kafka


def opened(settings: dict[str, Any]) -> Broker:
    return KafkaBroker(KafkaConfig.model_validate(settings), "test")


def refusal(settings: dict[str, Any], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        opened(settings).close()
    assert type(caught.value) is kind
    for secret in ("sasl_password", "ssl_key_password"):
        assert not settings.get(secret) or settings[secret] not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        lambda server: server.as_user("writer"),
        lambda server: server.as_user("scram", sasl_mechanism="SCRAM-SHA-512", sasl_password="scram-password"),
        lambda server: server.with_certificate(),
    ],
    ids=["password", "scram", "certificate"],
)
def test_who_is_known_works(server: SecureKafka, fresh: str, settings: Callable[[SecureKafka], dict[str, Any]]) -> None:
    """Records, transactions and groups over TLS."""
    broker = opened({**settings(server), "session_timeout_seconds": 6})
    try:
        broker.ensure_topics([TopicSpec(fresh, 1, "delete", MEGABYTE)])
        broker.publisher("test").publish([record(fresh, "a")], Deadline.after(10))
        publisher = broker.transactional_publisher(f"{fresh}.connector")
        publisher.publish([record(fresh, "b"), record(fresh, "c")], Deadline.after(10))
        publisher.close(Deadline.after(5))
        assert _read_in_a_group(broker, fresh) == ["a", "b", "c"]
    finally:
        broker.close()


def test_another_authority_than_the_one_that_signed_is_refused(server: SecureKafka, tmp_path: Path) -> None:
    """Given a broker whose certificate nobody here knows, then it is not talked to, and the setting is named."""
    foreign = Authority(tmp_path)
    for authority in (str(foreign.certificate), None):
        told = refusal(server.as_user("writer", ssl_cafile=authority, **QUICK), ConfigError)
        assert "the certificate of 127.0.0.1" in told
        assert "kafka.ssl_cafile" in told


def test_a_broker_of_another_name_is_refused(server: SecureKafka) -> None:
    """Given a certificate for 127.0.0.1, then who is called `localhost` is somebody else."""
    told = refusal({**server.renamed("localhost"), **QUICK}, ConfigError)
    assert "not valid for 'localhost'" in told
    assert "advertised.listeners" in told
    opened({**server.renamed("localhost"), "ssl_check_hostname": False}).close()


def test_a_broker_that_cannot_be_trusted_any_more_is_waited_for_and_said(server: SecureKafka) -> None:
    """Given a process that got in, when a broker that it is sent to is not what it should be, then that is an
    outage which names its cause: a certificate is being changed.
    """
    broker = opened(server.renamed())
    try:
        with pytest.raises(BrokerUnavailable, match=r"the certificate of localhost:.* is refused"):
            broker.topics("")
    finally:
        broker.close()


def test_a_client_without_a_certificate_or_with_a_foreign_one_is_told_so(server: SecureKafka, tmp_path: Path) -> None:
    foreign = Authority(tmp_path).sign("foreign")
    files = {"ssl_certfile": str(foreign.certificate), "ssl_keyfile": str(foreign.key), "ssl_key_password": None}
    nothing = dict.fromkeys(files)
    for settings in (files, nothing):
        told = refusal(server.with_certificate(**settings, **QUICK), ConfigError)
        assert "refuses this client" in told
        assert "kafka.ssl_certfile" in told


@pytest.mark.parametrize(
    "settings",
    [
        {"sasl_password": "not-hers"},
        {"sasl_username": "nobody", "sasl_password": "not-hers"},
        {"sasl_username": "scram", "sasl_mechanism": "SCRAM-SHA-512", "sasl_password": "not-hers"},
    ],
    ids=["password", "user", "scram"],
)
def test_a_wrong_password_is_fatal_at_the_first_answer(server: SecureKafka, settings: dict[str, Any]) -> None:
    """It is tried once: the time for attempts is a minute here, and an account is locked after a few."""
    patient = {"options": {"bootstrap_timeout_ms": 60_000, "request_timeout_ms": 30_000}}
    told = refusal(server.as_user("writer", **settings, **patient), Fatal)
    assert "Authentication failed" in told
    assert "kafka.sasl_" in told


def test_a_mechanism_that_the_broker_does_not_have_is_fatal(server: SecureKafka) -> None:
    assert "UnsupportedSaslMechanism" in refusal(server.as_user("writer", sasl_mechanism="SCRAM-SHA-256"), Fatal)


def test_a_port_that_speaks_something_else_is_an_outage_that_says_so(server: SecureKafka) -> None:
    plain_to_tls = {**server.as_user("writer"), "security_protocol": "SASL_PLAINTEXT", **QUICK}
    assert "Invalid frame length" in refusal(plain_to_tls, BrokerUnavailable)
    tls_to_plain = {"bootstrap_servers": server.bootstrap, "security_protocol": "SSL", **QUICK}
    assert "does that port speak TLS?" in refusal(tls_to_plain, BrokerUnavailable)


def test_what_a_user_may_not_do_is_fatal_and_names_it(server: SecureKafka, fresh: str) -> None:
    broker = opened(server.as_user("connector"))
    try:
        with pytest.raises(Fatal, match=r"ACLs") as caught:
            broker.ensure_topics([TopicSpec(fresh, 1, "delete", MEGABYTE)])
        assert "AuthorizationFailed" in str(caught.value)
    finally:
        broker.close()


@pytest.mark.processes
@pytest.mark.parametrize("command", [("work", "chunk"), ("status",), ("topics", "apply")], ids=" ".join)
def test_commands_end_and_say_why(server: SecureKafka, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A worker too: what TLS or a password is refused for at its start does not pass by itself."""
    foreign = Authority(tmp_path / "foreign")
    for change, code, says in (
        ({"ssl_cafile": str(foreign.certificate), **QUICK}, 2, "kafka.ssl_cafile"),
        ({"sasl_password": "not-hers"}, 1, "Authentication failed"),
    ):
        settings = server.as_user("writer", **change)
        lines = [f"{name} = {_toml(value)}" for name, value in settings.items()]
        (tmp_path / "vectide.toml").write_text(
            'broker = "kafka"\nstore = "qdrant"\n[qdrant]\nurl = "http://127.0.0.1:1"\n[kafka]\n' + "\n".join(lines)
        )
        done = subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import main; main()", *command],
            cwd=tmp_path, env={**os.environ, "VECTIDE_LOG__LEVEL": "debug"}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert settings["sasl_password"] not in done.stdout + done.stderr
        assert not re.search("Traceback", done.stderr)


def _read_in_a_group(broker: Broker, topic: str) -> list[str]:
    """Joined again if nothing comes: a group that is made in the moment in which its topic appears can be
    given no partition by kafka-python, and stays so until it asks for metadata again.
    """
    found: list[Record] = []
    for _ in range(5):
        consumer = broker.consumer(f"{topic}.group", [topic], "test")
        deadline = Deadline.after(6.0)
        while len(found) < 3 and not deadline.expired:
            found += consumer.poll(0.1, 100).records
        consumer.close(Deadline.after(5))
        if len(found) == 3:
            break
    return values(found)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return str(value) if isinstance(value, int) else f'"{value}"'
