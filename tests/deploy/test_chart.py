"""The rendered chart: valid for Kubernetes and the operators, and true of vectide. Every check refuses its mutants."""

from __future__ import annotations

import copy
import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python import chart as helm

from pipeline.cli.job import STOPPED
from pipeline.cli.main import __doc__ as exit_codes
from pipeline.naming import Names
from pipeline.observe.metrics import Metrics
from tests.deploy import structure
from tests.deploy.charts import MATRIX, NAMESPACE, Object, Rendered, first, pod, render, secrets_of, setting, values_of
from tests.deploy.generate import CHART, PAGES
from tests.deploy.structure import CHECKS, Check

LATEST = kubernetes_validate.latest_version()
CRDS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "crds").glob("*.json")}
NAMES = ["default", *MATRIX]


@pytest.fixture(autouse=True)
def schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes_validate import utils

    monkeypatch.setattr(utils, "schema_contents", _SCHEMAS)


_SCHEMAS = functools.cache(kubernetes_validate.utils.schema_contents)


def invalid(one: Object, version: str) -> str:
    """Why an object is refused; empty if it is not."""
    try:
        if one["kind"] in CRDS:
            jsonschema.validate(one, CRDS[one["kind"]])
        else:
            kubernetes_validate.validate(one, version, strict=True)
    except jsonschema.ValidationError as error:
        return f"{one['kind']} {one['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_knows_every_field(renders: dict[str, Rendered], name: str) -> None:
    for version in (MATRIX.get(name, "1.29"), LATEST):
        assert [why for one in renders[name].objects if (why := invalid(one, version))] == []


@pytest.mark.parametrize(
    ("kind", "mutate"),
    [
        ("Deployment", lambda one: one["spec"].update(replica=2)),
        ("Deployment", lambda one: one["spec"].update(replicas="2")),
        ("CronJob", lambda one: one["spec"]["jobTemplate"]["spec"].update(backofLimit=2)),
        ("NetworkPolicy", lambda one: one["spec"]["egress"].append({"port": 53})),
        ("PodMonitor", lambda one: one["spec"]["podMetricsEndpoints"][0].update(intervall="15s")),
        ("PodMonitor", lambda one: one["spec"].pop("selector")),
        ("ScaledObject", lambda one: one["spec"]["triggers"][0]["metadata"].update(lagThreshold=1000)),
        ("ScaledObject", lambda one: one["spec"].update(minReplicas=1)),
        ("ScaledObject", lambda one: one["spec"]["fallback"].update(behavior="keep")),
    ],
)
def test_a_field_that_nobody_knows_is_refused(
    renders: dict[str, Rendered], kind: str, mutate: Callable[[Object], object]
) -> None:
    one = copy.deepcopy(renders["production"].of(kind)[0])
    assert invalid(one, LATEST) == ""
    mutate(one)
    assert invalid(one, LATEST)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_it_hangs_together(renders: dict[str, Rendered], tmp_path: Path, name: str, check: Check) -> None:
    assert list(check(renders[name], tmp_path)) == []


def toml(found: Rendered, before: str, after: str) -> None:
    for one in found.of("ConfigMap"):
        text = one["data"].get("vectide.toml", "")
        one["data"]["vectide.toml"] = text.replace(before, after)


MUTANTS: list[tuple[Check, Callable[[Rendered], object]]] = [
    (structure.selectors_match, lambda r: r.one("Service", "search")["spec"]["selector"].update(tier="x")),
    (
        structure.selectors_match,
        lambda r: r.one("Deployment", "chunk")["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"),
    ),
    (structure.selectors_match, lambda r: r.objects.remove(r.one("NetworkPolicy", "-migration"))),
    (structure.selectors_match, lambda r: r.objects.remove(r.one("NetworkPolicy", "-topics"))),
    (
        structure.selectors_match,
        lambda r: r.one("PodDisruptionBudget", "embed")["spec"]["selector"].update(matchLabels={"a": "b"}),
    ),
    (structure.selectors_match, lambda r: r.of("ScaledObject")[0]["spec"]["scaleTargetRef"].update(name="embed")),
    (
        structure.selectors_match,
        lambda r: r.of("PodMonitor")[0]["spec"]["selector"]["matchExpressions"][0].update(values=["worker"]),
    ),
    (
        structure.selectors_match,
        lambda r: pod(r, "-chunk")["topologySpreadConstraints"][0]["labelSelector"].update(matchLabels={"a": "b"}),
    ),
    (structure.ports_exist, lambda r: first(r, "-chunk")["livenessProbe"]["httpGet"].update(port="metrics")),
    (structure.ports_exist, lambda r: r.one("Service", "search")["spec"]["ports"][0].update(targetPort="web")),
    (structure.ports_exist, lambda r: first(r, "-embed")["ports"][0].update(containerPort=9090)),
    (structure.ports_exist, lambda r: setting(r, "-chunk", "VECTIDE_HTTP__PORT").update(value="8081")),
    (structure.ports_exist, lambda r: setting(r, "-chunk", "VECTIDE_HTTP__PORT").update(name="VECTIDE_CACHE")),
    (structure.ports_exist, lambda r: r.of("PodMonitor")[0]["spec"]["podMetricsEndpoints"][0].update(port="metrics")),
    (
        structure.ports_exist,
        lambda r: r.one("NetworkPolicy", "-chunk")["spec"]["ingress"][0]["ports"][0].update(port=1),
    ),
    (structure.ports_exist, lambda r: r.one("NetworkPolicy", "-crm")["spec"]["ingress"].pop()),
    (structure.ports_exist, lambda r: r.one("Service", "-crm")["spec"]["ports"][0].update(targetPort="pull")),
    (
        structure.ports_exist,
        lambda r: first(r, "-crm")["ports"][1].update(containerPort=1),
    ),
    (structure.mounts_exist, lambda r: pod(r, "-chunk")["volumes"].pop(0)),
    (structure.mounts_exist, lambda r: first(r, "-topics")["volumeMounts"].pop()),
    (structure.mounts_exist, lambda r: r.objects.remove(r.one("ConfigMap", "demo-vectide"))),
    (structure.mounts_exist, lambda r: r.one("ConfigMap", "-topics")["metadata"].pop("annotations")),
    (
        structure.mounts_exist,
        lambda r: r.one("Job", "-topics")["metadata"]["annotations"].update({"helm.sh/hook-weight": "-6"}),
    ),
    (structure.mounts_exist, lambda r: pod(r, "-topics").update(serviceAccountName="demo-vectide")),
    (structure.mounts_exist, lambda r: first(r, "-embed")["volumeMounts"][0].update(mountPath="/tmp")),
    (structure.files_exist, lambda r: secrets_of(r, "-embed").pop()),
    (structure.files_exist, lambda r: first(r, "-chunk")["env"][0].update(value="/etc/vectide/other.toml")),
    (structure.files_exist, lambda r: pod(r, "-embed")["initContainers"][1]["volumeMounts"].pop(3)),
    (
        structure.secrets_are_referred_to,
        lambda r: first(r, "-chunk")["env"].append({"name": "VECTIDE_HTTP__TOKEN", "value": "x"}),
    ),
    (
        structure.secrets_are_referred_to,
        lambda r: first(r, "-chunk")["env"].append(
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
        ),
    ),
    (structure.secrets_are_referred_to, lambda r: r.objects.append({"kind": "Secret", "metadata": {"name": "s"}})),
    (structure.secrets_are_referred_to, lambda r: secrets_of(r, "-chunk").extend(secrets_of(r, "-embed"))),
    (structure.secrets_are_referred_to, lambda r: secrets_of(r, "-migrate").extend(secrets_of(r, "-search"))),
    (
        structure.egress_is_of_the_role,
        lambda r: r.one("NetworkPolicy", "-chunk")["spec"]["egress"].append({"ports": [{"port": 443}]}),
    ),
    (structure.egress_is_of_the_role, lambda r: r.one("NetworkPolicy", "-embed")["spec"]["egress"].pop()),
    (structure.egress_is_of_the_role, lambda r: r.one("NetworkPolicy", "-canary")["spec"]["egress"].pop()),
    (structure.egress_is_of_the_role, lambda r: r.one("NetworkPolicy", "-topics")["spec"]["egress"].pop(0)),
    (structure.arguments_parse, lambda r: first(r, "-chunk")["args"].append("--fast")),
    (structure.arguments_parse, lambda r: first(r, "-embed").update(args=["work", "embedd"])),
    (structure.arguments_parse, lambda r: first(r, "-migrate")["args"].extend(["--cutover", "later"])),
    (structure.arguments_parse, lambda r: pod(r, "-chunk")["initContainers"][1].update(args=["config", "weigh"])),
    (structure.configuration_loads, lambda r: toml(r, "partitions = 12", "partition = 12")),
    (structure.configuration_loads, lambda r: pod(r, "-embed").pop("enableServiceLinks")),
    (structure.configuration_loads, lambda r: toml(r, "hidden = true", "hide = true")),
    (structure.configuration_loads, lambda r: toml(r, 'store = "qdrant"', 'store = "embedded"')),
    (structure.configuration_loads, lambda r: toml(r, "[sources.tickets]", "[sources.other]")),
    (
        structure.configuration_loads,
        lambda r: first(r, "-chunk")["env"].append({"name": "VECTIDE_KAFKA__SALT", "value": "x"}),
    ),
    (
        structure.configuration_loads,
        lambda r: first(r, "-search").update(
            env=[one for one in first(r, "-search")["env"] if "TOKEN_" not in one["name"]]
        ),
    ),
    (structure.time_to_end, lambda r: toml(r, "drain_seconds = 30.5", "drain_seconds = 60")),
    (structure.one_writer, lambda r: r.one("Deployment", "-handbook")["spec"].update(replicas=2)),
    (structure.one_writer, lambda r: r.one("Deployment", "-handbook")["spec"]["strategy"].update(type="RollingUpdate")),
    (structure.one_writer, lambda r: r.one("Deployment", "-embed")["spec"].update(replicas=2)),
    (
        structure.one_writer,
        lambda r: r.one("Deployment", "-chunk")["spec"]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ].update({"nvidia.com/gpu": 1}),
    ),
]


@pytest.mark.parametrize(("check", "mutate"), MUTANTS, ids=lambda one: getattr(one, "__name__", ""))
def test_each_check_refuses_its_mutants(
    renders: dict[str, Rendered], tmp_path: Path, check: Check, mutate: Callable[[Rendered], object]
) -> None:
    found = copy.deepcopy(renders["production"])
    mutate(found)
    assert found.objects != renders["production"].objects, "the mutant changes nothing"
    assert list(check(found, tmp_path)) != []


def test_every_check_has_a_mutant() -> None:
    assert {check for check, _ in MUTANTS} == set(CHECKS)


def test_the_configuration_is_what_the_values_say(renders: dict[str, Rendered]) -> None:
    """Given texts with quotes and signs, numbers, lists and tables, then TOML has the same."""
    for name in NAMES:
        text = renders[name].one("ConfigMap", renders[name].of("ConfigMap")[0]["metadata"]["name"])["data"][
            "vectide.toml"
        ]
        found = tomllib.loads(text)
        for section, table in renders[name].values.get("config", {}).items():
            assert found[section] | table == found[section]
        for one in renders[name].values.get("connectors", []):
            listens = {"host": "0.0.0.0", "port": 8090} if one["connector"] == "http" else {}
            assert found["sources"][one["name"]] == {
                "connector": one["connector"],
                **listens,
                **one["settings"],
                **({"rescan_seconds": one["rescanSeconds"]} if "rescanSeconds" in one else {}),
            }


def test_settings_of_a_connector_can_hold_lists_of_tables(chart: Path) -> None:
    settings = {
        "tables": [{"name": 'a "b"', "keys": ["x", 1], "with": {"deep key": True}}, {"name": "c"}],
        "n": 12345678,
    }
    found = render(chart, {"connectors": [{"name": "db", "connector": "filesystem", "settings": settings}]})
    text = found.one("ConfigMap", "demo-vectide")["data"]["vectide.toml"]
    assert tomllib.loads(text)["sources"]["db"] == {"connector": "filesystem", **settings}


def test_helm_has_nothing_to_say(chart: Path) -> None:
    for name in NAMES:
        report = helm.lint(chart, {} if name == "default" else values_of(name), strict=True, namespace=NAMESPACE)
        worse = [one for one in report["messages"] if one["severity"] >= 2]
        assert (worse, report["errors"]) == ([], [])


def test_a_changed_configuration_restarts_pods_and_the_same_does_not(chart: Path) -> None:
    def checksums(config: dict[str, Any]) -> set[str]:
        found = render(chart, {"config": config})
        return {one["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for one in found.of("Deployment")}

    assert checksums({}) == checksums({})
    assert len(checksums({})) == 1
    assert checksums({}) != checksums({"embed": {"batch_items": 64}})


def migration(chart: Path, values: dict[str, Any] | None = None, **options: Any) -> Object:
    found = render(chart, {"migration": {"job": {"enabled": True}}, **(values or {})}, **options)
    (job,) = [one for one in found.of("Job") if "-migrate-" in one["metadata"]["name"]]
    return job


def test_a_migration_s_job_is_named_by_what_it_does_and_not_by_the_revision(chart: Path) -> None:
    """Given another revision it is the same Job, so nothing is patched; given another model it is another one."""
    before = migration(chart)
    assert migration(chart, revision=7, is_upgrade=True) == before
    names = {before["metadata"]["name"]}
    for values in (
        {"config": {"model": {"name": "other"}}},
        {"image": {"embed": {"tag": "9-embed"}}},
        {"migration": {"job": {"enabled": True}, "model": "other"}},
        {"migration": {"job": {"enabled": True}, "podLabels": {"a": "b"}}},
    ):
        names.add(migration(chart, values)["metadata"]["name"])
    assert len(names) == 5


def test_a_migration_s_exit_codes_are_vectide_s_own(renders: dict[str, Rendered]) -> None:
    """Given the rules, then each code is a documented one, what passes is tried again, and stopping is no failure."""
    spec = renders["production"].of("CronJob")[0]["spec"]
    assert spec["suspend"] is True
    job = spec["jobTemplate"]["spec"]
    assert (job["backoffLimit"], job["ttlSecondsAfterFinished"]) == (6, 86400)
    by_code = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {"values": []})["values"]
    }
    documented = {int(line.split()[0]) for line in (exit_codes or "").splitlines() if line[:1].isdigit()}
    assert set(by_code) <= documented
    assert by_code[STOPPED] == "Ignore"
    assert {code for code, action in by_code.items() if action == "FailJob"} == {2, 4, 5, 8, 9}
    assert {1, 3, 7}.isdisjoint(by_code), "these are tried again"


def test_keda_asks_for_groups_and_topics_that_vectide_makes(renders: dict[str, Rendered], chart: Path) -> None:
    names = Names("vectide", "default")
    triggers = renders["gpu"].of("ScaledObject")[0]["spec"]["triggers"]
    assert [(one["metadata"]["consumerGroup"], one["metadata"]["topic"]) for one in triggers] == [
        (names.group("embed", id), names.chunks(id)) for id in ("g1a2b3c4d", "g5e6f7a8b")
    ]
    keda = {"enabled": True, "trigger": "kafka", "generations": ["g1"]}
    config = {"pipeline": {"prefix": "p", "name": "n", "epoch": 3}}
    found = render(chart, {"config": config, "chunk": {"autoscaling": {"keda": keda}}})
    (trigger,) = found.of("ScaledObject")[0]["spec"]["triggers"]
    names = Names("p", "n")
    assert (trigger["metadata"]["consumerGroup"], trigger["metadata"]["topic"]) == (
        names.group("chunk", "g1"),
        names.documents(3),
    )
    assert trigger["metadata"]["offsetResetPolicy"] == "earliest"


def test_keda_asks_prometheus_for_a_metric_that_workers_have(renders: dict[str, Rendered]) -> None:
    """Given the query, then the metric and its labels are declared, and it is of this stage and pipeline alone."""
    (trigger,) = renders["production"].of("ScaledObject")[0]["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    labels = {name: labels for name, _, labels, _ in Metrics().declared()}["vectide_consumer_lag_records"]
    assert query.startswith("sum(max by (topic, partition, group) (vectide_consumer_lag_records{group=~")
    assert {"topic", "partition", "group"} <= set(labels)
    (pattern,) = re.findall(r'group=~"([^"]*)"', query)
    names = Names("vectide", "handbook")
    assert re.fullmatch(pattern, names.group("embed", "g1"))
    for other in (names.group("chunk", "g1"), Names("vectide", "handbook2").group("embed", "g1")):
        assert not re.fullmatch(pattern, other)


def test_rules_are_wrapped_with_labels_of_their_own_first(renders: dict[str, Rendered]) -> None:
    (found,) = renders["observability"].of("PrometheusRule")
    (group,) = [one for one in found["spec"]["groups"] if one["name"] == "sample.rules"]
    record, alert = group["rules"]
    assert group["interval"] == "30s"
    assert "labels" not in record
    assert alert["labels"] == {"severity": "warning", "team": "search"}
    assert alert["annotations"] == {"summary": "{{ $value }} records"}, "templates of Prometheus stay as they are"
    shipped = [
        one for path in sorted((CHART / "rules").glob("*.yaml")) for one in yaml.safe_load(path.read_text())["groups"]
    ]
    assert [one["name"] for one in shipped] == [
        one["name"] for one in found["spec"]["groups"] if one["name"] != "sample.rules"
    ]


def test_dashboards_are_as_their_files(renders: dict[str, Rendered]) -> None:
    found = renders["observability"].one("ConfigMap", "-dashboard-sample")
    assert json.loads(found["data"]["sample.json"]) == {"title": "{{ x }}"}
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"]["grafana_folder"] == "Pipelines"


def test_notes_name_objects_that_are_there(renders: dict[str, Rendered]) -> None:
    for name in NAMES:
        found = renders[name]
        kinds = {"deploy": "Deployment", "svc": "Service", "job": "Job", "cronjob": "CronJob"}
        for word in found.notes.replace("--from=", "").split():
            kind, _, rest = word.partition("/")
            if kind in kinds and rest and not (rest.endswith("-toolbox") and "toolbox.enabled=true" in found.notes):
                assert rest in {one["metadata"]["name"] for one in found.of(kinds[kind])}, f"{name}: {word}"


def test_names_are_never_too_long(chart: Path) -> None:
    long = "a" * 53  # the longest name that Helm takes
    values = {"connectors": [{"name": "c" * 26, "connector": "filesystem", "settings": {"path": "/x"}}]}
    for one in render(chart, {**values, "migration": {"job": {"enabled": True}}}, name=long).objects:
        assert len(one["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in one["metadata"]["labels"].values())


def test_the_readme_s_values_work(chart: Path, tmp_path: Path) -> None:
    """Given the example of the README, then it renders, and hangs together like any other."""
    text = (CHART / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    found = render(chart, yaml.safe_load(example.replace("sha256:...", f"sha256:{'1' * 64}")))
    assert [why for check in CHECKS for why in check(found, tmp_path)] == []
    for line in re.findall(r"`vectide ([a-z][^`]*)`", text.partition("## Values")[0]):
        assert structure.unparsed(line.split()) == "", line
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (CHART / target).exists(), target


def test_files_are_named_by_what_is_in_them() -> None:
    names = {path.stem.lstrip("_") for path in CHART.rglob("*.*")}
    assert names.isdisjoint({"utils", "common", "helpers"})


def test_the_chart_is_of_this_version_of_vectide() -> None:
    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (described["version"], described["appVersion"]) == (project["version"], project["version"])


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_of_the_chart_is_fresh(page: str) -> None:
    assert (CHART / page).read_text() == PAGES[page](), "run `make docs`"


def test_every_value_that_stands_alone_is_documented() -> None:
    """Given values.yaml, then each key of the first two levels has its comment, or is one of a group that has."""
    from tests.deploy.generate import documented

    paths = {path for path, _ in documented()}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    scheduling = {
        "podLabels", "podAnnotations", "nodeSelector", "tolerations", "affinity", "priorityClassName",
        "runtimeClassName", "env", "volumes", "volumeMounts", "extraEgress", "resources", "labels", "annotations",
        "interval", "scrapeTimeout", "backoffLimit", "liveness", "readiness",
    }  # fmt: skip

    def missing(tree: dict[str, Any], prefix: str) -> Iterator[str]:
        for key, value in tree.items():
            path = f"{prefix}{key}"
            if path in paths or key in scheduling:
                continue
            if isinstance(value, dict) and value:
                yield from missing(value, f"{path}.")
            else:
                yield path

    assert list(missing(values, "")) == []
