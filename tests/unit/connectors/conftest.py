"""A broker in memory with the topics of one pipeline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from tests.support.sources import Documents


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    one = EmbeddedBroker(None)
    yield one
    one.close()


@pytest.fixture
def documents(broker: EmbeddedBroker) -> Documents:
    return Documents(broker)
