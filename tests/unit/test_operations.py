"""What a process that answers searches tells in its metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.assembly import Followed, Models, Parts, apply_topics, founded
from pipeline.cli.main import cli
from pipeline.cli.operations import Operations
from pipeline.cli.process import generations_shown, reporter
from pipeline.cli.progress import FirstSync
from pipeline.cli.status import _rows
from pipeline.config import Config, ModelConfig
from pipeline.errors import BrokerUnavailable, ConfigError, MalformedRecord, StoreUnavailable
from pipeline.generations import operator, requests
from pipeline.generations.control import ControlState
from pipeline.naming import Names
from pipeline.records import Request
from pipeline.search.searcher import Answer
from pipeline.store.memory import MemoryStore
from tests.support.sources import wait_until

CONFIG = Config(model=ModelConfig(provider="hashing", name="hashing"))


@pytest.fixture
def parts() -> Iterator[Parts]:
    broker = EmbeddedBroker(None)
    yield Parts(CONFIG, Names("t", "p"), broker, MemoryStore())
    broker.close()


class Failing:
    """A search that has no answer."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def search(self, *arguments: Any, **more: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (StoreUnavailable("away"), "StoreUnavailable"),
        (KeyError("a bug"), "other"),
        (ConfigError("no such field"), None),
    ],
)
def test_a_search_without_an_answer_is_counted_unless_it_was_asked_wrongly(
    parts: Parts, error: Exception, counted: str | None
) -> None:
    control: Any = None
    operations = Operations(parts, control, Failing(error), Models(CONFIG))  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        operations.search({"query": "x"})
    with pytest.raises(ConfigError):
        operations.search({"query": ""})
    operations.close()
    (found,) = (one for one in parts.metrics.registry.collect() if one.name == "vectide_search_errors")
    counts = {one.labels["error_type"]: one.value for one in found.samples if one.name.endswith("_total")}
    assert {name for name, value in counts.items() if value} == ({counted} if counted else set())


def test_workers_that_were_killed_are_not_shown_by_who_has_the_state_alone(parts: Parts) -> None:
    apply_topics(parts)
    founded(parts)
    reporter(parts.broker, parts.names, "up", "", parts.health, parts.metrics).now()
    control, search, models = Followed(parts), Failing(KeyError()), Models(CONFIG)
    for alone, shown in ((False, 1), (True, 0)):
        operations = Operations(parts, control, search, models, alone=alone)  # type: ignore[arg-type]
        assert len(operations.status({})["workers"]) == shown
        operations.close()
    control.close()


def test_a_source_that_nobody_reads_any_more_is_told_until_it_is_forgotten(parts: Parts) -> None:
    apply_topics(parts)
    founded(parts)
    first, second = (
        reporter(parts.broker, parts.names, "connect", "", parts.health, parts.metrics, sources)
        for sources in (["docs", "old notes"], ["docs"])
    )
    first.now()
    control, search = Followed(parts), Failing(KeyError())
    operations = Operations(parts, control, search, Models(CONFIG))  # type: ignore[arg-type]
    assert operations.status({})["unattended"] == {}
    first.end()
    second.now()
    status = operations.status({})
    ((source, seconds),) = status["unattended"].items()
    assert (source, 0 <= seconds < 600) == ("old notes", True)
    assert [text.partition(":")[0] for name, text in _rows(status) if name == "unattended"] == ["old notes"]
    forget = Request("1", "forget", "old notes", time.time())
    operator.operate(parts.broker, parts.names, lambda now: requests.ask(now, [forget]))
    wait_until(lambda: operations.status({})["unattended"] == {}, lambda: "it is told on and on")
    operations.close()
    control.close()


def test_an_answer_says_that_its_process_is_not_in_step_yet(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a first sync, then answers say so until it is over, and the command tells it to people."""
    index: Any = SimpleNamespace(
        parts=parts, syncing=True, scanned=False, lag=lambda: 0, crew=SimpleNamespace(wait=lambda seconds: False)
    )
    control: Any = None
    search: Any = SimpleNamespace(search=lambda *of, **more: Answer([], True, "g", "m", 0.1))
    operations = Operations(parts, control, search, Models(CONFIG), syncing=lambda: index.syncing)

    @contextmanager
    def reached(config: Config) -> Iterator[Any]:
        yield lambda method, path, arguments: operations.routes()[method, path](arguments)

    monkeypatch.setattr("pipeline.cli.search.reached", reached)
    monkeypatch.setattr("pipeline.cli.search.configure_logs", lambda config: None)
    told = "not in step with its sources yet"
    assert told in CliRunner().invoke(cli, ["search", "x"]).stderr
    assert json.loads(CliRunner().invoke(cli, ["search", "x", "--json"]).stdout)["syncing"]
    index.scanned = True
    FirstSync(index, StringIO()).show(closing=False)
    assert told not in CliRunner().invoke(cli, ["search", "x"]).stderr
    assert "syncing" not in operations.search({"query": "x"})
    operations.close()


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), MalformedRecord("not ours")])
def test_a_process_without_stages_tells_of_the_generations_and_outlives_that_it_cannot(
    parts: Parts, error: Exception
) -> None:
    apply_topics(parts)
    live = founded(parts).live
    assert live is not None
    control = Followed(parts)
    generations_shown(parts.metrics, control)()
    labels = {"generation": live.id, "model": "hashing", "state": "live"}
    assert parts.metrics.registry.get_sample_value("vectide_generation_info", labels) == 1
    control.close()

    def away() -> ControlState:
        raise error

    generations_shown(parts.metrics, away)()
    assert parts.metrics.registry.get_sample_value("vectide_generation_info", labels) == 1, "as last known"
