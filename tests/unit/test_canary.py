"""A canary through both real stages, on a log in memory: found, gone, and nothing left of it whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.assembly import Parts
from pipeline.cli.roundtrip import Canary
from pipeline.config import Config, ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from pipeline.identity import DocumentKey
from pipeline.records import DocumentDeleted
from pipeline.search.searcher import Searcher, parse_where
from pipeline.store.memory import MemoryStore
from tests.support.commands import run
from tests.support.pipelines import DOCUMENTS, RunningPipeline, pipeline
from tests.support.workers import NAMES, SECONDS

Search = Callable[[Mapping[str, Any]], dict[str, Any]]
CONFIG = Config(
    model=ModelConfig(provider="hashing", name="hashing"),
    pipeline=PipelineConfig(prefix="t", name="p", filter_fields={}),
)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningPipeline]:
    with pipeline() as made:
        yield made


def searching(running: RunningPipeline) -> Search:
    searcher = Searcher(running.collection, running.embedder)

    def search(arguments: Mapping[str, Any]) -> dict[str, Any]:
        where = parse_where(arguments["filter"])
        assert not where, "no filter field is declared here"
        found = searcher.search(arguments["query"], arguments["top"], by_document=arguments["by_document"])
        return found.as_json()

    return search


def canary(
    running: RunningPipeline,
    search: Search,
    stop: threading.Event | None = None,
    clock: Callable[[], float] | None = None,
) -> Canary:
    parts = Parts(CONFIG, NAMES, running.broker, MemoryStore())
    given = {} if clock is None else {"clock": clock}
    return Canary(
        parts,
        lambda method, path, arguments: search(arguments),
        "canary",
        Deadline.after(SECONDS),
        stop or threading.Event(),
        **given,
    )


def ended(made: Canary) -> None:
    """Its time is over, now and not when a clock says so."""
    object.__setattr__(made._deadline, "at", 0.0)


def left(running: RunningPipeline, key: str) -> bool:
    """Whether the document is still there, once everything that was written is applied."""
    running.until_quiet()
    head = running.head_of(DocumentKey.from_text(key))
    return head is not None and head.state != "deleted"


def test_a_canary_is_found_and_gone_again(running: RunningPipeline) -> None:
    found = canary(running, searching(running)).run()
    assert (found["ok"], found["stopped"], found["cleaned"], found["why"]) == (True, False, True, "")
    assert found["searchable_seconds"] > 0
    assert found["gone_seconds"] > 0
    assert not left(running, found["key"])


def test_what_it_publishes_is_known_as_published_by_its_source_and_then_as_gone(running: RunningPipeline) -> None:
    """Given the connector-state topic, then each event has its entry there, in the same transaction."""
    made = canary(running, searching(running))
    state = running.broker.reader(NAMES.connector_state)
    try:
        made.run()
        values = [one.value for one in state.poll(1.0, 1000) if one.key == made.key.to_bytes()]
    finally:
        state.close()
    assert [value is None for value in values] in ([False, True], [True]), "compaction may have taken the first one"


def test_a_canary_that_is_not_found_in_time_says_so_and_is_deleted(running: RunningPipeline) -> None:
    def blind(arguments: Mapping[str, Any]) -> dict[str, Any]:
        answer = searching(running)(arguments)
        if any(hit["key"] == made.key.text for hit in answer["hits"]):
            ended(made)
        return {**answer, "hits": []}

    made = canary(running, blind)
    found = made.run()
    assert (found["ok"], found["searchable_seconds"], found["gone_seconds"]) == (False, None, None)
    assert "the search answered" in found["why"]
    assert not left(running, found["key"])


def test_a_document_that_stays_is_not_called_gone(running: RunningPipeline) -> None:
    """Given a search that goes on finding what was deleted, then the canary has failed."""
    seen: dict[str, Any] = {}

    def stale(arguments: Mapping[str, Any]) -> dict[str, Any]:
        answer = searching(running)(arguments)
        if any(hit["key"] == made.key.text for hit in answer["hits"]):
            seen.update(answer)
        if seen and not made._there:  # it is deleted
            ended(made)
        return seen or answer

    made = canary(running, stale)
    found = made.run()
    assert found["searchable_seconds"] is not None
    assert (found["ok"], found["gone_seconds"]) == (False, None)
    assert not left(running, found["key"])


def test_a_search_that_does_not_answer_is_waited_out_and_named(running: RunningPipeline) -> None:
    answers = iter([StoreUnavailable("Qdrant is away")] * 3)

    def away(arguments: Mapping[str, Any]) -> dict[str, Any]:
        for error in answers:
            raise error
        return searching(running)(arguments)

    assert canary(running, away).run()["ok"]

    def gone(arguments: Mapping[str, Any]) -> dict[str, Any]:
        ended(made)
        raise StoreUnavailable("Qdrant is away")

    made = canary(running, gone)
    found = made.run()
    assert (found["ok"], found["why"]) == (False, "the search did not answer: Qdrant is away")
    assert running.head_of(DocumentKey.from_text(found["key"])) is None, "nothing is published before a search answers"


def test_a_search_that_is_refused_ends_it_before_anything_is_published(running: RunningPipeline) -> None:
    def refused(arguments: Mapping[str, Any]) -> dict[str, Any]:
        raise ConfigError("this vectide asks for Authorization")

    made = canary(running, refused)
    with pytest.raises(ConfigError):
        made.run()
    assert running.head_of(made.key) is None


def test_one_that_is_stopped_deletes_what_it_published(running: RunningPipeline) -> None:
    stop = threading.Event()

    def interrupted(arguments: Mapping[str, Any]) -> dict[str, Any]:
        answer = searching(running)(arguments)
        if any(hit["key"] == made.key.text for hit in answer["hits"]):
            stop.set()
        return {**answer, "hits": []}

    made = canary(running, interrupted, stop=stop)
    found = made.run()
    assert (found["ok"], found["stopped"], found["cleaned"]) == (False, True, True)
    assert not left(running, found["key"])


def test_canaries_at_once_do_not_disturb_each_other(running: RunningPipeline) -> None:
    """Given three that take the source over from one another, then all of them succeed."""
    found: list[dict[str, Any]] = []
    search = searching(running)
    threads = [threading.Thread(target=lambda: found.append(canary(running, search).run())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [one["ok"] for one in found] == [True] * 3, found
    assert len({one["key"] for one in found}) == 3
    assert not any(left(running, one["key"]) for one in found)


def test_a_writer_that_is_fenced_in_the_middle_takes_the_source_back(running: RunningPipeline) -> None:
    broker, made_of = running.broker, running.broker.transactional_publisher
    fenced: list[Any] = []

    class Fencing:
        def __getattr__(self, name: str) -> Any:
            return getattr(broker, name)

        def transactional_publisher(self, id: str) -> Any:
            publisher = made_of(id)
            if len(fenced) < 2:
                fenced.append(made_of(id))  # another canary, between taking over and publishing
            return publisher

    made = canary(running, searching(running))
    made._broker = Fencing()
    assert made.run()["ok"]
    assert len(fenced) == 2
    for publisher in fenced:
        publisher.close(Deadline.after(1))


def test_what_a_killed_canary_left_is_deleted_by_one_an_hour_later_and_not_before(running: RunningPipeline) -> None:
    class Killed(Exception):
        pass

    def killed(arguments: Mapping[str, Any]) -> dict[str, Any]:
        answer = searching(running)(arguments)
        if any(hit["key"] == made.key.text for hit in answer["hits"]):
            made._there = False  # as SIGKILL: it cleans nothing up
            raise Killed
        return answer

    made = canary(running, killed, clock=lambda: 1_000_000.0)
    with pytest.raises(Killed):
        made.run()
    key = made.key.text
    assert left(running, key)
    assert canary(running, searching(running), clock=lambda: 1_000_000.0 + 1800).run()["ok"]
    assert left(running, key), "its canary may still wait for it"
    assert canary(running, searching(running), clock=lambda: 1_000_000.0 + 3700).run()["ok"]
    assert not left(running, key)


def test_a_document_that_cannot_be_deleted_is_told(running: RunningPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.roundtrip._CLEAN_SECONDS", 0.2)
    made = canary(running, searching(running))
    broker = running.broker

    class Dying:
        def __getattr__(self, name: str) -> Any:
            return getattr(broker, name)

        def transactional_publisher(self, id: str) -> Any:
            if made._there and running.head_of(made.key) is not None:
                ended(made)
                raise BrokerUnavailable("Kafka is away")
            return broker.transactional_publisher(id)

    made._broker = Dying()
    found = made.run()
    assert (found["ok"], found["cleaned"], found["why"]) == (False, False, "Kafka is away")
    assert left(running, found["key"])


def test_what_was_perhaps_published_is_deleted(running: RunningPipeline) -> None:
    """Given an outage whose end nobody waits for, then a document that was written after all does not stay."""
    broker, stop = running.broker, threading.Event()

    class Unknown:
        def __init__(self, publisher: Any) -> None:
            self._publisher = publisher

        def publish(self, *arguments: Any) -> Any:
            self._publisher.publish(*arguments)
            if not stop.is_set():
                stop.set()
                raise BrokerUnavailable("the outcome is unknown")

        def close(self, deadline: Deadline) -> None:
            self._publisher.close(deadline)

    class Losing:
        def __getattr__(self, name: str) -> Any:
            return getattr(broker, name)

        def transactional_publisher(self, id: str) -> Any:
            return Unknown(broker.transactional_publisher(id))

    made = canary(running, searching(running), stop=stop)
    made._broker = Losing()
    found = made.run()
    assert (found["ok"], found["cleaned"]) == (False, True)
    running.until_quiet()
    assert running.head_of(made.key) is not None, "it was written"
    assert not left(running, found["key"])


def test_its_deletes_are_deletes_of_the_log(running: RunningPipeline) -> None:
    from pipeline.codec import decode_event

    made = canary(running, searching(running))
    made.run()
    reader = running.broker.reader(DOCUMENTS)
    try:
        last = [decode_event(one) for one in reader.poll(1.0, 1000) if one.key == made.key.to_bytes()][-1]
    finally:
        reader.close()
    assert isinstance(last, DocumentDeleted)


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((), "", "nobody but `vectide up`"),
        (("--source", "docs"), 'broker = "kafka"\nstore = "qdrant"\n[sources.docs]\npath = "x"', "configured source"),
        (("--wait", "0"), 'broker = "kafka"\nstore = "qdrant"', "--wait 0 is not between"),
        (("--wait", "4000"), 'broker = "kafka"\nstore = "qdrant"', "--wait 4000 is not between"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    tmp_path: Path, arguments: tuple[str, ...], settings: str, said: str
) -> None:
    (tmp_path / "vectide.toml").write_text(settings)
    done = run(tmp_path, "canary", *arguments)
    assert done.code == 2, done.shown
    assert said in done.err
