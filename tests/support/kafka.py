"""A real Kafka on this machine: one KRaft node or several, from Maven Central, in a temporary folder.

``python -m tests.support.kafka --fetch`` brings the jars (about 43 MB) into
``${VECTIDE_CACHE:-~/.cache/vectide}/kafka-4.3.1/lib``, once; ``make test`` calls it. No test fetches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

VERSION = "4.3.1"

_JARS = f"""<project><modelVersion>4.0.0</modelVersion>
<groupId>vectide</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.24.3</version></dependency>
</dependencies></project>
"""

# The internal topics are small: a broker starts and stops faster with few partitions.
_PROPERTIES = """process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.cleaner.backoff.ms=1000
{more}
"""

#: A start is some 10 s of processor, and several come at once in the first minute of a run.
_START_SECONDS = 240.0


class Missing(Exception):
    """Java or the jars are not there; the text says what to do."""


def lib() -> Path:
    """Where the jars are or belong."""
    cache = os.environ.get("VECTIDE_CACHE") or Path.home() / ".cache" / "vectide"
    return Path(cache).expanduser() / f"kafka-{VERSION}" / "lib"


def fetch() -> None:
    """Bring the jars from Maven Central, unless they are there. Raises Missing."""
    target = lib()
    if target.is_dir():
        return
    if shutil.which("mvn") is None:
        raise Missing("Maven is missing: install it (Debian: apt-get install maven openjdk-17-jre-headless)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        (work / "pom.xml").write_text(_JARS)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={work / 'lib'}"]
        if subprocess.run(command, cwd=work, check=False).returncode != 0:
            raise Missing("Maven could not fetch Kafka's jars; its own output says why")
        # In one step: an interrupted fetch leaves no half of a library behind.
        (work / "lib").rename(target)


def check() -> None:
    """Raise Missing unless a broker can be started."""
    if shutil.which("java") is None:
        raise Missing("Java 17 or later is missing: install it (Debian: apt-get install openjdk-17-jre-headless)")
    if not lib().is_dir():
        raise Missing(f"Kafka's jars are not in {lib()}: run `python -m tests.support.kafka --fetch`")


class KafkaServer:
    """One broker in a folder, on ports that stay the same over its restarts.

    Args:
        directory: for its properties, log and data.
        more: further lines of server.properties.
        place: of this one among ``ports``.
        ports: of every node of its cluster, as broker and as controller; one node of its own if not given.
    """

    def __init__(
        self, directory: Path, more: str = "", place: int = 0, ports: Sequence[tuple[int, int]] | None = None
    ) -> None:
        check()
        self.directory = directory
        ports = ports or pairs_of_ports(1)
        self.port, controller = ports[place]
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = directory / "server.properties"
        self._properties.write_text(
            _PROPERTIES.format(
                node=place + 1,
                voters=",".join(f"{node}@127.0.0.1:{port}" for node, (_, port) in enumerate(ports, 1)),
                port=self.port,
                controller=controller,
                logs=directory / "data",
                replicas=min(3, len(ports)),
                in_sync=2 if len(ports) >= 3 else 1,
                more=more,
            )
        )
        self._log = directory / "server.log"
        self._formatted = False

    @property
    def bootstrap(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self._formatted:
            self._java("kafka.tools.StorageTool", "format", "-t", "dmVjdGlkZS10ZXN0cy0wMQ", "-c", str(self._properties))
            self._formatted = True
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_command("512m"), "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Kafka did not start within {_START_SECONDS:.0f} s:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def leave(self) -> int:
        """Its process's id: somebody else stops it."""
        assert self._process is not None
        pid, self._process.returncode = self._process.pid, 0  # else Python warns of a process that still runs
        self._process = None
        return pid

    @property
    def ended(self) -> int | None:
        """Its exit code, if it has ended although nobody has asked this object for it."""
        return None if self._process is None else self._process.poll()

    def restart(self) -> None:
        """Start it again on the same folder and port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _java(self, *arguments: str) -> None:
        command = [*_command("128m"), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=_START_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"{arguments[0]} failed:\n{done.stdout}\n{done.stderr}")

    def _answers(self) -> bool:
        """True once the broker serves clients: it registers only after its log is recovered."""
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=5000)
        except (OSError, KafkaError):
            return False
        admin.close()
        return True


def clean_soon(bootstrap: str, topics: Sequence[str]) -> None:
    """What compaction takes a week for by our settings, it takes seconds for by these."""
    from kafka import KafkaAdminClient
    from kafka.admin import ConfigResource, ConfigResourceType

    settings = {"max.compaction.lag.ms": "1000", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings) for topic in topics])
    admin.close()


def _command(memory: str) -> list[str]:
    # The serial collector and the first compiler only: start-up time on few cores.
    return ["java", f"-Xmx{memory}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{lib()}/*"]


def pairs_of_ports(count: int) -> list[tuple[int, int]]:
    """Free ports for so many nodes, as brokers and as controllers."""
    free = _free_ports(2 * count)
    return list(zip(free[::2], free[1::2], strict=True))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fetch", action="store_true", help="bring Kafka's jars from Maven Central")
    parser.parse_args()
    try:
        fetch()
        check()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    print(f"Kafka {VERSION} in {lib()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
