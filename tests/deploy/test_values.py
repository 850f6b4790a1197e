"""Values that cannot be meant are refused: by the schema, by name, or because they cannot work together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helm_python import Chart
from helm_python.errors import HelmError

from connectors.extraction.reader import ExtractionLimits
from pipeline.config import Config
from tests.deploy.charts import render, values_of
from tests.deploy.generate import CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def refused(chart: Path, values: dict[str, Any]) -> str:
    with pytest.raises(HelmError) as caught:
        render(chart, values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "replicas"),
        ({"chunk": {"replica": 2}}, "replica"),
        ({"chunk": {"replicas": "two"}}, "replicas"),
        ({"embed": {"autoscaling": {"keda": {"minReplicas": 0}}}}, "minReplicas"),
        ({"embed": {"autoscaling": {"keda": {"trigger": "rabbitmq"}}}}, "trigger"),
        ({"embed": {"resources": {"limit": {}}}}, "limit"),
        ({"image": {"base": {"digest": "1234"}}}, "digest"),
        ({"image": {"base": {"repository": "vectide:latest"}}}, "repository"),
        ({"connectors": [{"name": "Docs", "connector": "filesystem"}]}, "name"),
        ({"connectors": [{"name": "docs"}]}, "connector"),
        ({"connectors": [{"name": "docs", "connector": "filesystem", "path": "/x"}]}, "path"),
        ({"connectors": [{"name": "docs", "connector": "filesystem", "replicas": 2}]}, "replicas"),
        ({"config": {"pipeline": {"partition": 3}}}, "partition"),
        ({"config": {"pipeline": {"partitions": 0}}}, "partitions"),
        ({"config": {"model": {"dtype": "float8"}}}, "dtype"),
        ({"config": {"broker": "embedded"}}, "broker"),
        ({"config": {"http": {"port": 1}}}, "http"),
        ({"config": {"sources": {}}}, "sources"),
        ({"config": {"kafka": {"sasl_password": "x"}}}, "sasl_password"),
        ({"config": {"kafka": {"sasl_password_file": "/x"}}}, "sasl_password_file"),
        ({"config": {"kafka": {"ssl_key_password": "x"}}}, "ssl_key_password"),
        ({"config": {"qdrant": {"api_key": "x"}}}, "api_key"),
        ({"config": {"receipt_key": "x"}}, "receipt_key"),
        ({"secrets": {"httpToken": {"value": "x"}}}, "value"),
        ({"roles": {"chunk": {"qdrantApiKey": {"existingSecret": "x"}}}}, "qdrantApiKey"),
        ({"migration": {"ttlSecondsAfterFinished": 60}}, "ttlSecondsAfterFinished"),
        ({"canary": {"waitSeconds": 4000}}, "waitSeconds"),
        ({"weights": {"mode": "download"}}, "mode"),
    ],
)
def test_what_the_schema_does_not_know_is_refused_by_name(chart: Path, values: dict[str, Any], said: str) -> None:
    assert said in refused(chart, values)


def keda(**more: Any) -> dict[str, Any]:
    return {"keda": {"enabled": True, "serverAddress": "http://p:9090", **more}}


SASL = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"chunk": {"autoscaling": {"hpa": {"enabled": True}, **keda()}}},
            "chunk.autoscaling: hpa and keda are both enabled",
        ),
        ({"chunk": {"replicas": 9}}, "chunk: 9 replicas, and config.pipeline.partitions = 8"),
        (
            {"embed": {"replicas": 3}, "config": {"pipeline": {"partitions": 2}}},
            "embed: 3 replicas, and config.pipeline.partitions = 2",
        ),
        ({"embed": {"autoscaling": keda(maxReplicas=9)}}, "embed: 9 replicas"),
        ({"chunk": {"autoscaling": {"hpa": {"enabled": True, "maxReplicas": 9}}}}, "chunk: 9 replicas"),
        ({"embed": {"autoscaling": keda(minReplicas=5)}}, "minReplicas 5 is over maxReplicas 4"),
        (
            {"search": {"autoscaling": {"hpa": {"enabled": True, "maxReplicas": 1}}}},
            "search.autoscaling.hpa: minReplicas 2 is over maxReplicas 1",
        ),
        ({"embed": {"autoscaling": keda(trigger="kafka")}}, "needs generations"),
        ({"embed": {"autoscaling": keda(serverAddress="")}}, "needs serverAddress"),
        ({"config": {"kafka": {"options": {"group_instance_id": "a"}}}}, "static membership"),
        ({"secrets": {"httpToken": {"existingSecret": ""}}}, "secrets.httpToken.existingSecret"),
        ({"config": {"kafka": {"security_protocol": "SASL_SSL"}}}, "set config.kafka.sasl_mechanism"),
        ({"config": {"kafka": {**SASL, "sasl_username": "u"}}}, "role chunk has no password"),
        (
            {
                "config": {"kafka": SASL},
                "secrets": {"kafkaPassword": {"existingSecret": "s"}},
                "roles": {"chunk": {"kafkaUsername": "c"}},
            },
            "role connector has no username",
        ),
        ({"connectors": [{"name": "a", "connector": "filesystem"}] * 2}, '"a" is there twice'),
        ({"connectors": [{"name": "canary", "connector": "filesystem"}]}, "the canary's own source"),
        (
            {"connectors": [{"name": "db", "connector": "postgres", "settings": {"db_password": "x"}}]},
            "set VECTIDE_SOURCES__DB__DB_PASSWORD from a Secret",
        ),
        ({"config": {"kafka": {"options": {"sasl_plain_password": "x"}}}}, "config.kafka.options.sasl_plain_password"),
        ({"weights": {"mode": "init"}}, "weights.init.image"),
        ({"weights": {"mode": "claim"}}, "weights.claim.existingClaim"),
        ({"weights": {"mode": "image"}}, "weights.image.reference"),
        ({"weights": {"mode": "claim", "claim": {"existingClaim": "w"}}}, "set config.model.weights_sha256"),
    ],
)
def test_what_cannot_work_together_is_refused_and_says_what_to_do(
    chart: Path, values: dict[str, Any], said: str
) -> None:
    assert said in refused(chart, values)


def source(connector: str = "filesystem", **more: Any) -> dict[str, Any]:
    """The values of one connector, ``a``."""
    return {"connectors": [{"name": "a", "connector": connector, **more}]}


@pytest.mark.parametrize(
    ("settings", "path", "variable"),
    [
        ({"url": "postgres://vectide:s3cret@db/shop"}, "url", "URL"),
        ({"url": "postgres://vectide:s3/cret@db/shop"}, "url", "URL"),
        ({"url": "host=db user=vectide password=s3cret"}, "url", "URL"),
        ({"url": "host=db user=vectide PassWord = 's3cret'"}, "url", "URL"),
        ({"url": "https://db/?api_key=s3cret"}, "url", "URL"),
        ({"repository": "https://s3cret@git.example.com/a.git"}, "repository", "REPOSITORY"),
        ({"repository": "HTTPS://vectide:s3cret@git.example.com/a.git"}, "repository", "REPOSITORY"),
        ({"secret_access_key": "s3cret"}, "secret_access_key", "SECRET_ACCESS_KEY"),
        ({"password": 4711}, "password", "PASSWORD"),
        ({"login": {"api_key": "s3cret"}}, "login.api_key", "LOGIN__API_KEY"),
        ({"hosts": [{"port": 1}, {"password": "s3cret"}]}, "hosts[1].password", "HOSTS"),
        ({"login": {"urls": ["x", "amqp://a:s3cret@b"]}}, "login.urls[1]", "LOGIN__URLS"),
    ],
)
def test_a_secret_in_a_connector_s_settings_is_refused_wherever_it_is(
    chart: Path, settings: dict[str, Any], path: str, variable: str
) -> None:
    """Given it, then the message names the place and the variable, and not the secret."""
    said = refused(chart, source("filesystem", settings=settings))
    assert f"connectors.a.settings.{path} " in said
    assert f"set VECTIDE_SOURCES__A__{variable} from a Secret" in said
    assert "s3cret" not in said


def test_what_only_looks_like_a_secret_is_none(chart: Path) -> None:
    settings = {
        "url": "postgres://vectide@db:5432/shop?sslmode=verify-full",
        "libpq": "host=db user=vectide sslmode=verify-full passfile=/run/secrets/x",
        "password_file": "/run/secrets/postgres",
        "secret_access_key_file": "/run/secrets/s3",
        "access_key_id": "AKIA",
        "repository": "ssh://git@git.example.com:22/a.git",
        "other": "git@git.example.com:a.git",
        "uri": "https://handbook.example.org:8443/{path}?token={token}",
        "password": "",
        "token": None,
        "tokens": ["a", 1, True],
    }
    render(chart, source("filesystem", settings=settings))


@pytest.mark.parametrize(
    ("memory", "extraction", "fits"),
    [
        ("1Gi", {}, False),
        ("1535Mi", {}, False),
        ("1536Mi", {}, True),
        ("1.5Gi", {}, True),
        ("1610612736", {}, True),
        (1610612735, {}, False),
        (1610612736, {}, True),
        ("1610612735999m", {}, False),
        ("1.61e9", {}, False),
        ("2e9", {}, True),
        ("1572864Ki", {}, True),
        ("1G", {}, False),
        ("2G", {}, True),
        ("2Gi", {"memory_bytes": 2 * 2**30}, False),
        ("2560Mi", {"memory_bytes": 2 * 2**30}, True),
        ("768Mi", {"memory_bytes": 2**28}, True),
        ("767Mi", {"memory_bytes": 2**28}, False),
    ],
)
def test_a_connector_s_reader_ends_before_its_pod_does(
    chart: Path, memory: str | int, extraction: dict[str, int], fits: bool
) -> None:
    values = source(settings={"extraction": extraction}, resources={"limits": {"memory": memory}})
    if fits:
        render(chart, values)
    else:
        assert "connectors.a: resources.limits.memory" in refused(chart, values)


def test_memory_is_held_against_the_reader_s_own_default_of_connectors_that_have_one(chart: Path) -> None:
    little = {"limits": {"memory": "512Mi"}}
    least = ExtractionLimits().memory_bytes // 2**20 + 512
    for connector in ("filesystem", "git", "s3", "http", "web"):
        values = source(connector, resources=little, extraEgress=[{}])
        assert f"set {least}Mi" in refused(chart, values)
    assert f"set {least}Mi" in refused(chart, {**source(), "connectorDefaults": {"resources": little}})
    render(chart, source("postgres", resources=little, extraEgress=[{}]))


def test_a_connector_that_is_pushed_to_needs_tokens_and_a_port_of_its_own(chart: Path) -> None:
    tokens = {"tokens_file": "/run/tokens/tokens.toml"}
    assert "set settings.tokens_file" in refused(chart, source("http"))
    for port in (0, 8080):
        assert "a port of its own" in refused(chart, source("http", settings={**tokens, "port": port}))
    render(chart, source("http", settings=tokens))


def test_a_connector_that_its_policy_cuts_off_from_its_source_is_refused(chart: Path) -> None:
    egress = [{"ports": [{"port": 5432, "protocol": "TCP"}]}]
    remote = {"repository": "https://git.example.com/a.git"}
    for values in (source("postgres"), source("s3"), source("web"), source("imap"), source("git", settings=remote)):
        assert "connectors.a: its NetworkPolicy would cut it off from its source; set extraEgress" in refused(
            chart, values
        )
        render(chart, {**values, "networkPolicy": {"enabled": False}})
        render(chart, {**values, "connectorDefaults": {"extraEgress": egress}})
    render(chart, source("postgres", extraEgress=egress))
    for place in ("/srv/handbook.git", "file:///srv/handbook.git"):
        render(chart, source("git", settings={"repository": place}))


def test_a_claim_is_of_one_connector(chart: Path) -> None:
    state = {"existingClaim": "c"}
    assert "connectorDefaults.state.existingClaim" in refused(chart, {"connectorDefaults": {"state": state}})
    two = [{"name": name, "connector": "filesystem", "state": state} for name in ("a", "b")]
    assert 'two keep their state in the claim "c"' in refused(chart, {"connectors": two})
    render(chart, {"connectors": [two[0], {**two[1], "state": {"existingClaim": "d"}}]})


def test_limits_are_not_drawn_too_close(chart: Path) -> None:
    """Given as many pods as partitions, any number of searches, and weights that nobody wants held, it renders."""
    render(chart, {"chunk": {"replicas": 8}, "embed": {"autoscaling": keda(maxReplicas=8)}, "search": {"replicas": 20}})
    render(chart, {"weights": {"mode": "claim", "claim": {"existingClaim": "w"}, "verify": False}})
    render(chart, {"config": {"kafka": {"security_protocol": "SSL"}}})
    render(chart, {"config": {"kafka": {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}}})


def test_rules_and_dashboards_that_were_not_packaged_are_missed(chart: Path) -> None:
    for folder, value in (("rules", "prometheusRule"), ("dashboards", "dashboards")):
        kept = list((chart / folder).iterdir())
        away = chart.parent / f"{folder}-away"
        (chart / folder).rename(away)
        try:
            assert f"without {folder}/" in refused(chart, {value: {"enabled": True}})
        finally:
            away.rename(chart / folder)
        assert list((chart / folder).iterdir()) == kept


def _open(tree: Any, path: str) -> Iterator[str]:
    """Where a table of the schema takes what it does not name."""
    if isinstance(tree, dict):
        if "properties" in tree and tree.get("additionalProperties") is not False:
            yield path
        for key, one in tree.items():
            yield from _open(one, f"{path}.{key}")


def test_the_schema_is_strict_everywhere() -> None:
    assert list(_open(SCHEMA, "")) == []


def test_the_schema_and_the_values_know_the_same_names(chart: Path) -> None:
    with Chart.load(chart) as loaded:
        values = loaded.values

    def names(tree: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for key, one in tree["properties"].items():
            one = SCHEMA["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            found |= names(one, f"{prefix}{key}.") if "properties" in one and key != "config" else {f"{prefix}{key}"}
        return found

    def has(path: str) -> bool:
        tree: Any = values
        for key in path.split("."):
            if not isinstance(tree, dict) or key not in tree:
                return False
            tree = tree[key]
        return True

    # What Kubernetes knows beside, and what Helm gives to every chart.
    beside = ("global", "resources.requests", "resources.limits", "resources.claims", "initialDelaySeconds")
    assert {path for path in names(SCHEMA) if not has(path) and not path.endswith(beside)} == set()


def test_the_configuration_s_defaults_are_the_models_own(chart: Path) -> None:
    """Given a key that values.yaml only repeats, then it says what vectide would do anyhow."""
    with Chart.load(chart) as loaded:
        config = loaded.values["config"]
    own = Config().model_dump()
    differing = {
        f"{section}.{key}"
        for section, table in config.items()
        for key, value in table.items()
        if own[section][key] != value
    }
    assert differing == {"kafka.bootstrap_servers", "qdrant.url"}


def test_every_file_of_the_matrix_is_used() -> None:
    for path in (CHART / "ci").iterdir():
        assert values_of(path.name.removesuffix("-values.yaml"))
