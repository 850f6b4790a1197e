"""What holds of every render, each as a function that says what does not: tests run them, and mutants of renders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from connectors.registry import open_source
from pipeline.cli.main import cli
from pipeline.config import Config, load
from pipeline.errors import VectideError
from pipeline.naming import Names
from tests.deploy.charts import Rendered

SECRETS = "/run/secrets/vectide"

Check = Callable[[Rendered, Path], Iterator[str]]


def selectors_match(found: Rendered, folder: Path) -> Iterator[str]:
    """Each selector finds pods, each Deployment only its own, and every pod has a NetworkPolicy."""
    pods = {owner: labels for owner, labels, _ in found.pods()}
    for one in found.objects:
        name, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        match one["kind"]:
            case "Deployment":
                chosen = [owner for owner, labels in pods.items() if _matches(spec["selector"], labels)]
                if chosen != [name]:
                    yield f"{name} selects {chosen}"
            case "Service" | "PodDisruptionBudget" | "PodMonitor":
                selector = {"matchLabels": spec["selector"]} if one["kind"] == "Service" else spec["selector"]
                if not any(_matches(selector, labels) for labels in pods.values()):
                    yield f"{name} selects no pod"
            case "HorizontalPodAutoscaler" | "ScaledObject":
                target = spec["scaleTargetRef"]
                if f"{target['kind']} {target['name']}" not in pods:
                    yield f"{name} scales {target['name']}, which is not there"
    policies = found.of("NetworkPolicy")
    for owner, labels in pods.items():
        if policies and not any(_matches(one["spec"]["podSelector"], labels) for one in policies):
            yield f"{owner} has no NetworkPolicy"
    for spread, labels in ((spec.get("topologySpreadConstraints", []), labels) for _, labels, spec in found.pods()):
        for one in spread:
            if not _matches(one["labelSelector"], labels):
                yield f"pods with {labels} are spread by {one['labelSelector']}"


def ports_exist(found: Rendered, folder: Path) -> Iterator[str]:
    """Probes, Services, PodMonitors and NetworkPolicies name ports that the pods have, and vectide listens on."""
    ports: dict[str, tuple[dict[str, Any], dict[str, int]]] = {}
    for owner, labels, spec in found.pods():
        for container in spec["containers"]:
            named = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            ports[owner] = labels, named
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                get = container.get(probe, {}).get("httpGet")
                if get is not None and get["port"] not in named:
                    yield f"{owner}: {probe} asks port {get['port']}, there are {sorted(named)}"
            config = _configuration(found, owner, folder, container, {"VECTIDE_HTTP__PORT": "1"})
            arguments = container.get("args", [])
            pushed = [config.sources[arguments[-1]].settings["port"]] if arguments[:2] == ["connect", "http"] else []
            listens = {config.http.port, *pushed}
            if named and set(named.values()) != listens:
                yield f"{owner}: the container says {named}, vectide listens on {sorted(listens)}"
    for one in found.of("Service", "PodMonitor"):
        spec = one["spec"]
        selector = {"matchLabels": spec["selector"]} if one["kind"] == "Service" else spec["selector"]
        wanted = [
            port.get("targetPort", port.get("port")) for port in spec.get("ports", spec.get("podMetricsEndpoints"))
        ]
        for owner, (labels, named) in ports.items():
            if _matches(selector, labels) and not set(wanted) <= set(named):
                yield f"{one['kind']} {one['metadata']['name']} wants {wanted} of {owner}, which has {sorted(named)}"
    for one in found.of("NetworkPolicy"):
        let_in = {port["port"] for rule in one["spec"].get("ingress", []) for port in rule["ports"]}
        for owner, (labels, named) in ports.items():
            if _matches(one["spec"]["podSelector"], labels) and let_in != set(named.values()):
                yield f"NetworkPolicy {one['metadata']['name']} lets {let_in} in to {owner}, which has {named}"


def mounts_exist(found: Rendered, folder: Path) -> Iterator[str]:
    """Each mount has a volume and each volume a mount, ConfigMaps are there, and a hook has what it needs by then."""
    maps = {one["metadata"]["name"]: one for one in found.of("ConfigMap")}
    accounts = {one["metadata"]["name"] for one in found.of("ServiceAccount")}
    by_name = {f"{one['kind']} {one['metadata']['name']}": one for one in found.objects}
    for owner, _, spec in found.pods():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = [mount for container in _containers(spec) for mount in container["volumeMounts"]]
        if {mount["name"] for mount in mounts} != set(volumes):
            yield f"{owner} mounts {sorted({mount['name'] for mount in mounts})} of {sorted(volumes)}"
        for container in _containers(spec):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            if len(paths) != len(set(paths)):
                yield f"{owner}: two mounts at one path: {sorted(paths)}"
            if "/tmp" not in paths:
                yield f"{owner}: {container['name']} has nowhere to write"
        hook = _hook(by_name[owner])
        for volume in volumes.values():
            name = volume.get("configMap", {}).get("name")
            if name is None or name in found.external:
                continue
            if name not in maps:
                yield f"{owner} mounts ConfigMap {name}, which is not there"
            elif hook.startswith("pre-") and not _hook(maps[name]).startswith("pre-"):
                yield f"{owner} is a hook, and ConfigMap {name} is not there yet"
            elif hook.startswith("pre-") and not _weight(maps[name]) < _weight(by_name[owner]):
                yield f"{owner} comes before ConfigMap {name}"
        account = spec["serviceAccountName"]
        if hook.startswith("pre-") and account in accounts:
            yield f"{owner} is a hook, and ServiceAccount {account} is not there yet"


def files_exist(found: Rendered, folder: Path) -> Iterator[str]:
    """Every file that the environment names is mounted into that container."""
    for owner, _, spec in found.pods():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in _containers(spec):
            there = set()
            for mount in container["volumeMounts"]:
                volume = volumes.get(mount["name"], {})
                if "configMap" in volume:
                    data = next((one["data"] for one in found.of("ConfigMap") if _named(one, volume["configMap"])), {})
                    there |= {f"{mount['mountPath']}/{key}" for key in data}
                for source in volume.get("projected", {}).get("sources", []):
                    there |= {f"{mount['mountPath']}/{item['path']}" for item in source["secret"]["items"]}
            for one in container.get("env", []):
                if str(one.get("value", "")).startswith(("/etc/vectide/", SECRETS)) and one["value"] not in there:
                    yield f"{owner}: {container['name']} reads {one['value']} ({one['name']}), which is not mounted"


def secrets_are_referred_to(found: Rendered, folder: Path) -> Iterator[str]:
    """No secret is in a manifest or in an environment, and a role gets only what it needs."""
    for one in found.of("Secret"):
        yield f"the chart makes Secret {one['metadata']['name']}"
    for owner, labels, spec in found.pods():
        role = labels["app.kubernetes.io/component"]
        for container in _containers(spec):
            for one in container.get("env", []):
                if "secretKeyRef" in one.get("valueFrom", {}):
                    yield f"{owner}: {one['name']} is a secret in the environment"
                if "value" in one and any(word in one["name"] for word in ("PASSWORD", "TOKEN", "KEY")):
                    path = one["value"].startswith(f"{SECRETS}/") and one["name"].endswith(("_FILE", "SSL_KEYFILE"))
                    if not path and one["name"] != "TOKENIZERS_PARALLELISM":
                        yield f"{owner}: {one['name']} has a value"
        names = {
            item["path"]
            for volume in spec["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            for item in source["secret"]["items"]
        }
        allowed = {"kafka-password", "kafka-ca.crt", "kafka-tls.crt", "kafka-tls.key", "kafka-key-password"}
        allowed |= {"http-token"} if role in ("search", "canary") else set()
        alone = role == "canary" and not found.of("Service")
        if role in ("embed", "search", "migration", "toolbox") or alone:
            allowed |= {"qdrant-api-key", "qdrant-ca.crt"}
        allowed |= {"receipt-key"} if role == "toolbox" else set()
        if names - allowed:
            yield f"{owner} has {sorted(names - allowed)}, which {role} does not need"


def egress_is_of_the_role(found: Rendered, folder: Path) -> Iterator[str]:
    """Whoever works with the store can reach it, and nobody else can; all reach DNS and Kafka."""
    for policy in found.of("NetworkPolicy"):
        for owner, labels, _ in found.pods():
            if not _matches(policy["spec"]["podSelector"], labels):
                continue
            config, role = _configuration(found, owner, folder), labels["app.kubernetes.io/component"]
            ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
            kafka = {int(address.rpartition(":")[2]) for address in config.kafka.bootstrap_servers.split(",")}
            store = {int(config.qdrant.url.rpartition(":")[2])} | (
                {config.qdrant.grpc_port} if config.qdrant.grpc else set()
            )
            if not kafka | {53} <= ports:
                yield f"{owner} cannot reach {sorted(kafka | {53} - ports)}"
            alone = role == "canary" and not found.of("Service")
            if role in ("embed", "search", "migration", "toolbox") or alone:
                if not store <= ports:
                    yield f"{owner} cannot reach the store at {sorted(store)}"
            elif role != "connector" and store & ports:
                yield f"{owner} can reach the store at {sorted(store & ports)}"
            if role == "canary" and not alone and config.http.port not in ports:
                yield f"{owner} cannot reach the search service"


def arguments_parse(found: Rendered, folder: Path) -> Iterator[str]:
    """vectide knows every command, argument and option."""
    for owner, _, spec in found.pods():
        for container in _containers(spec):
            if container["command"] == ["vectide"] and (wrong := unparsed(container["args"])):
                yield f"{owner}: vectide {' '.join(container['args'])}: {wrong}"


def unparsed(arguments: list[str]) -> str:
    """What is wrong with a command line; empty if nothing is. Nothing runs."""
    command: click.Command = cli
    context, rest = click.Context(cli, info_name="vectide"), list(arguments)
    try:
        while isinstance(command, click.Group):
            _, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command = found
            context = click.Context(command, parent=context, info_name=command.name)
        command.make_context(command.name or "", rest, parent=context.parent)
    except click.ClickException as error:
        return error.format_message()
    return ""


def configuration_loads(found: Rendered, folder: Path) -> Iterator[str]:
    """With the file and the environment of each container the real models and connectors accept it."""
    for owner, labels, spec in found.pods():
        if spec.get("enableServiceLinks", True):
            yield f"{owner}: addresses of Services named vectide would be taken for settings"
        for container in _containers(spec):
            if container["command"] != ["vectide"]:
                continue
            try:
                config = _configuration(found, owner, folder, container)
                Names(config.pipeline.prefix, config.pipeline.name)
                for id, source in config.sources.items():
                    open_source(id, source, config.pipeline.document_limit_bytes).close()
            except VectideError as error:
                yield f"{owner}: {error}"
                continue
            if (config.broker, config.store) != ("kafka", "qdrant"):
                yield f"{owner}: broker {config.broker}, store {config.store}"
            source = labels.get("vectide.io/source")
            if source is not None and source not in config.sources:
                yield f"{owner}: there is no source {source}"
            if labels["app.kubernetes.io/component"] == "search" and config.http.token is None:
                yield f"{owner}: it would be refused off loopback without a token"


def time_to_end(found: Rendered, folder: Path) -> Iterator[str]:
    """A pod gets longer to end than vectide takes: the drain budget, 15 seconds for the last commit, and 15 more."""
    for owner, _, spec in found.pods():
        drains = _configuration(found, owner, folder).work.drain_seconds
        if spec["terminationGracePeriodSeconds"] < drains + 30:
            yield f"{owner} is killed after {spec['terminationGracePeriodSeconds']} s, and may drain for {drains} s"


def one_writer(found: Rendered, folder: Path) -> Iterator[str]:
    """A connector has one pod at any time; what is autoscaled has no count of its own; GPUs are not surged."""
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in found.of("HorizontalPodAutoscaler", "ScaledObject")}
    for one in found.of("Deployment"):
        name, spec = one["metadata"]["name"], one["spec"]
        component = spec["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        if component == "connector" and (spec.get("replicas"), spec["strategy"]["type"]) != (1, "Recreate"):
            yield f"{name}: {spec.get('replicas')} replicas, {spec['strategy']['type']}"
        if (name in scaled) == ("replicas" in spec):
            yield f"{name}: replicas {spec.get('replicas')}, autoscaled {name in scaled}"
        limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
        if "nvidia.com/gpu" in limits and spec["strategy"]["rollingUpdate"]["maxSurge"] != 0:
            yield f"{name}: a rollout needs one GPU more than there may be"


CHECKS: tuple[Check, ...] = (
    selectors_match,
    ports_exist,
    mounts_exist,
    files_exist,
    secrets_are_referred_to,
    egress_is_of_the_role,
    arguments_parse,
    configuration_loads,
    time_to_end,
    one_writer,
)


def _configuration(
    found: Rendered,
    owner: str,
    folder: Path,
    container: Mapping[str, Any] | None = None,
    image: Mapping[str, str] | None = None,
) -> Config:
    """As a container would load it: its file, its environment over the image's, and files of secrets with something
    in them.
    """
    spec = next(spec for name, _, spec in found.pods() if name == owner)
    chosen = container or spec["containers"][0]
    (name,) = [volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "config"]
    (text,) = [one["data"]["vectide.toml"] for one in found.of("ConfigMap") if one["metadata"]["name"] == name]
    (folder / "vectide.toml").write_text(text)
    (folder / "secret").write_text("hunter2")
    environment = dict(image or {})
    for one in chosen.get("env", []):
        value = one.get("value", "2")  # of a resource: cores
        environment[one["name"]] = str(folder / "secret") if value.startswith(SECRETS) else value
    return load(folder / "vectide.toml", environment)


def _containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    within = all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))
    return exact and within


def _named(one: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    return bool(one["metadata"]["name"] == reference["name"])


def _hook(one: Mapping[str, Any]) -> str:
    return str(one["metadata"].get("annotations", {}).get("helm.sh/hook", ""))


def _weight(one: Mapping[str, Any]) -> int:
    return int(one["metadata"].get("annotations", {}).get("helm.sh/hook-weight", "0"))
