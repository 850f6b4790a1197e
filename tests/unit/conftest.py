"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.config import PipelineConfig
from tests.support.workers import memory_broker


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """In memory, with the topics of the pipeline ``workers.NAMES``."""
    with memory_broker(PipelineConfig(prefix="t", name="p")) as broker:
        yield broker
