"""A pipeline that is behind, as senders of the push API see it."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from connectors.http.source import HttpSource
from connectors.push.runner import PushRunner
from connectors.registry import open_source
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.assembly import Followed, Parts, apply_topics, founded
from pipeline.cli.runners import runner_of
from pipeline.codec import encode_event
from pipeline.config import Config, ModelConfig, SourceConfig
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import NewRecord
from pipeline.records import DocumentChanged, Provenance
from pipeline.store.memory import MemoryStore
from tests.support.pushed import LIMIT_BYTES, pushing
from tests.support.sources import Documents, wait_until


def looked(client: httpx.Client) -> None:
    """The writer answers, after its first look at how far the pipeline is behind; a question is never held back."""
    assert client.get("/documents/nothing").status_code == 404


def test_a_request_while_the_pipeline_is_behind_is_answered_429_and_not_written(documents: Documents) -> None:
    with pushing(documents, settings={"lag_limit_records": 10}, behind=lambda: 11) as one, one.client() as client:
        looked(client)
        answer = client.put("/documents/a", json={"text": "x"})
        batch = client.post("/batches", json={"operations": [{"op": "put", "key": "b", "text": "x"}]})
        for refused in (answer, batch):
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
            assert refused.json()["type"] == "urn:vectide:problem:too-many-requests"
            assert "11 records behind, over 10" in refused.json()["detail"]
        looked(client)
    assert documents.now() == {}


@pytest.mark.parametrize(("limit", "status"), [(1, 429), (2, 202)])
def test_what_a_process_runs_holds_senders_back_by_the_lag_of_the_live_generation(
    broker: EmbeddedBroker, tmp_path: Path, limit: int, status: int
) -> None:
    """Given two records and no worker yet, then more than the limit holds senders back, and the limit does not."""
    config = Config(model=ModelConfig(provider="hashing", name="hashing"), state=tmp_path)
    parts = Parts(config, Names("t", "p"), broker, MemoryStore())
    apply_topics(parts)
    founded(parts)
    for path in ("a", "b"):
        event = DocumentChanged(DocumentKey("s", path), "text", {}, "text/plain", "d", Provenance(1.0))
        broker.publisher("t").publish([NewRecord(parts.names.documents(0), *encode_event(event))], Deadline.after(5))
    settings = SourceConfig.model_validate({"connector": "http", "port": 0, "lag_limit_records": limit})
    source, control, stop = open_source("crm", settings, LIMIT_BYTES), Followed(parts), threading.Event()
    assert isinstance(source, HttpSource)
    parts.health.set_started()
    runner = runner_of(parts, source, settings, control)
    assert isinstance(runner, PushRunner)
    thread = threading.Thread(target=runner.run, args=(stop,), daemon=True)
    thread.start()
    try:
        wait_until(runner.scanned.is_set, seconds=60)
        with httpx.Client(base_url=f"http://127.0.0.1:{source.port}", timeout=30) as client:
            looked(client)
            assert client.put("/documents/c", json={"text": "x"}).status_code == status
    finally:
        stop.set()
        thread.join(60)
        control.close()
    assert not thread.is_alive()
