"""A mock cluster for each test: its faults are of the whole cluster."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pipeline.broker.kafka import KafkaBroker
from tests.support.mock_kafka import MockKafka, mock_kafka, mocked


@pytest.fixture
def cluster() -> Iterator[MockKafka]:
    with mock_kafka() as cluster:
        yield cluster


@pytest.fixture
def broker(cluster: MockKafka) -> Iterator[KafkaBroker]:
    """Its members are given up late: a busy machine is no fault of the wire. The mock lets who joins again
    wait for the others for a session's time, but for a second.
    """
    with mocked(cluster, session_timeout_seconds=6.0) as broker:
        yield broker


@pytest.fixture
def brisk(cluster: MockKafka) -> Iterator[KafkaBroker]:
    """Its members send a heartbeat every 0.6 s, and join again within two."""
    with mocked(cluster, session_timeout_seconds=3.0) as broker:
        yield broker


@pytest.fixture
def seed() -> int:
    return random.randrange(2**32)
