"""The parts under attack: Kafka, a store behind a fault proxy, and real vectide processes that are looked after.

Who looks after them does as Kubernetes does: a process that ends, or says that it is not alive, is
started again. Those that the soak itself killed are not counted; every other restart is a violation.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.cli.assembly import Parts, open_parts
from pipeline.config import load
from pipeline.errors import VectideError
from pipeline.generations.control import ControlState, read
from tests.soak.weather import Events, Weather
from tests.support.deployment import Command, Deployment, loopback_qdrant
from tests.support.kafka import KafkaServer, pairs_of_ports
from tests.support.stores import REAL

ROOT = Path(__file__).parents[2]
SESSION_SECONDS = 6.0
#: The workers whose memory is watched: they are not killed after the first third or so.
STEADY = ("chunk-0", "embed-0", "serve")

_CONFIGURATION = """
broker = "kafka"
store = "qdrant"
[pipeline]
prefix = "soak"
name = "run"
partitions = 6
[pipeline.filter_fields]
source = "keyword"
media_type = "keyword"
group = "keyword"
level = "integer"
[model]
provider = "hashing"
name = "hashing"
[chunking]
max_tokens = 96
target_tokens = 48
[kafka]
bootstrap_servers = "{kafka}"
session_timeout_seconds = {session}
[qdrant]
url = "{store}"
timeout_seconds = 5
[embed]
delete_grace_seconds = 2
recent_vectors_bytes = 4194304
[migrate]
known_items = 30
known_item_tolerance = 0.3
lag_seconds = 60
[retry]
maximum_seconds = 5
[sources.docs]
connector = "filesystem"
path = "docs"
"""

#: Name and command.
_WORKERS = {
    "chunk-0": ("work", "chunk"),
    "chunk-1": ("work", "chunk"),
    "embed-0": ("work", "embed"),
    "embed-1": ("work", "embed"),
    "connect": ("connect", "filesystem"),
    "serve": ("serve",),
}
_READY_SECONDS = 300.0
_LOOK_SECONDS = 0.25
#: Six probes in a row that fail: as long as Kubernetes waits by itself (three, ten seconds apart).
_PROBES = 6
_PROBE_SECONDS = 5.0
SAMPLE_SECONDS = 5.0
_TAIL = 1500


class Worker:
    """One long-lived process and its successors."""

    def __init__(
        self, name: str, begin: Callable[[dict[str, str]], Command], folder: Path, events: Events, weather: Weather
    ) -> None:
        self.name = name
        self._begin = begin
        self._events = events
        self._weather = weather
        self._clock = folder / f"{name}.clock"
        self._clock.write_bytes(struct.pack("<d", 0.0))
        self.lock = threading.RLock()
        self.command: Command | None = None
        self.url = ""
        self.killed = False
        self.paused = 0
        self.silent = 0
        """Probes in a row that failed."""
        self.down: list[tuple[float, float]] = []
        """When the soak itself kept it from working."""
        self.memory: list[list[float]] = []
        """RSS in MiB, a list for each process."""
        self.starts = 0

    def start(self) -> None:
        """A process; it is ready some time later."""
        with self.lock:
            self.url, self.killed, self.paused, self.silent = "", False, 0, 0
            self.starts += 1
            self.memory.append([])
            command = self.command = self._begin({"VECTIDE_TEST_CLOCK": str(self._clock)})
        threading.Thread(target=self._await, args=(command,), daemon=True).start()

    def _await(self, command: Command) -> None:
        assert command.process.stdout is not None
        with suppress(ValueError, OSError):  # closed: it was killed
            line = command.process.stdout.readline()
            if "ready on" in line and command is self.command:
                self.url = line.split("ready on ")[1].split()[0].rstrip(",")
                with self.lock:
                    if self.down and self.down[-1][1] == float("inf"):
                        self.down[-1] = (self.down[-1][0], time.monotonic())

    def kill(self) -> bool:
        """SIGKILL; it is started again by whoever looks after it."""
        with self.lock:
            if self.command is None or self.killed or self.command.process.poll() is not None:
                return False
            self.killed = True
            self._goes_down()
            self.command.kill()
            return True

    def pause(self) -> bool:
        """SIGSTOP."""
        with self.lock:
            if self.command is None or self.killed or self.command.process.poll() is not None:
                return False
            self.paused += 1
            self._goes_down()
            self.command.pause()
            return True

    def resume(self) -> None:
        """SIGCONT."""
        with self.lock:
            if self.command is None or not self.paused:
                return
            self.paused -= 1
            self.silent = 0
            if not self.paused and self.command.process.poll() is None:
                self.command.resume()
                if self.url:
                    self.down[-1] = (self.down[-1][0], time.monotonic())

    def _goes_down(self) -> None:
        if not self.down or self.down[-1][1] < float("inf"):
            self.down.append((time.monotonic(), float("inf")))

    def away(self, since: float, until: float) -> bool:
        """Whether the soak kept it from working at any time between."""
        with self.lock:
            return any(start <= until and end >= since for start, end in self.down[-20:])

    def step_clock(self, seconds: float) -> None:
        """Its wall clock is so far off from now on; it notices as it would a real step."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("<d", seconds))

    def probe(self) -> None:
        """Ask whether it is alive."""
        url = self.url
        if not url or self.paused:
            return
        asked = time.monotonic()
        try:
            urllib.request.urlopen(f"{url}/livez", timeout=_PROBE_SECONDS).close()
            self.silent = 0
        except OSError as error:
            if self.url == url and not self.paused and not self._weather.starved_between(asked, time.monotonic()):
                self.silent += 1
                self._events.note("probe failed", worker=self.name, why=str(error))

    def sample(self) -> None:
        """Its memory now."""
        with self.lock:
            if self.command is None or not self.url:
                return
            with suppress(psutil.Error):
                self.memory[-1].append(psutil.Process(self.command.process.pid).memory_info().rss / 2**20)


class Cluster:
    """Everything that runs, but for writer and searcher.

    Args:
        folder: of the run.
        brokers: one or three.
        events: told what happens.
        weather: whether the machine is there.
        mutant: a guard that is off in every worker.
        seed: of the proxy's dice.
    """

    def __init__(
        self, folder: Path, brokers: int, events: Events, weather: Weather, mutant: str | None, seed: int
    ) -> None:
        self.folder = folder
        self.events = events
        self.restarts: Counter[str] = Counter()
        self._stop = threading.Event()
        self.job: Worker | None = None
        with ExitStack() as building:
            self._kafka(building, brokers)
            upstream = REAL or building.enter_context(loopback_qdrant(folder / "qdrant"))
            self.proxy = self._proxy(building, upstream, seed)
            self._disk(building)
            configuration = _CONFIGURATION.format(kafka=self.bootstrap, store=self.proxy, session=SESSION_SECONDS)
            self.deployment = Deployment(folder, configuration)
            settings = load(folder / "vectide.toml", {}, qdrant__url=upstream, qdrant__timeout_seconds=30.0)
            self.parts: Parts = open_parts(settings, "soak")
            building.callback(self.parts.close)
            self._drop()  # what a run before this one has left, on a server of its own
            building.callback(self._drop)
            self._ending = building.pop_all()
        self._shim = {
            "PYTHONPATH": f"{ROOT / 'tests' / 'soak' / 'shim'}{os.pathsep}{ROOT}",
            "VECTIDE_TEST_POISON": "1",
            "MALLOC_ARENA_MAX": "2",  # as in the images
            **({"VECTIDE_TEST_MUTANT": mutant} if mutant else {}),
        }
        ((port, _),) = pairs_of_ports(1)
        more = {
            "serve": {
                "VECTIDE_HTTP__PORT": str(port),
                "VECTIDE_QDRANT__URL": upstream,  # not through the proxy: a search that fails is a violation
                "VECTIDE_QDRANT__TIMEOUT_SECONDS": "20",
            },
            "connect": {"VECTIDE_STATE": str(self.state)},
        }
        self.workers = {
            name: Worker(name, self._beginner(arguments, {**self._shim, **more.get(name, {})}), folder, events, weather)
            for name, arguments in _WORKERS.items()
        }

    def _kafka(self, building: ExitStack, count: int) -> None:
        ports = pairs_of_ports(count)
        self.brokers = []
        for place in range(count):
            home = self.folder / f"kafka-{place}"
            home.mkdir()
            self.brokers.append(KafkaServer(home, place=place, ports=ports))
            building.callback(self.brokers[-1].stop)
        with ThreadPoolExecutor(count) as pool:
            for future in [pool.submit(one.start) for one in self.brokers]:
                future.result()
        self.bootstrap = ",".join(one.bootstrap for one in self.brokers)

    def _disk(self, building: ExitStack) -> None:
        self.state = self.folder / "state"
        self.state.mkdir()
        self.small_disk = _mounted(self.state)
        if self.small_disk:
            building.callback(lambda: subprocess.run(["umount", "--lazy", self.state], check=False))

    def _drop(self) -> None:
        with suppress(VectideError):
            for name in self.parts.store.names(self.parts.names.root):
                self.parts.store.drop(name)

    def _beginner(self, arguments: tuple[str, ...], environment: dict[str, str]) -> Callable[[dict[str, str]], Command]:
        return lambda more: self.deployment.begin(*arguments, **environment, **more)

    def _proxy(self, building: ExitStack, upstream: str, seed: int) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.proxy", "--upstream", upstream, "--seed", str(seed)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        out = process.stdout

        def end() -> None:
            process.terminate()
            process.wait(30)
            out.close()

        building.callback(end)
        return out.readline().split()[-1]

    # ------------------------------------------------------------------------ its life

    def start(self) -> None:
        """All workers, ready."""
        self.deployment.ask("topics", "apply")
        for worker in self.workers.values():
            worker.start()
        deadline = time.monotonic() + _READY_SECONDS
        while not all(worker.url for worker in self.workers.values()):
            for worker in self.workers.values():
                assert worker.command is not None
                code = worker.command.process.poll()
                assert code is None, f"{worker.name} ended with {code}\n{worker.command.errors()}"
            assert time.monotonic() < deadline, f"not ready: {[w.name for w in self.workers.values() if not w.url]}"
            time.sleep(0.1)
        threading.Thread(target=self._look_after, name="looks after workers", daemon=True).start()

    def _look_after(self) -> None:
        sampled = probed = time.monotonic()
        while not self._stop.wait(_LOOK_SECONDS):
            now = time.monotonic()
            for worker in self.workers.values():
                self._revive(worker)
            if now - probed >= _PROBE_SECONDS:
                probed = now
                for worker in self.workers.values():
                    worker.probe()
            if now - sampled >= SAMPLE_SECONDS:
                sampled = now
                for worker in self.workers.values():
                    worker.sample()

    def _revive(self, worker: Worker) -> None:
        with worker.lock:
            command = worker.command
            assert command is not None
            code = command.process.poll()
            if code is None:
                if worker.paused or worker.silent < _PROBES:
                    return
                self._counted(worker, f"not alive at {worker.silent} probes", command)
                command.kill()
            elif not worker.killed:
                self._counted(worker, f"ended with {code}", command)
            worker.start()

    def _counted(self, worker: Worker, why: str, command: Command) -> None:
        self.restarts[worker.name] += 1
        text = Path(command._errors.name).read_text()[-_TAIL:]
        self.events.violation("restart", f"{worker.name} {why}", log=text)
        if not command._errors.closed:
            with suppress(ValueError):
                command._end()

    def ready(self) -> bool:
        """True if every worker is ready."""
        return all(worker.url and not worker.paused and not worker.killed for worker in self.workers.values())

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        time.sleep(2 * _LOOK_SECONDS)
        self.deployment.end()
        self._ending.close()

    def stopped(self) -> dict[str, int]:
        """SIGTERM to every worker; the exit codes."""
        self._stop.set()
        time.sleep(2 * _LOOK_SECONDS)
        codes = {}
        with ThreadPoolExecutor(len(self.workers)) as pool:
            futures = {
                name: pool.submit(worker.command.stop)
                for name, worker in self.workers.items()
                if worker.command is not None
            }
            for name, future in futures.items():
                try:
                    codes[name] = future.result()
                except AssertionError as error:
                    codes[name] = -9
                    self.events.note("did not stop", worker=name, why=str(error))
        return codes

    # ------------------------------------------------------------------------ commands

    def control(self) -> ControlState:
        """As it is now."""
        return read(self.parts.broker, self.parts.names)

    def begin_job(self, *arguments: str) -> Command:
        """A migration job, with the same shim: it reads the store through the proxy too."""
        return self.deployment.begin(*arguments, **self._shim)

    def said(self, *arguments: str, seconds: float = 120.0) -> tuple[int, str]:
        """A short command: its exit code, and what it said."""
        command = self.begin_job(*arguments)
        try:
            out, _ = command.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            command.kill()
            return 7, f"no answer in {seconds:.0f} s"
        code = command.process.returncode
        text = out or ""
        if code:
            text += command.errors()[-_TAIL:]
        command._errors.close()
        return code, text

    def weather(self, mode: str, share: float = 1.0, seconds: float = 0.0) -> None:
        """What the proxy does from now on."""
        body = json.dumps({"mode": mode, "share": share, "seconds": seconds}).encode()
        urllib.request.urlopen(f"{self.proxy}/_weather", body, timeout=10).close()

    def refusals(self) -> dict[str, int]:
        """What the proxy has done, by mode."""
        with suppress(OSError), urllib.request.urlopen(f"{self.proxy}/_weather", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
            return found
        return {}

    def until(self, what: Callable[[], Any], seconds: float) -> Any:
        """Ask until there is an answer; outages are waited out. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return what()
            except VectideError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(str(error)) from error
                time.sleep(0.5)


def _mounted(folder: Path) -> bool:
    """A file system of its own, with room for a connector's state and little more."""
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False, capture_output=True
        )
    except OSError:
        return False
    return done.returncode == 0
