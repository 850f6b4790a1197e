"""Probes of real processes: while Kafka or the store is away, and when a commit does not come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration import test_kafka_workers, test_up
from tests.support.absence import absent
from tests.support.commands import run
from tests.support.deployment import Deployment, loopback_qdrant
from tests.support.kafka import KafkaServer, Missing
from tests.support.probing import Probed, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

#: Shorter waits than an operator would want, so that an outage is noticed in seconds.
QUICK = """
[work]
drain_seconds = 2
[retry]
maximum_seconds = 1
"""


@contextmanager
def hanging(process: psutil.Process) -> Iterator[None]:
    """Connections stay open, nothing is answered."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that these tests may hurt."""
    try:
        server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    except Missing as missing:
        absent(missing)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def made(own_kafka: KafkaServer, fresh: str, tmp_path: Path) -> Iterator[tuple[Deployment, psutil.Process]]:
    """A deployment with its topics, and the process of its store."""
    with loopback_qdrant(tmp_path / "qdrant") as url:
        (store,) = [one for one in psutil.Process().children() if str(tmp_path) in one.cmdline()[-1]]
        configuration = test_kafka_workers.CONFIGURATION.format(prefix=fresh, kafka=own_kafka.bootstrap, qdrant=url)
        quick = configuration.replace("[kafka]", "[kafka]\nrequest_timeout_seconds = 7").replace(
            "[qdrant]", "[qdrant]\ntimeout_seconds = 2"
        )
        deployment = Deployment(tmp_path, quick + QUICK)
        assert run(tmp_path, "topics", "apply").code == 0
        try:
            yield deployment, store
        finally:
            deployment.end()


@pytest.mark.kafka
def test_an_outage_is_not_ready_and_alive_and_ends_by_itself(
    made: tuple[Deployment, psutil.Process], own_kafka: KafkaServer
) -> None:
    """Given a worker, when first the store hangs and then Kafka, then it is not ready, alive, and ready again
    without a restart; and a worker that starts or is told to stop in an outage does what it should.
    """
    deployment, store = made
    worker = Probed(deployment, "work", "embed")
    worker.until_probes(200, 200, 200)
    with hanging(store):
        worker.until_not_ready('"store')
        # One that starts now waits: it has started as far as a restart could help
        late = Probed(deployment, "work", "embed")
        late.until_not_ready('"store')
        assert late.command.stop() == 0, late.command.errors()
    worker.until_probes(200, 200, 200)
    own_kafka.pause()
    try:
        worker.until_not_ready('"broker')
    finally:
        own_kafka.resume()
    worker.until_probes(200, 200, 200)
    own_kafka.pause()
    try:
        worker.until_not_ready('"broker')
        assert worker.command.stop() == 0, worker.command.errors()
    finally:
        own_kafka.resume()


@pytest.mark.kafka
def test_a_commit_that_hangs_fails_liveness_and_a_restart_cures_it(made: tuple[Deployment, psutil.Process]) -> None:
    deployment, _ = made
    marker = deployment.folder / "hang"
    worker = Probed(deployment, "work", "chunk", commit=marker, beats=4)
    worker.until_probes(200, 200, 200)
    marker.touch()
    (deployment.documents / "a.md").write_text("# A\n\ntext\n")
    connector = Probed(deployment, "connect", "filesystem")
    connector.until_probes(200, 200, 200)
    worker.until_probes(503, 200, 200)
    assert "chunk.poll" in worker.get("/livez")[1]
    assert connector.get("/livez")[0] == 200
    # As the kubelet does it; it cannot finish what hangs, and loses nothing
    assert worker.command.stop() == 0, worker.command.errors()
    marker.unlink()
    again = Probed(deployment, "work", "chunk", commit=marker, beats=4)
    until(lambda: again.metric("commits_total", outcome="ok") > 0, again.command.errors)
    assert again.metric("records_consumed_total", stage="chunk") == 1
    for one in (again, connector):
        assert one.command.stop() == 0, one.command.errors()


def test_an_embedded_commit_that_hangs_fails_liveness(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, test_up.CONFIGURATION + QUICK)
    try:
        marker = tmp_path / "hang"
        marker.touch()
        (deployment.documents / "a.md").write_text("# A\n\ntext\n")
        up = Probed(deployment, "up", "docs", commit=marker, beats=4)
        up.until_probes(503, 200, 200)
        marker.unlink()
        up.until_probes(200, 200, 200)
        assert up.command.stop() == 0, up.command.errors()
        assert deployment.embedded_differences("docs") == []
    finally:
        deployment.end()
