"""The Qdrant adapter's own ground: what a server refuses, and writes whose answer never comes."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CollectionMissing, Fatal, ForeignCollection, RequestRefused, StoreBusy, StoreUnavailable
from pipeline.identity import filter_hash
from pipeline.points import Alignment, Sweep
from pipeline.ports import Collection
from pipeline.store.payload import CELLS_OF
from pipeline.store.qdrant import QdrantSettings, QdrantStore
from tests.contract.store_points import SPEC, chunk, chunks_of, contents, head, key, stamp
from tests.support.stores import loopback


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with loopback(tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[QdrantStore]:
    store = QdrantStore(QdrantSettings(url=url, timeout_seconds=60))
    yield store
    store.close()


@pytest.fixture
def collection(store: QdrantStore) -> Collection:
    return store.create(SPEC)


def _fault(url: str, **faults: float) -> None:
    request = urllib.request.Request(f"{url}/_faults", json.dumps(faults).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


POINT = chunk("d", "text", stamp(1), filters={"acl": "old"})
FIELDS = {"acl": "new"}
ALIGNMENT = Alignment(POINT.doc, FIELDS, filter_hash(FIELDS), stamp(2))
WRITES: dict[str, Callable[[Collection], None]] = {
    "upsert_chunks": lambda c: c.upsert_chunks([replace(POINT, stamp=stamp(3))], {POINT.doc: stamp(3)}),
    "insert_heads": lambda c: c.insert_heads([head("e", stamp(1))]),
    "replace_heads": lambda c: c.replace_heads([head("d", stamp(2))], {POINT.doc: stamp(1)}),
    "sweep": lambda c: c.sweep([Sweep(POINT.doc, frozenset(), stamp(1))]),
    "align": lambda c: c.align([ALIGNMENT]),
}


@pytest.fixture
def filled(collection: Collection) -> Collection:
    collection.upsert_chunks([POINT], {})
    collection.insert_heads([head("d", stamp(1), POINT)])
    return collection


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_repeating_a_write_whose_answer_was_lost_is_harmless(
    filled: Collection, url: str, write: Callable[[Collection], None]
) -> None:
    """Given a write that is applied but whose connection is cut, when it is sent again, then the store is as if
    it had been sent once.
    """
    before = contents(filled)
    _fault(url, drop_after=1)
    with pytest.raises(StoreUnavailable):
        write(filled)
    applied = contents(filled)
    assert applied != before
    write(filled)
    assert contents(filled) == applied


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_server_in_trouble_is_unavailable(
    filled: Collection, url: str, write: Callable[[Collection], None], status: int
) -> None:
    """Given a server that answers with an error, when a write is refused, then nothing changed, and later it works."""
    before = contents(filled)
    _fault(url, status=status, count=1)
    with pytest.raises(StoreUnavailable):
        write(filled)
    assert contents(filled) == before
    write(filled)
    assert contents(filled) != before


def test_a_rate_limit_says_how_long_to_wait(filled: Collection, url: str) -> None:
    """Given 429 with retry-after, when a write is refused, then the error carries the server's seconds."""
    _fault(url, status=429, count=1)
    with pytest.raises(StoreBusy) as caught:
        WRITES["sweep"](filled)
    assert caught.value.retry_after == 1.0
    WRITES["sweep"](filled)
    assert filled.count_chunks() == 0


def test_a_full_disk_asks_to_be_left_alone(filled: Collection, url: str) -> None:
    _fault(url, status=507, count=1)
    with pytest.raises(StoreBusy) as caught:
        WRITES["upsert_chunks"](filled)
    assert caught.value.retry_after > 0


def test_a_refused_request_is_fatal(filled: Collection, url: str) -> None:
    _fault(url, status=400, count=1)
    with pytest.raises(Fatal, match="refuses the request"):
        WRITES["align"](filled)


def test_a_silent_server_is_unavailable(filled: Collection, url: str) -> None:
    """Given a server slower than the timeout, when it is asked, then it counts as away; afterwards it answers."""
    store = QdrantStore(QdrantSettings(url=url, timeout_seconds=2))

    def opened() -> Collection | None:
        with suppress(StoreUnavailable):  # two seconds are little on a busy machine
            return store.open(SPEC.name)
        return None

    def answers() -> bool:
        with suppress(StoreUnavailable):
            return set(hasty.heads([POINT.doc])) == {POINT.doc}
        return False

    hasty = next(one for _ in range(10) if (one := opened()) is not None)
    _fault(url, delay=4.0)
    with pytest.raises(StoreUnavailable):
        hasty.heads([POINT.doc])
    with pytest.raises(StoreUnavailable):
        hasty.search(POINT.vector, 1)
    _fault(url, delay=0.0)
    assert any(answers() for _ in range(10))
    store.close()


def test_no_server_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        store = QdrantStore(QdrantSettings(url=f"http://127.0.0.1:{taken.getsockname()[1]}", timeout_seconds=2))
        for call in (store.check, lambda: store.open("x"), lambda: store.create(SPEC), lambda: store.names("")):
            with pytest.raises(StoreUnavailable):
                call()
        store.close()


def test_no_server_over_grpc_is_unavailable(url: str) -> None:
    """Given a server whose gRPC port is closed, when points or collections are asked for, then it counts as away."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = QdrantSettings(url=url, grpc=True, grpc_port=taken.getsockname()[1], timeout_seconds=2)
        store = QdrantStore(settings)
        for call in (lambda: store.open("x"), lambda: store.names("")):
            with pytest.raises(StoreUnavailable):
                call()
        store.close()


@pytest.mark.parametrize("version", ["1.18.3", "1.9.0", "0.11.1"])
def test_a_server_that_is_too_old_is_refused(tmp_path: Path, version: str) -> None:
    with loopback(tmp_path, version=version) as url:
        store = QdrantStore(QdrantSettings(url=url))
        with pytest.raises(Fatal, match=r"needs 1\.19"):
            store.check()
        store.close()


@pytest.mark.parametrize("version", ["1.19.0", "1.20.1-dev", "2.0.0"])
def test_a_later_server_is_fine(tmp_path: Path, version: str) -> None:
    with loopback(tmp_path, version=version) as url:
        store = QdrantStore(QdrantSettings(url=url))
        store.check()
        store.close()


@pytest.mark.parametrize("api_key", [None, "wrong"])
def test_a_refused_key_is_fatal_and_names_the_setting(tmp_path: Path, api_key: str | None) -> None:
    with loopback(tmp_path, api_key="right") as url:
        store = QdrantStore(QdrantSettings(url=url, api_key=api_key))
        for call in (store.check, lambda: store.open("x"), lambda: store.create(SPEC)):
            with pytest.raises(Fatal, match=r"qdrant\.api_key"):
                call()
        store.close()


def test_the_right_key_is_sent(tmp_path: Path) -> None:
    with loopback(tmp_path, api_key="right") as url:
        store = QdrantStore(QdrantSettings(url=url, api_key="right"))
        store.check()
        store.create(SPEC).insert_heads([head("d", stamp(1))])
        store.close()


def test_a_collection_of_another_program_is_refused(store: QdrantStore, url: str) -> None:
    """Given a collection made by something else, when vectide opens or makes it, then it is refused untouched."""
    body = {"vectors": {"text": {"size": 3, "distance": "Cosine"}}}
    request = urllib.request.Request(
        f"{url}/collections/{SPEC.name}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=10).close()
    with pytest.raises(ForeignCollection):
        store.open(SPEC.name)
    with pytest.raises(ForeignCollection):
        store.create(SPEC)


def test_a_server_that_restarts_has_everything(tmp_path: Path) -> None:
    """Given points and an alias, when the server stops and starts again, then they are there."""
    with loopback(tmp_path) as url:
        store = QdrantStore(QdrantSettings(url=url))
        store.create(SPEC).upsert_chunks([POINT], {})
        store.point_alias("live", SPEC.name)
        store.close()
    with loopback(tmp_path) as url:
        store = QdrantStore(QdrantSettings(url=url))
        assert [one.id for one in chunks_of(store.open(SPEC.name))] == [POINT.id]
        assert store.alias("live") == SPEC.name
        store.close()


def test_workers_that_start_at_once_share_a_collection(url: str) -> None:
    """Given several workers that make one collection at the same moment, when all are done, then each has it."""
    settings = QdrantSettings(url=url)
    start = threading.Barrier(6)
    failures: list[Exception] = []

    def work(n: int) -> None:
        store = QdrantStore(settings)
        start.wait(30)
        try:
            store.create(SPEC).insert_heads([head(f"d{n}", stamp(1))])
        except Exception as error:
            failures.append(error)
        store.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    store = QdrantStore(settings)
    assert store.open(SPEC.name).count_heads() == {"complete": 6}
    store.close()


def test_every_write_waits(filled: Collection) -> None:
    """A server's write is durable when it returns; nobody has to flush."""
    assert filled.flush_each_batch
    filled.flush()


def test_a_dropped_collection_is_missing(store: QdrantStore, filled: Collection) -> None:
    store.drop(SPEC.name)
    for call in (*WRITES.values(), lambda c: c.heads([key("d").doc]), lambda c: c.count_chunks()):
        with pytest.raises(CollectionMissing):
            call(filled)


def test_an_index_is_deferred_and_built_when_it_is_asked_for(store: QdrantStore, filled: Collection) -> None:
    """Given a collection that is being loaded, then no index is built until it is asked for."""
    name = filled.spec.name

    def threshold() -> int | None:
        return store._client.get_collection(name).config.optimizer_config.indexing_threshold

    assert store.build_index(name), "nothing was deferred"
    store.defer_index(name)
    assert threshold() == 0
    assert not store.build_index(name), "it has only begun"
    assert threshold() == 10_000
    assert store.build_index(name)


def test_a_tally_is_one_pass_over_the_index_with_a_time_of_its_own(
    filled: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exact facet is a filtered read for each of 65,536 values, and takes longer than any other request may."""
    asked: list[dict[str, Any]] = []
    client: Any = filled._engine._client  # type: ignore[attr-defined]
    facet = client.facet
    monkeypatch.setattr(client, "facet", lambda *given, **more: (asked.append(more), facet(*given, **more))[1])
    assert filled.tally("chunks").sum() == 1
    assert filled.count_heads() == {"complete": 1}
    assert [(one["exact"], one.get("timeout")) for one in asked] == [(False, 300), (True, None)]


def test_what_the_server_refuses_to_do_is_told_from_a_wrong_key(filled: Collection, url: str) -> None:
    """The one may be done in another way, as a tally; the other ends all."""
    _fault(url, status=400, count=1)
    with pytest.raises(RequestRefused):
        filled.align([ALIGNMENT])
    _fault(url, status=403, count=1)
    with pytest.raises(Fatal) as refused:
        filled.align([ALIGNMENT])
    assert not isinstance(refused.value, RequestRefused)


def test_a_point_that_cannot_be_read_is_named(filled: Collection) -> None:
    """Given a point that another program has written, then whoever reads millions is told which it is."""
    engine: Any = filled._engine  # type: ignore[attr-defined]
    payload = {"kind": "chunk", CELLS_OF["chunks"]: [7]}
    engine.upsert([("00000000-0000-4000-8000-000000000007", POINT.vector, payload)], None, "upsert")
    for read in (filled.scan_chunks, lambda: filled.in_cells("chunks", [7])):
        with pytest.raises(ForeignCollection, match="point 00000000-0000-4000-8000-000000000007 of collection") as told:
            read()
        assert filled.spec.name in str(told.value)
        assert "verify --fix" in told.value.remedy
