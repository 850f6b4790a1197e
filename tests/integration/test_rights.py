"""Least rights in Kafka, held against a broker's own decisions: what is needed is there, and no more."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from pipeline.broker.kafka import KafkaBroker
from pipeline.broker.reading import to_the_end
from pipeline.broker.rights import ROLES, Right, Role, rights
from pipeline.codec import encode_dead_letter
from pipeline.config import KafkaConfig
from pipeline.deadline import Deadline
from pipeline.errors import UNAVAILABLE, NotAllowed
from pipeline.identity import version_of
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord, TopicSpec
from pipeline.records import DeadLetter, Origin
from tests.support.commands import run
from tests.support.deployment import Deployment
from tests.support.kafka import _free_ports, clean_soon
from tests.support.probing import SECONDS
from tests.support.qdrant_server import Handler
from tests.support.secure_kafka import Decision, SecureKafka
from tests.support.stores import loopback

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(900)]

CONFIGURATION = """
broker = "kafka"
store = "qdrant"
[pipeline]
prefix = "{prefix}"
partitions = 2
[model]
provider = "hashing"
name = "hashing"
[qdrant]
url = "{qdrant}"
api_key = "{role}"
[embed]
delete_grace_seconds = 0.2
[chunk]
behind_limit_records = 8
[work]
commit_seconds = 0.2
[verify]
every_seconds = 1
[sources.docs]
connector = "filesystem"
path = "docs"
[kafka]
session_timeout_seconds = 6
{kafka}
"""

#: Kafka's words as its log has them.
_OPERATIONS = {"DescribeConfigs": "DESCRIBE_CONFIGS"}
_KINDS = {"TransactionalId": "TransactionalId", "Cluster": "Cluster", "Topic": "Topic", "Group": "Group"}


@pytest.fixture
def names(fresh: str) -> Names:
    return Names(f"r{fresh}", "default")


def granted(role: Role, names: Names) -> list[Right]:
    return rights(role, names, 0, ["docs", "canary"] if role == "connector" else ["docs"])


@pytest.fixture
def server(secure_kafka: SecureKafka, names: Names) -> SecureKafka:
    """Each role is a user with exactly its rights."""
    admin = KafkaAdminClient(bootstrap_servers=secure_kafka.bootstrap)
    kinds = {"TransactionalId": ResourceType.TRANSACTIONAL_ID}
    admin.create_acls(
        [
            ACL(
                f"User:{role}",
                "*",
                ACLOperation[_OPERATIONS.get(one.operation, one.operation.upper())],
                ACLPermissionType.ALLOW,
                ResourcePattern(
                    kinds.get(one.kind) or ResourceType[one.kind.upper()],
                    one.name,
                    ACLResourcePatternType.PREFIXED if one.prefixed else ACLResourcePatternType.LITERAL,
                ),
            )
            for role in ROLES
            for one in granted(role, names)
        ]
    )
    admin.close()
    return secure_kafka


class Roles:
    """A deployment in which each process is its role and no more."""

    def __init__(self, folder: Path, server: SecureKafka, names: Names, qdrant: str) -> None:
        self.made = Deployment(folder, "")
        for role in ROLES:
            lines = [f"{name} = {json.dumps(value)}" for name, value in server.as_user(role).items()]
            text = CONFIGURATION.format(prefix=names.prefix, qdrant=qdrant, role=role, kafka="\n".join(lines))
            (folder / f"{role}.toml").write_text(text)

    def ask(self, role: Role, *arguments: str, code: int = 0) -> str:
        """A short command's output; what does not answer yet is asked again."""
        deadline = Deadline.after(SECONDS)
        while True:
            done = run(self.made.folder, *arguments, environment={"VECTIDE_CONFIG": f"{role}.toml"})
            if done.code != UNAVAILABLE or deadline.expired:
                break
            time.sleep(0.2)
        assert done.code == code, f"{role}: {arguments}: {done.shown}"
        return done.out

    def start(self, role: Role, *arguments: str, **environment: str) -> None:
        """A long-lived command."""
        self.made.begin(*arguments, VECTIDE_CONFIG=f"{role}.toml", **environment)

    def stop(self, command: str) -> None:
        """End what runs of a command."""
        for one in [one for one in self.made.running if one.arguments[0] == command]:
            assert one.stop() == 0, one.errors()
            self.made.running.remove(one)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true, and all processes are there."""
        deadline = time.monotonic() + SECONDS
        while not true():
            ended = [one for one in self.made.running if one.process.poll() is not None]
            assert not ended, ended[0].errors()
            assert time.monotonic() < deadline, "\n".join(one.errors()[-800:] for one in self.made.running)
            time.sleep(1.0)

    def status(self) -> dict[str, Any]:
        """As who searches sees it."""
        found: dict[str, Any] = json.loads(self.ask("search", "status", "--json"))
        return found

    def quiet(self, documents: int, **more: object) -> None:
        """Nothing lags, and so many documents are there."""
        wanted = {"documents": documents, "lag": 0, **more}
        self.until(lambda: (found := self.status())["generation"] is not None and wanted.items() <= found.items())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[str, str]]]:
    """By role, the methods and paths that it asks of Qdrant, names of collections left out."""
    found: dict[str, set[tuple[str, str]]] = {}
    serve = Handler._serve

    def noted(handler: Handler, method: str) -> None:
        path = re.sub(r"^/collections/(?!aliases)[^/]+", "/collections/NAME", handler.path.split("?")[0])
        found.setdefault(handler.headers.get("api-key") or "", set()).add((method, path))
        serve(handler, method)

    monkeypatch.setattr(Handler, "_serve", noted)
    return found


@pytest.fixture
def roles(tmp_path: Path, server: SecureKafka, names: Names, asked: object) -> Iterator[Roles]:
    with loopback(tmp_path / "qdrant") as url:
        made = Roles(tmp_path, server, names, url)
        try:
            yield made
        finally:
            made.made.end()


def test_a_pipeline_needs_exactly_these_rights(
    roles: Roles, server: SecureKafka, names: Names, asked: dict[str, set[tuple[str, str]]]
) -> None:
    """Given processes that have the rights of their role, when a pipeline lives through all that it can, then the
    broker refuses nothing, and every right was used; and of Qdrant nobody asked more than docs/security.md says.
    """
    documents = roles.made.documents
    for number in range(6):
        (documents / f"d{number}.md").write_text(f"# Document {number}\n\nThe tide of number {number}.\n")
    live = json.loads(roles.ask("operator", "topics", "apply", "--found", "--json"))["live"]
    roles.start("connector", "connect", "filesystem")
    roles.until(lambda: roles.status()["lag"] >= 6)  # and it says how old what waits is
    roles.start("chunk", "work", "chunk")
    roles.start("embed", "work", "embed")
    (port,) = _free_ports(1)
    roles.start("search", "serve", VECTIDE_HTTP__PORT=str(port))
    roles.quiet(6)
    assert json.loads(roles.ask("search", "search", "tide", "--json"))["hits"]
    _fail_records(server, names, live)
    roles.quiet(6, dead_letters=3)
    roles.until(lambda: _ready(f"http://127.0.0.1:{port}"))
    _look_around(f"http://127.0.0.1:{port}")
    assert json.loads(roles.ask("connector", "canary", "--url", f"http://127.0.0.1:{port}", "--json"))["ok"]
    roles.ask("operator", "dead-letters", "replay", "--all", code=1)
    roles.ask("operator", "dead-letters", "drop", "--all")
    # Another generation, live and undone
    roles.ask("operator", "migrate", "run", "--context", "none", "--cutover", "auto")
    roles.ask("operator", "migrate", "rollback")
    roles.ask("operator", "migrate", "cutover", "--force", "test")
    roles.ask("operator", "migrate", "retire")
    roles.ask("operator", "verify", "--fix")
    # A connector that has lost its cache; documents are forgotten by it, and without it
    roles.stop("connect")
    shutil.rmtree(roles.made.folder / ".vectide" / "connectors")
    roles.start("connector", "connect", "filesystem")
    roles.ask("operator", "forget", "docs:d1.md")
    roles.stop("connect")
    roles.ask("operator", "forget", "docs:d2.md", "--take-over")
    roles.quiet(4)
    roles.ask("operator", "explain", "docs:d3.md")
    roles.ask("operator", "gc")
    # Old deletes are collected by who writes them, once compaction has taken what was before them
    roles.start("connector", "connect", "filesystem")
    (documents / "d4.md").unlink()
    clean_soon(server.bootstrap, [names.documents(0)])
    roles.until(lambda: _collected(roles))
    roles.stop("connect")
    refused, used = _decided(server, names)
    assert sorted(map(str, refused)) == []
    unused = [
        f"{role}: {right}"
        for role in ROLES
        for right in granted(role, names)
        if not any(what.user in _who(role, right) and _covers(right, what) for what in used)
        # `status` reads a chunks topic only if a record waits there at that very moment.
        and not (role == "search" and right.operation == "Read" and right.name.endswith(".chunks."))
    ]
    assert unused == []
    assert {role: {_level(*one) for one in requests} for role, requests in asked.items()} == {
        "search": {"read"},
        "embed": {"read", "write", "manage"},
        "operator": {"read", "write", "manage"},
    }
    assert {one for one in asked["embed"] if _level(*one) == "manage"} <= MADE_BY_EMBED


def _collected(roles: Roles) -> bool:
    path = roles.made.documents / "d5.md"
    path.write_text(path.read_text() + "\nA new record closes a segment of the log.\n")
    return bool(json.loads(roles.ask("operator", "gc", "--apply", "--older-than", "0", "--json"))["deletes"])


#: What an embed worker needs `manage` for: the collection of a generation that is new, its index, the alias.
MADE_BY_EMBED = {
    ("PUT", "/collections/NAME"),
    ("PATCH", "/collections/NAME"),
    ("POST", "/collections/aliases"),
}


def _level(method: str, path: str) -> str:
    """Qdrant's own level of a request, as its table of access has it."""
    if (method, path) in {*MADE_BY_EMBED, ("DELETE", "/collections/NAME")}:
        return "manage"
    if method in ("PUT", "DELETE") or path.endswith(("/points/delete", "/points/payload", "/points/batch")):
        return "write"
    assert method == "GET" or path.rpartition("/")[2] in (
        "scroll", "query", "count", "facet", "points", "batch"
    ), (method, path)  # fmt: skip
    return "read"


#: What each must not be able to do: its topic or transactional id, and how.
FORBIDDEN: list[tuple[Role, str, Callable[[Broker, Names], object]]] = [
    ("connector", "control", lambda broker, names: _write(broker, names.control)),
    ("connector", "chunks", lambda broker, names: _write(broker, names.chunks("g1"))),
    ("connector", "dead letters", lambda broker, names: broker.reader(names.dead_letters).poll(1.0, 1)),
    ("connector", "another source", lambda broker, names: broker.transactional_publisher(names.connector("other"))),
    ("chunk", "documents", lambda broker, names: _write(broker, names.documents(0))),
    ("chunk", "control", lambda broker, names: _write(broker, names.control)),
    ("chunk", "operator", lambda broker, names: broker.transactional_publisher(names.operator)),
    ("chunk", "dead letters", lambda broker, names: broker.reader(names.dead_letters).poll(1.0, 1)),
    ("embed", "documents", lambda broker, names: _write(broker, names.documents(0))),
    ("embed", "control", lambda broker, names: _write(broker, names.control)),
    ("embed", "chunks", lambda broker, names: _write(broker, names.chunks("g1"))),
    ("embed", "group", lambda broker, names: broker.delete_group(names.group("embed", "g1"))),
    ("search", "documents", lambda broker, names: _write(broker, names.documents(0))),
    ("search", "chunks", lambda broker, names: _write(broker, names.chunks("g1"))),
    ("search", "dead letters", lambda broker, names: _write(broker, names.dead_letters)),
    ("search", "control", lambda broker, names: _write(broker, names.control)),
    ("search", "state", lambda broker, names: broker.reader(names.connector_state).poll(1.0, 1)),
    ("operator", "other pipelines", lambda broker, names: _write(broker, f"{names.prefix}.other.control")),
]


def test_what_a_role_must_not_do_is_refused(roles: Roles, server: SecureKafka, names: Names) -> None:
    """Given topics of two pipelines, then nobody writes what is another's to write."""
    roles.ask("operator", "topics", "apply")
    plain = KafkaBroker(KafkaConfig(bootstrap_servers=server.bootstrap), "test")

    plain.ensure_topics(
        [
            TopicSpec(names.chunks("g1"), 1, "delete", 1000),
            TopicSpec(f"{names.prefix}.other.control", 1, "delete", 1000),
        ]
    )
    plain.close()
    for role in ROLES:
        broker = KafkaBroker(KafkaConfig.model_validate(server.as_user(role)), "test")
        try:
            for who, what, act in FORBIDDEN:
                if who == role:
                    with pytest.raises(Exception) as caught:
                        act(broker, names)
                    assert isinstance(caught.value, NotAllowed) or "no topic" in str(caught.value), (role, what)
        finally:
            broker.close()


def _fail_records(server: SecureKafka, names: Names, generation: str) -> None:
    """A record in each stage's topic that nobody can read, and the dead letter of one that can be replayed."""
    broker = KafkaBroker(KafkaConfig(bootstrap_servers=server.bootstrap), "test")
    topic = names.documents(0)
    (good, *_) = (one for page in to_the_end(broker.reader(topic), topic, 100, 30.0) for one in page)
    letter = DeadLetter(
        generation, "chunk", Origin(topic, good.partition, good.offset), version_of(0, good.offset), "chunking_failed",
        "a test says so", 1, time.time(), good.key, good.value, good.headers,
    )  # fmt: skip
    headers = (("vectide-kind", b"changed"), ("vectide-schema", b"1"), ("vectide-event-time", b"1.0"))
    broken = [
        NewRecord(topic, b"broken", b'{"text": "cut o', headers, 0),
        NewRecord(names.chunks(generation), b"broken", b'{"text": "cut o', headers, 0),
        NewRecord(names.dead_letters, *encode_dead_letter(letter)),
    ]
    broker.publisher("test").publish(broken, Deadline.after(10))
    broker.close()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _look_around(url: str) -> None:
    """Who may search may look at dead letters, and has no way to change anything."""

    def ask(path: str, **body: object) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(url + path, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    status, found = ask("/dead-letters", action="list")
    assert (status, len(found["dead_letters"])) == (200, 3)
    assert [ask("/dead-letters", action=action)[0] for action in ("drop", "replay", "")] == [409] * 3
    assert ask("/search", query="tide")[0] == 200
    for path in ("/migrate", "/erasure", "/verify", "/dead-letters/", "/instance"):
        assert ask(path, action="status")[0] == 404, path


def _write(broker: Broker, topic: str) -> object:
    return broker.publisher("test").publish([NewRecord(topic, b"k", b"v", (), 0)], Deadline.after(5))


def _decided(server: SecureKafka, names: Names) -> tuple[set[Decision], set[Decision]]:
    """What the broker refused and allowed of this pipeline's own."""
    ours = [one for one in server.decisions() if one.name.startswith(names.prefix) or one.kind == "Cluster"]
    return {one for one in ours if not one.allowed}, {one for one in ours if one.allowed}


def _who(role: Role, right: Right) -> tuple[Role, ...]:
    """Whoever comes first makes a generation's topic."""
    return ("chunk", "embed") if role in ("chunk", "embed") and right.operation == "Create" else (role,)


def _covers(right: Right, what: Decision) -> bool:
    operation = next(
        (
            name
            for name in ("Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs")
            if _OPERATIONS.get(name, name.upper()) == what.operation
        ),
        what.operation,
    )
    return right.covers(what.kind, what.name, operation) and operation == right.operation
