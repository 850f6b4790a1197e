"""Canaries in every setting that holds a secret: whatever is run, however it fails, none is seen anywhere."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.reading import to_the_end
from pipeline.config import Config, KafkaConfig
from pipeline.errors import Poison
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import Record
from pipeline.stages import dead_letters
from tests.support.commands import run
from tests.support.deployment import Deployment
from tests.support.kafka import _free_ports
from tests.support.secure_kafka import SecureKafka
from tests.support.stores import loopback

CANARY = "c4nary"


def secrets() -> list[tuple[str, str]]:
    """Every secret of the configuration, by section and name."""
    found = [("", name) for name, field in Config.model_fields.items() if SecretStr in get_args(field.annotation)]
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner = field.annotation.model_fields.items()
            found += [(section, name) for name, one in inner if SecretStr in get_args(one.annotation)]
    return found


COMMANDS = [
    ("status",), ("status", "--json"), ("topics", "apply"), ("search", "x"), ("dead-letters", "list"),
    ("migrate", "status"), ("migrate", "start", "--model", "hashing"),
]  # fmt: skip

BASE = """
broker = "kafka"
store = "qdrant"
receipt_key = "c4nary-receipt"
[pipeline]
prefix = "{prefix}"
partitions = 2
[model]
provider = "hashing"
name = "hashing"
[log]
level = "debug"
[qdrant]
url = "{qdrant}"
api_key = "c4nary-qdrant"
timeout_seconds = 2
[http]
token = "c4nary-http"
[sources.docs]
connector = "filesystem"
path = "docs"
[kafka]
ssl_key_password = "c4nary-key"
{kafka}
"""


def shown(folder: Path, *arguments: str, code: int | None = None, **environment: str) -> str:
    """What a command writes, without a canary in it."""
    done = run(folder, *arguments, environment=environment)
    assert code is None or done.code == code, done.shown
    assert CANARY not in done.shown, f"{arguments}: {done.shown}"
    assert "Traceback" not in done.shown
    return done.shown


def kafka(**settings: Any) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())


AWAY = kafka(
    bootstrap_servers="127.0.0.1:1", security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="me",
    sasl_password="c4nary-sasl",
) + '\n[kafka.options]\nbootstrap_timeout_ms = 100\nssl_password = "c4nary-options"\n'  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("text")
    return tmp_path


def configured(folder: Path, text: str, **parts: str) -> Path:
    (folder / "vectide.toml").write_text(text.format(**parts) if parts else text)
    return folder


def test_the_configuration_is_shown_without_them(folder: Path) -> None:
    """From the file, from files that it names, from the environment, and those of a connector and a library."""
    configured(folder, BASE, prefix="p", kafka=AWAY, qdrant="http://127.0.0.1:1")
    assert {("", "receipt_key"), ("kafka", "sasl_password"), ("http", "token")} < set(secrets())
    for section, name in secrets():
        (folder / name).write_text(f"c4nary-{name}-file\n")
        variable = "VECTIDE_" + (f"{section}__{name}" if section else name).upper()
        for environment in ({variable: f"c4nary-{name}"}, {f"{variable}_FILE": str(folder / name)}):
            for format in ((), ("--json",)):
                assert "**********" in shown(folder, "config", "check", *format, code=0, **environment)


MISTAKES = [
    'broker = "kafka"\n[kafka]\nsasl_pasword = "c4nary"',
    '[kafka]\nsasl_password = ["c4nary"]',
    "[kafka]\nsasl_password = { c4nary = 1 }",
    '[kafka]\nsasl_password = "c4nary',
    "[kafka]\nsasl_password = c4nary",
    '[kafka]\noptions = "c4nary"',
    '[kafka]\nbootstrap_servers = "me:c4nary@host:9092"',
    '[kafka]\nsecurity_protocol = "c4nary"',
    '[qdrant]\nurl = "https://me:c4nary@host"',
    '[qdrant]\napi_key = "c4nary\\nx"',
    '[qdrant]\napi_kei = "c4nary"',
    '[http]\ntoken = "c4nary x"',
    '[http]\nport = "c4nary"',
    '[sources.docs]\nconnector = "filesystem"\npath = "docs"\npassword = "c4nary"',
    '[sources.docs]\nconnector = "filesystem"\npath = ["c4nary"]',
    '[sources.docs]\nconnector = "sql"\ndsn = "pg://me:c4nary@host/db"',
    'token = "c4nary"',
]


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_the_configuration_is_named_without_them(folder: Path, text: str) -> None:
    configured(folder, text)
    told = shown(folder, "config", "check", code=2)
    assert "vectide" in told


def test_a_mistake_in_the_environment_is_named_without_them(folder: Path) -> None:
    for name, value in (
        ("VECTIDE_KAFKA__OPTIONS", '{sasl_plain_password = "c4nary'),
        ("VECTIDE_HTTP__TOKEN", "c4nary x"),
        ("VECTIDE_QDRANT__URL", "https://c4nary@host"),
        ("VECTIDE_SOURCES__DOCS__PASSWORD", "c4nary"),
        ("VECTIDE_HTTP__TOKENS", "c4nary"),
    ):
        shown(folder, "config", "check", code=2, **{name: value})


def test_where_kafka_is_away_they_are_not_shown(folder: Path) -> None:
    configured(folder, BASE, prefix="p", kafka=AWAY, qdrant="http://127.0.0.1:1")
    operator = [("verify",), ("explain", "docs:a.md"), ("gc",), ("forget", "docs:a.md", "--beforehand")]
    for arguments in (*COMMANDS, *operator):
        assert "127.0.0.1:1" in shown(folder, *arguments, code=7)
    options = kafka(bootstrap_servers="127.0.0.1:1") + '\n[kafka.options]\nsasl_plain_pasword = "c4nary"\n'
    configured(folder, BASE, prefix="p", kafka=options, qdrant="http://127.0.0.1:1")
    assert "kafka.options.sasl_plain_pasword" in shown(folder, "status", code=2)


@pytest.mark.kafka
def test_where_kafka_refuses_the_password_it_is_not_shown(folder: Path, secure_kafka: SecureKafka) -> None:
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        settings = secure_kafka.as_user("writer", sasl_password="c4nary-wrong", sasl_mechanism=mechanism)
        configured(folder, BASE, prefix="p", kafka=kafka(**settings), qdrant="http://127.0.0.1:1")
        assert "Authentication failed" in shown(folder, "status", code=1)
    broken = secure_kafka.with_certificate(ssl_key_password="c4nary-wrong-key")
    text = BASE.replace('ssl_key_password = "c4nary-key"\n', "")
    configured(folder, text, prefix="p", kafka=kafka(**broken), qdrant="http://127.0.0.1:1")
    assert "kafka.ssl_key_password" in shown(folder, "status", code=2)


INDEX = """
receipt_key = "c4nary-receipt"
[model]
provider = "hashing"
name = "hashing"
[log]
level = "debug"
[http]
token = "c4nary-http"
[sources.docs]
connector = "filesystem"
path = "docs"
"""
#: In this order: what was forgotten is explained, and gc ends letters.
LOOKS = [
    ("dead-letters", "show", "g/chunk/vectide.default.documents.0/0/0"), ("verify", "--sample", "5"),
    ("verify", "--full"), ("forget", "docs:a.md", "--out", "receipt.json"), ("receipt", "check", "receipt.json"),
    ("forget", "--receipt", "receipt.json"), ("explain", "docs:a.md"), ("gc",), ("gc", "--apply", "--json"),
]  # fmt: skip


@pytest.mark.processes
def test_letters_receipts_and_state_keep_none(tmp_path: Path) -> None:
    """Given a signed receipt, and a letter whose cause quotes an address with a password, then no command shows a
    secret, nor does the receipt or any file of the state folder hold one.
    """
    made = Deployment(tmp_path, INDEX)
    try:
        for name in ("a.md", "b.md"):
            (made.documents / name).write_text(f"text of {name}")
        index = made.start("up")
        made.quiet(2)
        assert index.stop() == 0
    finally:
        made.end()
    names = Names("vectide", "default")
    broker = EmbeddedBroker(made.folder / ".vectide" / "log")
    record = Record(names.documents(0), 0, 0, DocumentKey("docs", "b.md").to_bytes(), b"text")
    cause = Poison("bad", "cannot reach https://me:c4nary@host/?api_key=c4nary")
    dead_letters.bury(broker.publisher("test"), names, [dead_letters.letter_of(record, "g", "chunk", 0, cause, 1)])
    broker.close()
    told = {arguments: shown(made.folder, *arguments, code=0) for arguments in LOOKS}
    assert "https://me:**********@host/?api_key=**********" in told[LOOKS[0]]
    assert "signed with the configured key" in told["receipt", "check", "receipt.json"]
    files = [made.folder / "receipt.json", *(path for path in (made.folder / ".vectide").rglob("*") if path.is_file())]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


@pytest.fixture
def deployment(secure_kafka: SecureKafka, fresh: str, tmp_path: Path) -> Iterator[Deployment]:
    """Kafka is there; Qdrant refuses every key but its own."""
    with loopback(tmp_path / "qdrant", api_key="right") as url:
        text = BASE.format(prefix=fresh, kafka=kafka(bootstrap_servers=secure_kafka.bootstrap), qdrant=url)
        made = Deployment(tmp_path, text)
        try:
            yield made
        finally:
            made.end()


def _written(broker: KafkaBroker, prefix: str) -> list[Record]:
    """Every record of every topic of a prefix."""
    topics = broker.topics(f"{prefix}.")
    return [one for topic in topics for page in to_the_end(broker.reader(topic), topic, 500, 30.0) for one in page]


@pytest.mark.kafka
@pytest.mark.processes
@pytest.mark.timeout(180)
def test_long_lived_processes_tell_them_nobody(deployment: Deployment, secure_kafka: SecureKafka, fresh: str) -> None:
    """Given a store that refuses the key, and then a Kafka that is away, then neither logs, nor probes, nor
    metrics, nor the arguments of processes, nor what they write to Kafka has a secret in it.
    """
    folder = deployment.folder
    (deployment.documents / "a.md").write_text("text")
    shown(folder, "topics", "apply", code=0)
    refused = [deployment.begin(*arguments) for arguments in (("work", "embed"), ("serve",))]
    connector = deployment.start("connect", "filesystem")
    for command in refused:
        assert command.process.wait(90) == 1
        assert "qdrant.api_key" in command.errors()
    broker = KafkaBroker(KafkaConfig(bootstrap_servers=secure_kafka.bootstrap), "test")
    deadline = time.monotonic() + 60
    while not any(record.key.endswith(b"a.md") for record in _written(broker, fresh)):
        assert time.monotonic() < deadline, connector.errors()
        time.sleep(0.2)
    assert connector.stop() == 0
    for arguments in COMMANDS:
        shown(folder, *arguments)
    records = _written(broker, fresh)
    broker.close()
    assert len(records) > 3
    assert not any(CANARY in f"{one.key!r} {one.value!r} {one.headers!r}" for one in records)
    # When Kafka is away
    (port,) = _free_ports(1)
    text = BASE.replace('token = "c4nary-http"', f'token = "c4nary-http"\nport = {port}')
    configured(folder, text, prefix=fresh, kafka=AWAY, qdrant="http://127.0.0.1:1")
    waiting = deployment.begin("serve")
    answers = _asked(f"http://127.0.0.1:{port}", ("/livez", "/readyz", "/startupz", "/metrics", "/status"))
    assert "ECONNREFUSED" in answers
    arguments = Path(f"/proc/{waiting.process.pid}/cmdline").read_bytes()
    assert waiting.stop() == 0
    for seen in (answers, arguments.decode(), *(log.read_text() for log in folder.glob("*.log"))):
        assert CANARY not in seen


def _asked(url: str, paths: tuple[str, ...]) -> str:
    """All answers, once the process waits."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        found = ""
        for path in paths:
            try:
                with opener.open(url + path, timeout=10) as answer:
                    found += answer.read().decode()
            except urllib.error.HTTPError as error:
                found += error.read().decode()
            except OSError:
                break
        if "ECONNREFUSED" in found:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
