"""The rendered chart as plain processes on a real Kafka: what a cluster would start, with what it would give to it.

Each pod has an address of its own on loopback, in the place of a cluster's network, and folders in the place of its
volumes. Commands, arguments, environment, configuration file, probes and the order of hooks are those of the manifests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.charts import Rendered, render
from tests.support.deployment import loopback_qdrant
from tests.support.probing import until
from tests.support.shared_kafka import SharedKafka

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(400)]

READY_SECONDS = 120.0
TOKEN = "a-token-of-the-cluster"


class Pod:
    """One process in the place of a container."""

    def __init__(self, cluster: Cluster, owner: str, spec: dict[str, Any], address: str) -> None:
        (self._container,) = spec["containers"]
        self._cluster = cluster
        self._spec = spec
        self.address = address
        folder = cluster.folder / f"{owner.split()[1]}-{time.monotonic_ns()}"
        self._places = {
            mount["mountPath"]: self._volume(folder, mount["name"]) for mount in self._container["volumeMounts"]
        }
        self._log = (folder / "log").open("w+")
        command = [*self._container["command"], *self._container["args"]]
        found = shutil.which(command[0], path=str(Path(sys.executable).parent))
        assert found is not None, f"{command[0]} is not installed"
        self.process = subprocess.Popen(
            [found, *map(self._here, command[1:])],
            cwd=folder,
            env={"PATH": os.environ["PATH"], **self._environment()},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def probe(self, kind: str) -> int:
        """The status of a probe, as the kubelet sees it; 0: no answer."""
        get = self._container[kind]["httpGet"]
        (port,) = [port["containerPort"] for port in self._container["ports"] if port["name"] == get["port"]]
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}{get['path']}", timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def completed(self, seconds: float | None = None) -> str:
        """Wait until it has ended, and return what it said."""
        out, _ = self.process.communicate(timeout=seconds or READY_SECONDS)
        return out

    def stop(self) -> int:
        """As the kubelet: SIGTERM, and no longer than the grace period; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=self._spec["terminationGracePeriodSeconds"])
        return self.process.returncode

    def end(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self._log.close()

    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        self._log.flush()
        return Path(self._log.name).read_text()[-3000:]

    def _environment(self) -> dict[str, str]:
        environment = {}
        for one in self._container["env"]:
            if "valueFrom" in one:
                resource = one["valueFrom"]["resourceFieldRef"]["resource"].split(".")[1]
                value = str(self._container["resources"]["limits"][resource])
            else:
                value = self._here(one["value"])
            environment[one["name"]] = value
        return {**environment, "VECTIDE_HTTP__HOST": self.address}  # for all addresses of a pod there is one here

    def _volume(self, folder: Path, name: str) -> Path:
        place = folder / name
        (volume,) = [one for one in self._spec["volumes"] if one["name"] == name]
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        place.mkdir(parents=True)
        if "configMap" in volume:
            (found,) = [
                one
                for one in self._cluster.rendered.of("ConfigMap")
                if one["metadata"]["name"] == volume["configMap"]["name"]
            ]
            for key, text in found["data"].items():
                (place / key).write_text(self._here(text, mounts=self._mounts(folder)))
        for source in volume.get("projected", {}).get("sources", []):
            for item in source["secret"]["items"]:
                (place / item["path"]).write_text(self._cluster.secrets[source["secret"]["name"]][item["key"]])
        return place

    def _mounts(self, folder: Path) -> dict[str, Path]:
        volumes = {one["name"]: one for one in self._spec["volumes"]}
        return {
            mount["mountPath"]: Path(volumes[mount["name"]].get("hostPath", {}).get("path", folder / mount["name"]))
            for mount in self._container["volumeMounts"]
        }

    def _here(self, text: str, mounts: dict[str, Path] | None = None) -> str:
        """With paths and names of the cluster as they are on this machine."""
        places = self._places if mounts is None else mounts
        paths = "|".join(sorted(map(re.escape, places), key=len, reverse=True))
        text = re.sub(rf'(?<![\w./-])({paths})(?=[/"\s]|$)', lambda found: str(places[found[0]]), text)
        return re.sub(r"(?<=//)demo-vectide-search(?=:)", self._cluster.addresses["search"], text)


class Cluster:
    """Starts what a chart says, in the order in which a cluster would."""

    def __init__(self, folder: Path, rendered: Rendered, secrets: dict[str, dict[str, str]]) -> None:
        self.folder = folder
        self.rendered = rendered
        self.secrets = secrets
        self.addresses: dict[str, str] = {}
        self.running: dict[str, Pod] = {}
        self._all: list[Pod] = []

    def install(self) -> None:
        """The hook first, then all Deployments at once; wait until all pods are ready."""
        self.addresses = {
            name: f"127.0.0.{place}"
            for place, name in enumerate(("topics", "chunk", "embed", "search", "docs", "canary"), 2)
        }
        job = self.start("Job demo-vectide-topics")
        said = job.completed()
        assert job.process.returncode == 0, job.errors()
        assert "topics are as they should be" in said
        for one in self.rendered.of("Deployment"):
            name = one["metadata"]["name"]
            self.running[name.rpartition("-")[2]] = self.start(f"Deployment {name}")
        deadline = time.monotonic() + READY_SECONDS
        waiting = dict(self.running)
        while waiting:
            for name, pod in list(waiting.items()):
                assert pod.process.poll() is None, f"{name}: exit {pod.process.returncode}\n{pod.errors()}"
                if pod.probe("readinessProbe") == 200:
                    del waiting[name]
            assert time.monotonic() < deadline, "\n".join(f"{name}: {pod.errors()}" for name, pod in waiting.items())
            time.sleep(0.2)

    def start(self, owner: str, **replaced: str) -> Pod:
        """The one pod of an object.

        Args:
            owner: kind and name.
            replaced: arguments of its container, by what is there.
        """
        (spec,) = [spec for name, _, spec in self.rendered.pods() if name == owner]
        (container,) = spec["containers"]
        arguments = [replaced.get(one, one) for one in container["args"]]
        spec = {**spec, "containers": [{**container, "args": arguments}]}
        pod = Pod(self, owner, spec, self.addresses[owner.rpartition("-")[2]])
        self._all.append(pod)
        return pod

    def test(self, code: int = 0, **replaced: str) -> dict[str, Any]:
        """What `helm test` runs, and what it found."""
        pod = self.start("Job demo-vectide-canary", **replaced)
        said = pod.completed()
        assert pod.process.returncode == code, f"{said}\n{pod.errors()}\n{self.told()}"
        found: dict[str, Any] = json.loads(said) if said else {"errors": pod.errors()}
        return found

    def told(self) -> str:
        """What all pods that should run say of themselves."""
        return "\n".join(
            f"{name}: exit {pod.process.poll()}, ready {pod.probe('readinessProbe')}\n{pod.errors()}"
            for name, pod in self.running.items()
        )

    def end(self) -> None:
        """Nothing of it is left."""
        for pod in self._all:
            pod.end()


def free_port() -> int:
    """On every address of loopback, as far as anybody knows."""
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(kafka: SharedKafka, chart: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with socket.socket() as one:
            one.bind(("127.0.0.2", 0))
    except OSError:
        pytest.skip("this machine has no 127.0.0.2 for a pod; Linux has")
    folder = tmp_path_factory.mktemp("cluster")
    documents = folder / "docs"
    documents.mkdir()
    (documents / "tide.md").write_text("# The tide\n\nThe tide follows the moon.\n")
    port = free_port()
    with loopback_qdrant(folder / "qdrant") as qdrant:
        volume = {"name": "docs", "hostPath": {"path": str(documents)}}
        values = {
            "config": {
                "pipeline": {"prefix": f"c{time.time_ns():x}", "name": "it", "partitions": 2},
                "kafka": {"bootstrap_servers": kafka.bootstrap},
                "qdrant": {"url": qdrant},
                "model": {"provider": "hashing", "name": "hashing"},
            },
            "http": {"port": port},
            "search": {"replicas": 1, "service": {"port": port}},
            "connectors": [
                {
                    "name": "docs",
                    "connector": "filesystem",
                    "settings": {"path": "/srv/docs"},
                    "volumes": [volume],
                    "volumeMounts": [{"name": "docs", "mountPath": "/srv/docs", "readOnly": True}],
                }
            ],
        }
        made = Cluster(folder, render(chart, values), {"vectide-http": {"token": TOKEN}})
        try:
            made.install()
            yield made
        finally:
            made.end()


def test_what_the_chart_starts_works_end_to_end(cluster: Cluster) -> None:
    """Given all pods ready, then `helm test` passes, a document of the connector is found, and all end in time."""
    found = cluster.test()
    assert (found["ok"], found["cleaned"]) == (True, True)
    print(f"searchable after {found['searchable_seconds']} s, gone after {found['gone_seconds']} s")
    search = cluster.running["search"]
    port = search._container["ports"][0]["containerPort"]
    request = urllib.request.Request(
        f"http://{search.address}:{port}/search",
        json.dumps({"query": "the tide follows the moon", "filter": ["source=docs"]}).encode(),
        {"Authorization": f"Bearer {TOKEN}"},
    )

    def found_there() -> list[str]:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [hit["key"] for hit in json.load(answer)["hits"]]

    # A pod may be ready before what it read is searchable.
    until(lambda: found_there() != [], cluster.told)
    assert found_there() == ["docs:tide.md"]
    for pod in cluster.running.values():
        assert (pod.probe("livenessProbe"), pod.probe("startupProbe")) == (200, 200)


def test_a_canary_with_another_token_says_so_and_publishes_nothing(cluster: Cluster) -> None:
    before, cluster.secrets = cluster.secrets, {"vectide-http": {"token": "another"}}
    try:
        assert "asks for Authorization" in cluster.test(code=2)["errors"]
    finally:
        cluster.secrets = before


def test_a_canary_fails_in_time_where_a_stage_does_not_work(cluster: Cluster) -> None:
    """Given no embed worker, then `helm test` says that nothing is found, and what it published is deleted again.
    All pods end within their grace period, and say that they lost nothing.
    """
    assert cluster.running.pop("embed").stop() == 0
    found = cluster.test(code=7, **{"120": "3"})
    assert (found["ok"], found["searchable_seconds"], found["cleaned"]) == (False, None, True)
    assert {name: pod.stop() for name, pod in cluster.running.items()} == dict.fromkeys(cluster.running, 0)
