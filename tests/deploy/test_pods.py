"""Single pods of the chart: whose rights they have, what they reach, what they keep, and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.deploy.charts import Rendered, first, pod, render, secrets_of, setting
from tests.support.sources import wait_until


def test_a_canary_writes_as_a_connector_and_searches_with_the_key_of_a_search(renders: dict[str, Rendered]) -> None:
    found = renders["searchless-roles"]
    assert setting(found, "-canary", "VECTIDE_KAFKA__SASL_USERNAME")["value"] == "connector"
    files = {one["secret"]["items"][0]["path"]: one["secret"]["name"] for one in secrets_of(found, "-canary")}
    assert files == {"kafka-password": "kafka-connector", "qdrant-api-key": "qdrant-read"}


def test_what_an_init_container_downloads_from_can_be_reached_by_the_jobs_that_have_one(chart: Path) -> None:
    egress = {"ports": [{"port": 443, "protocol": "TCP"}]}
    values = {
        name: {**more, "extraEgress": [egress]} for name, more in {"topics": {"found": True}, "canary": {}}.items()
    }
    found = render(chart, {**values, "search": {"enabled": False}})
    for name in values:
        assert egress in found.one("NetworkPolicy", f"-{name}")["spec"]["egress"]


def test_a_connector_s_state_outlives_its_pod_where_it_has_a_claim(renders: dict[str, Rendered]) -> None:
    def state(found: Rendered, owner: str) -> dict[str, Any]:
        (volume,) = [one for one in pod(found, owner)["volumes"] if one["name"] == "state"]
        return {key: one for key, one in volume.items() if key != "name"}

    assert state(renders["production"], "-handbook") == {"persistentVolumeClaim": {"claimName": "handbook-state"}}
    assert state(renders["production"], "-tickets") == {"emptyDir": {"sizeLimit": "2Gi"}}
    assert state(renders["minimal"], "-docs") == {"emptyDir": {"sizeLimit": "10Gi"}}
    assert state(renders["production"], "-chunk") == {"emptyDir": {}}


def test_dns_is_reached_where_its_pods_listen(chart: Path) -> None:
    for policy in render(chart, {"networkPolicy": {"dns": {"ports": [5353]}}}).of("NetworkPolicy"):
        ports = policy["spec"]["egress"][0]["ports"]
        assert ports == [{"port": 5353, "protocol": protocol} for protocol in ("UDP", "TCP")]


def test_the_toolbox_hears_that_it_is_to_end(renders: dict[str, Rendered]) -> None:
    """Given SIGTERM, then it ends with 0 by itself: the first process of a pod gets only what it handles."""
    command = first(renders["production"], "-toolbox")["command"]
    with subprocess.Popen(command, start_new_session=True) as process:

        def handles() -> bool:
            status = Path(f"/proc/{process.pid}/status").read_text()
            (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
            return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)

        try:
            wait_until(handles, lambda: f"{command} handles no SIGTERM", seconds=10)
            process.terminate()
            assert process.wait(20) == 0
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_senders_reach_a_connector_that_is_pushed_to_and_those_alone_who_may(renders: dict[str, Rendered]) -> None:
    found = renders["production"]
    service = found.one("Service", "-crm")["spec"]
    assert service["ports"] == [{"name": "push", "port": 443, "targetPort": "push", "protocol": "TCP"}]
    assert service["type"] == "ClusterIP"
    rules = found.one("NetworkPolicy", "-crm")["spec"]["ingress"]
    assert rules[1] == {
        "ports": [{"port": 8443, "protocol": "TCP"}],
        "from": [{"podSelector": {"matchLabels": {"app": "crm"}}}],
    }
    services = [one["metadata"]["name"] for one in found.of("Service")]
    assert not [name for name in services if "handbook" in name], "nobody pushes to a folder"
