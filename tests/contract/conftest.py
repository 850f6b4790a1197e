"""What the contract suites share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.ports import Collection, CollectionSpec, Store
from tests.contract.store_points import SPEC
from tests.support.postgres import PostgresServer
from tests.support.sources import Documents
from tests.support.stores import KINDS, opened
from tests.support.tables import PAGES, Tables, tables


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each store in turn."""
    with opened(request.param, tmp_path) as store:
        yield store


@pytest.fixture
def prefix(store: Store) -> Iterator[str]:
    """The start of the names that a test may use; on a real server others may be at work."""
    prefix = f"vectide-test-{uuid.uuid4().hex[:8]}."
    yield prefix
    for name in store.names(prefix):
        store.drop(name)


@pytest.fixture
def spec(prefix: str) -> CollectionSpec:
    """A collection as a test may make it."""
    return replace(SPEC, name=f"{prefix}one")


@pytest.fixture
def collection(store: Store, spec: CollectionSpec) -> Collection:
    """An empty collection of each store."""
    return store.create(spec)


@pytest.fixture
def documents() -> Iterator[Documents]:
    """An empty log, in memory."""
    broker = EmbeddedBroker(None)
    yield Documents(broker)
    broker.close()


@pytest.fixture
def pages(postgres: PostgresServer, fresh: str) -> Iterator[Tables]:
    """One table with three rows; a document is its body."""
    rows = "INSERT INTO pages SELECT g, 'T' || g, 'body ' || g FROM generate_series(1, 3) g"
    with tables(postgres, fresh, PAGES, rows, tables={"pages": {"text": "{body}"}}) as one:
        yield one
