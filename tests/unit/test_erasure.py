"""Forgetting and gc over a whole pipeline in this process: what is left where, and a command killed anywhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from connectors.looks import Look
from connectors.runner import Runner
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import chunks_topic
from pipeline.cli import clearing, proof, traces, verifying
from pipeline.cli.asking import Asking
from pipeline.cli.assembly import Models, Parts, apply_topics, collection_of
from pipeline.cli.collecting import Collecting
from pipeline.cli.erasure import Erasure, Forgetting
from pipeline.cli.explain import _generations
from pipeline.cli.explaining import explained
from pipeline.cli.gating import Gating
from pipeline.cli.index import Index
from pipeline.cli.main import cli
from pipeline.cli.migrate import gate_lines
from pipeline.cli.migrations import Migrations
from pipeline.cli.receipts import moment
from pipeline.cli.tasks import raised
from pipeline.cli.traces import Wanted
from pipeline.cli.verifications import told
from pipeline.codec import encode_dead_letter
from pipeline.config import Config, EmbedConfig, ModelConfig, PipelineConfig, SourceConfig, WorkConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.errors import BrokerUnavailable, ConfigError, ForeignCollection, Refused, Transient
from pipeline.generations import operator, requests, transitions
from pipeline.generations.control import Generation
from pipeline.generations.gate import Report
from pipeline.generations.known_items import known_items
from pipeline.generations.quality import unlabelled
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import Lifetime, NewRecord
from pipeline.records import DeadLetter, Origin
from pipeline.specs import GenerationSpec
from pipeline.stages import dead_letters
from pipeline.store.memory import MemoryStore

SECONDS = 40.0
CONFIG = Config(
    pipeline=PipelineConfig(prefix="t", name="p", partitions=2),
    model=ModelConfig(provider="hashing", name="hashing"),
    work=WorkConfig(drain_seconds=2.0, commit_seconds=0.05),
    embed=EmbedConfig(flush_seconds=0.05, delete_grace_seconds=600.0),
)


class Told:
    """A task that nobody stops."""

    def at(self, phase: str, done: int, whole: int) -> None:
        pass

    def stopped(self) -> bool:
        return False


@dataclass
class ToldToStop(Told):
    """One that is stopped as soon as it waits for nothing but the workers of one generation."""

    generation: str
    over: bool = False

    def at(self, phase: str, done: int, whole: int) -> None:
        self.over = self.over or phase == f"waiting for the workers of generation {self.generation}"

    def stopped(self) -> bool:
        return self.over


@dataclass
class Place:
    """A pipeline and its folder."""

    parts: Parts
    folder: Path
    index: Index | None = None

    @property
    def names(self) -> Names:
        return self.parts.names

    def donors(self, seconds: float) -> None:
        """From the next start on, how long the chunks of deleted documents are donors."""
        embed = EmbedConfig(flush_seconds=0.05, delete_grace_seconds=seconds)
        self.parts = replace(self.parts, config=self.parts.config.model_copy(update={"embed": embed}))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @contextmanager
    def up(self) -> Iterator[Index]:
        stop = threading.Event()
        source = SourceConfig.model_validate({"connector": "filesystem", "path": str(self.folder)})
        index = self.index = Index(self.parts, {"docs": source}, stop)
        index.start()
        try:
            self.until(lambda: index.scanned and index.lag() == 0)
            yield index
        finally:
            assert index.close()
            self.index = None
        index.crew.raise_failure()

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < deadline, "it never came true"
            if self.index is not None:
                self.index.crew.raise_failure()
            time.sleep(0.01)

    def control(self) -> Any:
        from pipeline.cli.assembly import Followed

        return Followed(self.parts)

    def forget(self, *keys: str, parts: Parts | None = None, told: Told | None = None, **given: Any) -> dict[str, Any]:
        """As a command does it: through the running process, or by itself."""
        sources = (lambda: self.index.sources) if self.index is not None else tuple  # type: ignore[union-attr]
        asked = {"keys": list(keys), **given} if keys else given
        run = Forgetting(parts or self.parts, self.control(), sources, told or Told(), {"wait": 20.0, **asked})  # type: ignore[arg-type]
        return run.forget()

    def lift(self, **given: Any) -> dict[str, Any]:
        sources = (lambda: self.index.sources) if self.index is not None else tuple  # type: ignore[union-attr]
        return Forgetting(self.parts, self.control(), sources, Told(), {"wait": 20.0, **given}).lift()  # type: ignore[arg-type]

    def gc(self, parts: Parts | None = None, **given: Any) -> Collecting:
        sources = (lambda: self.index.sources) if self.index is not None else tuple  # type: ignore[union-attr]
        return Collecting(parts or self.parts, self.control(), sources, Told(), {"older_days": 0, **given})  # type: ignore[arg-type]

    def paths(self) -> set[str]:
        """What can be searched."""
        found: set[str] = set()
        for collection in traces.collections(self.parts):
            for head in collection.scan_heads()[0]:
                if head.state != "deleted":
                    found.add(head.key.path)
        return found

    def bury(self, generation: str, key: DocumentKey, offset: int, version: int = 0) -> str:
        letter = DeadLetter(
            generation,
            "embed",
            Origin(self.names.chunks(generation), 0, offset),
            version,
            "embedding_failed",
            "it failed",
            1,
            1.0,
            key.to_bytes(),
            b"the text of it",
        )
        record = NewRecord(self.names.dead_letters, *encode_dead_letter(letter))
        self.parts.broker.publisher("t").publish([record], Deadline.after(5))
        return letter.id


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    parts = Parts(
        CONFIG.model_copy(update={"state": tmp_path / "state"}), Names("t", "p"), EmbeddedBroker(None), MemoryStore()
    )
    apply_topics(parts)
    folder = tmp_path / "docs"
    folder.mkdir()
    made = Place(parts, folder)
    for name in ("secret.md", "kept.md"):
        made.write(name, f"# {name}\n\nThis is the text of {name}.\n")
    yield made
    parts.broker.close()


def places(found: dict[str, Any]) -> dict[str, tuple[str, int, int | None]]:
    return {one["place"]: (one["state"], one["found"], one["found_before"]) for one in found["places"]}


SECRET = DocumentKey("docs", "secret.md")


def live_of(place: Place) -> GenerationSpec:
    live = place.control().again().live
    assert live is not None
    return live.spec


# ---------------------------------------------------------------------------------- forgetting


def test_everything_of_a_document_is_gone_at_once_and_the_receipt_says_where_it_was(place: Place) -> None:
    """Given donors that would stay for ten minutes and a dead letter, then nothing is left anywhere."""
    with place.up():
        place.bury(live_of(place).id, SECRET, 7)
        found = place.forget("docs:secret.md")
        assert found["state"] == "gone"
        assert found["latest"] is None
        assert place.paths() == {"kept.md"}
    where = places(found)
    for name in ("collection", "chunks topic", "dead letters", "documents topic", "connector state"):
        state, left, before = where[name]
        assert (state, left) == ("gone", 0)
        assert before, f"{name} had something of it before"
    assert where["workers"][0] == "gone"
    (request,) = found["requests"]
    (document,) = request["documents"]
    assert document["key"] == "docs:secret.md"
    assert document["version"] == document["offset"]
    assert "This is the text" not in json.dumps(found)
    assert found["kept_out"]


def test_the_source_still_has_it_and_it_stays_out_until_it_is_lifted(place: Place) -> None:
    with place.up() as index:
        place.forget("docs:secret.md")
        place.write("secret.md", "# Again\n\nEdited.\n")
        place.write("new.md", "# New\n\nSomething.\n")
        place.until(lambda: "new.md" in place.paths())
        assert place.paths() == {"kept.md", "new.md"}
        assert index.operations.status({})["kept_out"] == {"documents": 1, "sources": []}
    with place.up() as index:
        assert place.paths() == {"kept.md", "new.md"}, "a restart does not bring it back"
        task = index.operations.erasure({"action": "lift", "keys": ["docs:secret.md"], "wait": 20.0})
        while task["running"]:
            time.sleep(0.02)
            task = index.operations.erasure({"action": "task", "id": task["id"]})
        assert raised(task)["lifted"] == 1
        place.until(lambda: place.paths() == {"kept.md", "new.md", "secret.md"})
        assert index.operations.status({})["kept_out"] == {"documents": 0, "sources": []}


def test_an_older_receipt_is_completed_later_and_says_that_it_came_back(place: Place) -> None:
    with place.up():
        found = place.forget("docs:secret.md")
        ids = [one["id"] for one in found["requests"]]
        again = place.forget(requests=ids)
        assert (again["state"], again["requests"][0]["documents"]) == ("gone", found["requests"][0]["documents"])
        asked = Forgetting(place.parts, place.control(), lambda: ["docs"], Told(), {"keys": ["docs:secret.md"]})  # type: ignore[arg-type]
        asked.lift()
        place.until(lambda: "secret.md" in place.paths())
        back = place.forget(requests=ids, wait=0.1)
        assert back["state"] == "pending"
        assert not back["kept_out"]
    with pytest.raises(Refused, match="does not know"):
        place.forget(requests=["never"])


def test_without_a_running_process_the_command_does_it_all(place: Place) -> None:
    with place.up():
        pass
    found = place.forget("docs:secret.md")
    assert found["state"] == "gone"
    assert place.paths() == {"kept.md"}
    with place.up():
        assert place.paths() == {"kept.md"}


def test_a_whole_source(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    examine, examined = Runner._examine, list[str]()

    def noted(self: Runner, look: Look) -> None:
        examine(self, look)
        examined.append(look.path)

    for number in range(20):
        place.write(f"{number}.md", f"# {number}\n\nIt is about {number}.\n")
    with place.up() as index:
        assert len(place.paths()) == 22
        found = place.forget(source="docs")
        assert found["state"] == "gone"
        assert place.paths() == set()
        assert found["requests"][0]["deletes"] == 22
        assert found["requests"][0]["whole_source"]
        monkeypatch.setattr(Runner, "_examine", noted)
        for name in ("later.md", "last.md"):  # when it looks at the second, what it made of the first is published
            place.write(name, "# Later\n\nText.\n")
            place.until(lambda name=name: name in examined)  # type: ignore[misc]
        place.until(lambda: index.lag() == 0)
        assert place.paths() == set()
        assert places(found)["collection"][2] == 44, "heads and chunks before"


def test_what_nothing_knows_is_a_mistake_unless_it_is_meant(place: Place) -> None:
    with place.up():
        for given in ({"keys": ["docs:secrte.md"]}, {"source": "dcos"}):
            with pytest.raises(ConfigError, match="nothing is known"):
                place.forget(**given)
        for keys in ([], ["no key"], [f"docs:{number}" for number in range(501)], "docs:secret.md"):
            with pytest.raises(ConfigError):
                place.forget(keys=keys)
        place.forget("docs:to-come.md", beforehand=True)
        place.write("to-come.md", "# New\n\nText.\n")
        place.write("other.md", "# New\n\nText.\n")
        place.until(lambda: "other.md" in place.paths())
        assert "to-come.md" not in place.paths()
        assert place.control().again().requests, "and what was a mistake was not asked"


def test_generations_that_are_over_are_cleaned_as_well(place: Place) -> None:
    """Given a failed generation that nobody follows, then its collection and its topic hold nothing of it."""
    spec = generation_spec(CONFIG.model_copy(update={"model": ModelConfig(provider="hashing", name="h", dimension=64)}))
    broker, names = place.parts.broker, place.names
    with place.up() as index:
        operator.operate(broker, names, lambda state: transitions.start(state, spec, time.time()))
        place.until(lambda: names.collection(spec.id) in place.parts.store.names(names.root))
        place.until(lambda: place.parts.store.open(names.collection(spec.id)).count_heads().get("complete") == 2)
        operator.operate(broker, names, lambda state: transitions.fail(state, spec.id, time.time(), "a test"))
        place.until(lambda: spec.id not in index.lines._lines)
        found = place.forget("docs:secret.md")
    assert found["state"] == "gone"
    names_of = [one["name"] for one in found["places"] if one["place"] == "collection"]
    assert sorted(names_of) == sorted([names.collection(spec.id), names.collection(live_of(place).id)])
    over = place.parts.store.open(names.collection(spec.id))
    assert over.heads([SECRET.doc])[SECRET.doc].state == "deleted"
    assert over.scan_chunks(docs=[SECRET.doc])[0] == []


def test_a_worker_that_is_behind_is_waited_for_and_then_said(place: Place) -> None:
    """Given a paused generation, then the document is gone from searches, and the receipt is pending."""
    place.donors(0.5)  # an older version that is read below the tombstone waits for as long
    spec = generation_spec(CONFIG.model_copy(update={"model": ModelConfig(provider="hashing", name="h", dimension=64)}))
    broker, names = place.parts.broker, place.names
    with place.up():
        operator.operate(broker, names, lambda state: transitions.start(state, spec, time.time()))
        operator.operate(broker, names, lambda state: transitions.pause(state, spec.id, time.time(), paused=True))
        place.until(lambda: names.collection(spec.id) in place.parts.store.names(names.root))
        place.write("secret.md", "# Edited\n\nSo that something is behind.\n")
        place.write("more.md", "# More\n\nSomething.\n")
        place.until(lambda: "more.md" in place.paths())
        found = place.forget("docs:secret.md", told=ToldToStop(spec.id))
        assert "secret.md" not in place.paths()
        assert found["state"] == "pending"
        workers = {one["name"]: one for one in found["places"] if one["place"] == "workers"}
        waiting = workers[f"of generation {spec.id}"]
        assert (waiting["state"], waiting["note"]) == ("pending", "paused")
        operator.operate(broker, names, lambda state: transitions.pause(state, spec.id, time.time(), paused=False))
        done = place.forget(requests=[one["id"] for one in found["requests"]])
        assert done["state"] == "gone", [one for one in done["places"] if one["state"] != "gone"]


def test_the_history_of_a_gate_keeps_no_text_that_was_drawn_from_a_document(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a gate that refuses for what it does not find again, then only its answer has the sentence."""
    place.write("secret.md", "# Secret\n\nThe patient Jane Roe has a rare illness indeed.\n")
    spec = generation_spec(CONFIG.model_copy(update={"model": ModelConfig(provider="hashing", name="h", dimension=64)}))
    broker, names = place.parts.broker, place.names
    with place.up():
        items = known_items(place.parts.store.open(names.collection(live_of(place).id)), 10, 1)
        operator.operate(broker, names, lambda state: transitions.start(state, spec, time.time()))
        place.until(lambda: names.collection(spec.id) in place.parts.store.names(names.root))

        def examine(self: Gating, examined: Any) -> Report:
            target: Generation = examined.target
            quality = unlabelled(items, lambda q, n: [one.key for one in items if one.query == q], lambda q, n: [])
            return Report(target.id, target.transitions, ("worse",), quality=quality)

        monkeypatch.setattr(Gating, "_examine", examine)
        migrations = Migrations(place.parts, place.control(), Models(place.parts.config))
        task = migrations.ask({"action": "gate"})
        while task["running"]:
            time.sleep(0.01)
            task = migrations.ask({"action": "task", "id": task["id"]})
        found = raised(task)
        assert "Jane Roe" in json.dumps(found), "the answer shows it"
        (kept,) = [one for one in place.control().again().history if one.reason.startswith("gate")]
        assert kept.details["quality"]["worst"][0]["relevant"]
        assert "Jane Roe" not in json.dumps(kept.details)
        assert any("docs:" in line for line in gate_lines(kept.details))
        where = {one["place"]: one["state"] for one in place.forget("docs:secret.md")["places"]}
        assert where["control"] == "gone"
        # As a build before this wrote it:
        target = place.control().again().generations[spec.id]
        operator.operate(
            broker,
            names,
            lambda state: transitions.refuse_gate(state, spec.id, target.transitions, time.time(), "worse", found),
        )
        again = place.forget("docs:secret.md")
        where = {one["place"]: one["state"] for one in again["places"]}
        assert (where["control"], again["state"]) == ("pending", "pending")
        assert "Jane Roe" not in json.dumps(again)


def test_what_was_reversed_since_is_carried_out_once_more(place: Place) -> None:
    """Given a forget whose command was killed before it saw it done, and a lift, then forgetting deletes again."""
    with place.up():
        asking = Asking(place.parts, place.control(), lambda: ["docs"], Told(), Deadline.after(20))  # type: ignore[arg-type]
        asking.asked([asking.request("forget", "docs", ["secret.md"])])
        place.until(lambda: place.paths() == {"kept.md"})
        place.lift(keys=["docs:secret.md"])
        place.until(lambda: "secret.md" in place.paths())
        found = place.forget("docs:secret.md")
        assert (found["state"], found["kept_out"]) == ("gone", True)
        assert place.paths() == {"kept.md"}


def test_a_lift_of_a_receipt_is_refused_and_so_are_requests_of_another_kind(place: Place) -> None:
    with place.up():
        ids = [one["id"] for one in place.forget("docs:secret.md")["requests"]]
        with pytest.raises(Refused, match="is a forget and no lift"):
            place.lift(requests=ids)
        assert place.lift(keys=["docs:secret.md"])["lifted"] == 1
    said = CliRunner().invoke(cli, ["forget", "--lift", "--receipt", "r.json"])
    assert "--lift takes no receipt" in str(said.exception), said


def test_files_that_cannot_be_purged_now_are_pending_and_what_is_not_ours_is_left(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a log that somebody reads, and a foreign collection under our prefix, then the receipt says both, and no
    password that an error has.
    """
    foreign, broken = place.names.root + "mine", place.names.root + "g0123456789ab"
    real_names, real_open = place.parts.store.names, place.parts.store.open

    def opened(name: str) -> Any:
        if name in (foreign, broken):
            raise ForeignCollection("it is not ours: http://me:c4nary@host", "leave it")
        return real_open(name)

    def busy(topics: object) -> bool:
        raise BrokerUnavailable("it is read by https://c4nary@host?api_key=c4nary")

    with place.up():
        monkeypatch.setattr(place.parts.store, "names", lambda prefix: [*real_names(prefix), foreign, broken])
        monkeypatch.setattr(place.parts.store, "open", opened)
        monkeypatch.setattr(place.parts.broker, "purge", busy)
        found = place.forget("docs:secret.md", wait=2.0)
        monkeypatch.undo()
    files = {one["name"]: one for one in found["places"] if one["place"] == "files"}
    assert (files["log"]["state"], files["log"]["note"][:10], found["state"]) == ("pending", "it is read", "pending")
    assert [files[name]["state"] for name in (foreign, broken)] == ["gone", "pending"]
    assert files[foreign]["note"] == "it is not ours: http://me:**********@host"
    assert "c4nary" not in json.dumps(found)


def test_a_generation_that_no_worker_has_begun_is_behind(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a log that keeps what was superseded, as Kafka's does, and a new generation without a topic."""
    spec = generation_spec(CONFIG.model_copy(update={"model": ModelConfig(provider="hashing", name="h", dimension=64)}))
    with place.up():
        pass
    operator.operate(place.parts.broker, place.names, lambda state: transitions.start(state, spec, time.time()))
    monkeypatch.setattr(place.parts.broker, "purge", lambda topics: False)
    found = place.forget("docs:secret.md", wait=1.0)
    workers = {one["name"]: one["state"] for one in found["places"] if one["place"] == "workers"}
    assert workers[f"of generation {spec.id}"] == "pending"
    assert found["state"] == "pending"
    (documents,) = [one for one in found["places"] if one["place"] == "documents topic"]
    assert "unless a generation is begun" in documents["note"]


def test_letters_of_what_was_let_in_again_stay(place: Place) -> None:
    """Given a forgotten document that is back with a failed version, then its receipt ends no letter of it."""
    with place.up():
        ids = [one["id"] for one in place.forget("docs:secret.md")["requests"]]
        place.bury(live_of(place).id, SECRET, 7)
        place.forget(requests=ids)
        assert not traces.letters(place.parts, Wanted([SECRET])).standing, "while it is kept out, they go"
        place.lift(keys=["docs:secret.md"])
        place.until(lambda: "secret.md" in place.paths())
        place.bury(live_of(place).id, SECRET, 8)
        place.forget(requests=ids, wait=0.5)
        assert len(traces.letters(place.parts, Wanted([SECRET])).standing) == 1


def test_a_letter_above_the_delete_is_not_ended_with_it(place: Place) -> None:
    """Given a document that was let in, failed, and was forgotten again, then the older receipt leaves its letter."""
    with place.up():
        first = place.forget("docs:secret.md")
        place.lift(keys=["docs:secret.md"])
        place.until(lambda: "secret.md" in place.paths())
        version = first["requests"][0]["documents"][0]["version"] + 1
        id = place.bury(live_of(place).id, SECRET, 8, version)
        asking = Asking(place.parts, place.control(), lambda: ["docs"], Told(), Deadline.after(20))  # type: ignore[arg-type]
        asking.carried_out(asking.asked([asking.request("forget", "docs", ["secret.md"])]))
        place.forget(requests=[one["id"] for one in first["requests"]], wait=0.5)
        assert set(traces.letters(place.parts, Wanted([SECRET])).standing) == {id}
        place.forget("docs:secret.md")
        assert not traces.letters(place.parts, Wanted([SECRET])).standing


def test_the_date_of_a_resolved_letter_stands_however_often_it_is_looked_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a log that compacts within seven days, as Kafka's does, then that counts from the null, and passes."""
    day, wanted = 86_400.0, Wanted([SECRET])
    monkeypatch.setattr(place.parts.broker, "purge", lambda topics: False)
    monkeypatch.setattr(place.parts.broker, "lifetime", lambda topic: Lifetime(7 * day, day, 37 * day))
    with place.up():
        written = time.time()
        id = place.bury(live_of(place).id, SECRET, 7)
        asked = time.time()
        receipt = place.forget("docs:secret.md")
        done = time.time()
    first = proof._letters(place.parts, wanted)
    assert (first.state, first.found, "overdue" in first.note) == ("waiting", 1, False)
    assert first.until is not None
    assert asked + 7 * day <= first.until <= done + 7 * day
    (letters,) = [one for one in receipt["places"] if one["place"] == "dead letters"]
    assert letters["until"] == moment(first.until)
    dead_letters.resolve(place.parts.broker.publisher("t"), place.names, [id])  # as who was killed does it again
    for days, overdue in ((3, False), (8, True)):
        with monkeypatch.context() as patch:
            patch.setattr(proof.time, "time", lambda now=done + days * day: now)
            later = proof._letters(place.parts, wanted)
        assert (later.until, "overdue" in later.note) == (first.until, overdue), days
    assert later.note.endswith(f"goes by {moment(traces.letters(place.parts, wanted).last + 37 * day)} whatever comes")
    monkeypatch.setattr(place.parts.broker, "lifetime", lambda topic: Lifetime(7 * day, day, 2 * day))
    until = proof._letters(place.parts, wanted).until
    assert until is not None
    assert written + 2 * day <= until <= asked + 2 * day, "or when it has lain for long enough"


def test_a_letter_that_cannot_be_read_keeps_a_receipt_open(place: Place) -> None:
    with place.up():
        record = NewRecord(place.names.dead_letters, b"g/embed/t/0/7", b"{")
        place.parts.broker.publisher("t").publish([record], Deadline.after(5))
        found = place.forget("docs:secret.md")
    (letters,) = [one for one in found["places"] if one["place"] == "dead letters"]
    assert (letters["state"], letters["note"][:24], found["latest"]) == ("waiting", "1 letters cannot be read", None)


class Killed(BaseException):
    pass


class Faulty:
    """Passes everything on, and ends the command before or after its nth write."""

    WRITES = frozenset(
        {
            "publish",
            "delete_records",
            "purge",
            "delete_topics",
            "delete_group",
            "drop",
            "insert_heads",
            "replace_heads",
            "sweep",
            "drop_tombstones",
            "flush",
        }
    )
    MAKES = frozenset({"publisher", "transactional_publisher", "open", "create"})

    def __init__(self, inner: Any, count: list[int], at: int, after: bool) -> None:
        self._inner, self._count, self._at, self._after = inner, count, at, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in self.MAKES:
            return lambda *given, **more: Faulty(found(*given, **more), self._count, self._at, self._after)
        if name not in self.WRITES:
            return found

        def write(*given: Any, **more: Any) -> Any:
            self._count[0] += 1
            if self._count[0] == self._at and not self._after:
                raise Killed
            answer = found(*given, **more)
            if self._count[0] == self._at:
                raise Killed
            return answer

        return write


def killed_at(place: Place, at: int, after: bool, run: Callable[[Parts], object]) -> bool:
    """True if the command was killed; False if it has fewer writes."""
    count = [0]
    parts = replace(
        place.parts,
        broker=Faulty(place.parts.broker, count, at, after),  # type: ignore[arg-type]
        store=Faulty(place.parts.store, count, at, after),  # type: ignore[arg-type]
    )
    try:
        run(parts)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("running", [True, False], ids=["up", "down"])
def test_a_forget_killed_around_each_of_its_writes_is_finished_by_another(place: Place, running: bool) -> None:
    """Given a command that is killed before and after its nth write, for each n, when it is run again, then
    nothing is left, each time, and no document but that one is touched.
    """

    def each(point: int) -> bool:
        at, after = divmod(point, 2)
        name = f"doc-{point}.md"
        key = f"docs:{name}"
        place.bury(live_of(place).id, DocumentKey("docs", name), point)
        killed = killed_at(place, at + 1, bool(after), lambda parts: place.forget(key, parts=parts))
        found = place.forget(key)
        assert found["state"] == "gone", (point, found["places"])
        assert name not in place.paths()
        return killed

    points = 60
    for point in range(points):
        place.write(f"doc-{point}.md", f"# {point}\n\nIt is about {point}.\n")
    with place.up():
        pass
    point = 0
    if running:
        with place.up():
            while each(point):
                point += 1
    else:
        while each(point):
            point += 1
    assert 2 * 4 < point < points - 1, "it has several writes, and ends"
    with place.up():
        assert place.paths() == {"secret.md", "kept.md"} | {f"doc-{one}.md" for one in range(point + 1, points)}


# ------------------------------------------------------------------------------------------ gc


def old_deletes(place: Place) -> None:
    """Two documents that were deleted, everything of it applied and committed."""
    for name in ("a.md", "b.md"):
        place.write(name, f"# {name}\n\nText of {name}.\n")
    place.donors(0.0)
    with place.up():
        for name in ("a.md", "b.md"):
            (place.folder / name).unlink()
        place.until(lambda: place.paths() == {"secret.md", "kept.md"})


def tombstones(place: Place) -> int:
    collection = place.parts.store.open(place.names.collection(live_of(place).id))
    return collection.count_heads().get("deleted", 0)


@pytest.mark.parametrize("running", [True, False], ids=["up", "down"])
def test_old_deletes_and_their_tombstones_go_and_nothing_else(place: Place, running: bool) -> None:
    old_deletes(place)
    assert place.gc(older_days=1).look()["deletes"] == {}
    assert tombstones(place) == 2
    if running:
        with place.up():
            found = place.gc().apply()
    else:
        found = place.gc().apply()
    assert (found["deletes"], found["tombstones"]) == ({"docs": 2}, {live_of(place).id: 2})
    assert tombstones(place) == 0
    assert place.paths() == {"secret.md", "kept.md"}
    assert place.gc().apply()["deletes"] == {}
    with place.up():
        assert place.paths() == {"secret.md", "kept.md"}


def test_a_tombstone_stays_while_a_dead_letter_can_bring_its_document_back(place: Place) -> None:
    old_deletes(place)
    id = place.bury(live_of(place).id, DocumentKey("docs", "a.md"), 3)
    found = place.gc().apply()
    assert (found["deletes"], found["tombstones"]) == ({"docs": 2}, {live_of(place).id: 1})
    assert tombstones(place) == 1
    assert id in traces.letters(place.parts, Wanted([DocumentKey("docs", "a.md")])).standing


def test_what_is_left_of_generations_that_nobody_follows_goes_and_foreign_names_stay(place: Place) -> None:
    spec, unknown = (
        generation_spec(CONFIG.model_copy(update={"model": ModelConfig(provider="hashing", name="h", dimension=size)}))
        for size in (64, 32)
    )
    broker, names, store = place.parts.broker, place.names, place.parts.store
    with place.up():
        operator.operate(broker, names, lambda state: transitions.start(state, spec, time.time()))
        place.until(lambda: names.collection(spec.id) in store.names(names.root))
        place.until(lambda: store.open(names.collection(spec.id)).count_heads().get("complete") == 2)
        with pytest.raises(Refused, match="is being built"):
            place.gc().apply()
        assert "is being built" in place.gc().look()["refused"]
        operator.operate(broker, names, lambda state: transitions.fail(state, spec.id, time.time(), "a test"))
    collection_of(place.parts, unknown)
    broker.ensure_topics([chunks_topic(names, unknown.id, CONFIG.pipeline)])
    other = Names("t", "p2")
    broker.ensure_topics([chunks_topic(other, unknown.id, CONFIG.pipeline)])
    broker.ensure_topics([replace(chunks_topic(names, "x", CONFIG.pipeline), name=f"{names.root}chunks.mine")])
    letter = place.bury(spec.id, SECRET, 1)
    kept = place.bury(live_of(place).id, SECRET, 1)
    looked = place.gc().look()
    assert {one["generation"]: one["why"] for one in looked["orphans"]} == {
        spec.id: "failed",
        unknown.id: "not known to control",
    }
    assert next(one["points"] for one in looked["orphans"] if one["generation"] == spec.id) == 4
    assert names.collection(spec.id) in store.names(names.root), "looking removes nothing"
    found = place.gc().apply()
    assert len(found["orphans"]) == 2
    assert store.names(names.root) == [names.collection(live_of(place).id)]
    there = set(broker.topics("t."))
    assert {other.chunks(unknown.id), f"{names.root}chunks.mine"} <= there
    assert not there & {names.chunks(spec.id), names.chunks(unknown.id)}
    assert not [group for group in broker.groups(names.root) if spec.id in group or unknown.id in group]
    assert set(traces.letters(place.parts, Wanted([SECRET])).standing) == {kept}
    assert letter != kept
    assert clearing.room(place.parts, spec.id) == clearing.Room()
    with place.up():
        assert place.paths() == {"secret.md", "kept.md"}


def test_no_migration_starts_while_a_gc_is_open_and_a_killed_one_is_brought_to_its_end(place: Place) -> None:
    """Given a gc killed around each of its writes, then another ends it, and a migration can start."""
    spec = generation_spec(CONFIG.model_copy(update={"model": ModelConfig(provider="hashing", name="h", dimension=64)}))
    point, killed, refused = 0, True, 0
    while killed:
        at, after = divmod(point, 2)
        old_deletes(place)
        killed = killed_at(place, at + 1, bool(after), lambda parts: place.gc(parts=parts).apply())
        state = place.control().again()
        if requests.open_of(state.requests.values(), "gc"):
            refused += 1
            with pytest.raises(Refused, match="gc --apply"):
                transitions.start(state, spec, time.time())
        place.gc().apply()
        state = place.control().again()
        assert transitions.start(state, spec, time.time())
        assert tombstones(place) == 0
        assert place.paths() == {"secret.md", "kept.md"}
        point += 1
    assert point > 8
    assert refused >= 2


def test_a_connector_that_does_not_answer_keeps_gc_open(place: Place) -> None:
    old_deletes(place)
    collecting = Collecting(place.parts, place.control(), lambda: ["docs"], Told(), {"older_days": 0, "wait": 0.2})  # type: ignore[arg-type]
    place.parts.broker.purge([place.names.documents(0)])
    with pytest.raises(Transient, match="gc --apply"):
        collecting.apply()
    assert tombstones(place) == 2
    assert place.gc().apply()["deletes"] == {"docs": 2}


# -------------------------------------------------------------------------------------- explain


def test_the_life_of_a_document(place: Place) -> None:
    with place.up():
        place.write("secret.md", "# Edited\n\nOnce.\n")
        place.until(lambda: len(explained(place.parts, place.control().again(), SECRET)["versions"]) == 2)
        place.until(lambda: place.index is not None and place.index.lag() == 0)
        letter = place.bury(live_of(place).id, SECRET, 1)
    found = explained(place.parts, place.control().again(), SECRET)
    first, second = found["versions"]
    assert [first["kind"], second["kind"]] == ["changed", "changed"]
    assert second["size"] == len("# Edited\n\nOnce.\n")
    assert first["digest"] != second["digest"]
    (generation,) = found["generations"]
    assert (generation["state"], generation["head"]["state"]) == ("live", "complete")
    assert generation["head"]["version"] == second["version"]
    assert generation["head"]["chunks"] == generation["chunks"] == 1
    assert generation["head"]["tokens"] > 0
    assert [one["id"] for one in found["dead_letters"]] == [letter]
    assert found["connector"]["published"]
    assert found["connector"]["digest"] == second["digest"]
    assert found["kept_out"] is None
    place.forget("docs:secret.md")
    found = explained(place.parts, place.control().again(), SECRET)
    assert [one["kind"] for one in found["versions"]] == ["deleted"]
    assert found["kept_out"]["id"] == found["requests"][0]["id"] == found["connector"]["forgotten"]
    assert found["dead_letters"] == []
    with pytest.raises(ConfigError, match="nothing is known"):
        explained(place.parts, place.control().again(), DocumentKey("docs", "nope"))


def verified(place: Place, **given: Any) -> dict[str, Any]:
    """A verification that ``status`` knows of."""
    live = place.control().again().live
    given_ = verifying.Wanted(**given)
    run = verifying.Examination(place.parts, live, Models(CONFIG), {}, given_, lambda *at: None, lambda seconds: None)
    told(place.parts, run.run(), "command")
    (one,) = explained(place.parts, place.control().again(), SECRET)["generations"]
    return dict(one)


def said_of(generation: dict[str, Any]) -> str:
    (line,) = _generations({"generations": [generation]})
    return line.split(", verified ")[1][len("2026-01-01 00:00:00") :]


def test_the_life_of_a_document_says_what_a_verification_found_and_of_which_version(place: Place) -> None:
    """Given a head that is gone, a repair, an edit and an earlier vectide's outcome, then "verified" is never all."""
    with place.up():
        pass
    whole = verified(place)
    assert (whole["verified"]["ok"], whole["verified"]["findings"], whole["verified"]["covers"]) == (True, {}, True)
    assert said_of(whole) == ": equal to the log"
    collection: Any = place.parts.store.open(place.names.collection(live_of(place).id))
    del collection._heads[SECRET.doc]
    lost = verified(place)
    assert (lost["head"], lost["verified"]["ok"], lost["verified"]["findings"]) == (None, False, {"missing": 1})
    assert said_of(lost) == ": 1 missing in the generation"
    assert said_of(verified(place, fix=True)) == ": 1 missing in the generation, 1 repaired, equal since"
    place.write("secret.md", "# Edited\n\nOnce.\n")
    with place.up():
        pass
    (later,) = explained(place.parts, place.control().again(), SECRET)["generations"]
    assert (later["verified"]["ok"], later["verified"]["covers"]) == (True, False)
    assert said_of(later).startswith(", before this version: 1 missing")
    (other,) = explained(place.parts, place.control().again(), DocumentKey("docs", "kept.md"))["generations"]
    assert other["verified"]["covers"], "what was not edited since"
    later["verified"] |= {"covers": None, "findings": {}, "ok": False}
    assert said_of(later) == ", this version or an older one: not equal to the log"


def explained_heads(place: Place, key: DocumentKey) -> list[Any]:
    try:
        found = explained(place.parts, place.control().again(), key)["generations"]
    except ConfigError:
        return []  # nobody has heard of it yet
    return [one["head"] for one in found if one["head"] is not None]


def test_what_was_embedded_and_what_was_reused(place: Place) -> None:
    """Given three sections of which one is edited, and a copy, then the heads tell the cost of each."""
    sections = [
        f"# {name}\n\n" + " ".join(f"Sentence {n} of {name} is its own." for n in range(200))
        for name in ("One", "Two", "Three")
    ]

    def cost(key: DocumentKey) -> tuple[int, dict[str, int]]:
        (generation,) = explained(place.parts, place.control().again(), key)["generations"]
        return generation["head"]["embedded"], generation["head"]["reused"]

    place.write("secret.md", "\n\n".join(sections))
    with place.up():
        (before,) = explained(place.parts, place.control().again(), SECRET)["generations"]
        count = before["head"]["chunks"]
        assert count >= 3
        assert cost(SECRET) == (count, {"kept": 0, "copied": 0})
        place.write("secret.md", "\n\n".join([*sections[:2], sections[2] + "And an end."]))
        place.until(lambda: cost(SECRET)[1]["kept"] > 0)
        assert cost(SECRET) == (1, {"kept": count - 1, "copied": 0})
        place.write("copy.md", "\n\n".join([*sections[:2], sections[2] + "And an end."]))
        place.until(lambda: explained_heads(place, DocumentKey("docs", "copy.md")))
        assert cost(DocumentKey("docs", "copy.md")) == (0, {"kept": 0, "copied": count})


def test_the_actions_of_the_route(place: Place) -> None:
    with place.up() as index:
        for given in ({}, {"action": "erase"}, {"action": "explain", "key": "no key"}):
            with pytest.raises(ConfigError):
                index.operations.erasure(given)
        with pytest.raises(Transient):
            index.operations.erasure({"action": "task", "id": "none"})
        for action in ("explain", "gc"):
            task = index.operations.erasure({"action": action, "key": "docs:secret.md"})
            while task["running"]:
                time.sleep(0.02)
                task = index.operations.erasure({"action": "task", "id": task["id"]})
            assert raised(task)
    assert isinstance(index.operations._erasure, Erasure)


def test_of_all_places_together() -> None:
    gone, dated = proof.Place("a", "a", "gone"), proof.Place("b", "b", "waiting", 1, 50.0)
    later, undated = proof.Place("c", "c", "waiting", 1, 70.0), proof.Place("d", "d", "waiting", 1)
    assert proof.standing([gone]) == ("gone", None)
    assert proof.standing([gone, dated, later]) == ("waiting", 70.0)
    assert proof.standing([dated, undated]) == ("waiting", None)
    assert proof.standing([dated, proof.Place("e", "e", "pending")]) == ("pending", None)
