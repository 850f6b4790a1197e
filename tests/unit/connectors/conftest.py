"""A broker in memory with the topics of one pipeline; a site for the web connector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from tests.support.sources import Documents
from tests.unit.connectors.web_world import World


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    one = EmbeddedBroker(None)
    yield one
    one.close()


@pytest.fixture
def documents(broker: EmbeddedBroker) -> Documents:
    return Documents(broker)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()
