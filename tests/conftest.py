"""Fixtures for every suite: one real Kafka for a whole run, and names that never meet."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests.support import shared_kafka
from tests.support.absence import absent
from tests.support.certificates import Missing as MissingOpenssl
from tests.support.kafka import Missing
from tests.support.postgres import Missing as MissingPostgres
from tests.support.postgres import PostgresServer, shared
from tests.support.promtool import Missing as MissingPromtool
from tests.support.promtool import binary, run
from tests.support.secure_kafka import USERS, SecureKafka

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# An example may take as long as a busy machine needs: time is measured in `make bench`.
hypothesis.settings.register_profile("vectide", deadline=None)
hypothesis.settings.load_profile("vectide")


#: Files of many tests that wait; a file goes to one worker.
_LONG = (
    "tests/integration/test_soak.py",
    "tests/integration/test_kafka_migration.py",
    "tests/integration/test_migration.py",
    "tests/contract/test_source.py",
    "tests/wire/",
)


def pytest_configure(config: pytest.Config) -> None:
    """The run's own folder is made once, by who starts the workers."""
    if not hasattr(config, "workerinput"):
        shared_kafka.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Likewise."""
    if not hasattr(config, "workerinput"):
        shared_kafka.end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: at the end, one worker would be alone with it."""

    def rank(item: pytest.Item) -> tuple[bool, bool]:
        processes = item.get_closest_marker("processes") is not None
        return not processes, not item.nodeid.startswith(_LONG)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def kafka() -> shared_kafka.SharedKafka:
    """A running broker. Missing parts skip on a laptop and fail in CI."""
    try:
        return shared_kafka.shared()
    except Missing as missing:
        absent(missing)


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A running broker that lets in only whom it knows. Missing parts skip on a laptop and fail in CI."""
    try:
        server = SecureKafka(tmp_path_factory.mktemp("secure-kafka"), USERS)
    except (Missing, MissingOpenssl) as missing:
        absent(missing)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def promtool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs promtool. Where it is missing, skips on a laptop and fails in CI."""
    try:
        binary()
    except MissingPromtool as missing:
        absent(missing)
    return run


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    """A running PostgreSQL. Where it is missing it skips on a laptop and fails in CI."""
    try:
        return shared()
    except MissingPostgres as missing:
        absent(missing)


@pytest.fixture
def fresh() -> str:
    """First part of every name: no test sees another's topics."""
    return f"t{uuid.uuid4().hex[:10]}"
