"""What docker/compose.yaml says of the project, of the images and of itself, held against them."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.cli.process import _END_SECONDS
from pipeline.config import Config, load
from pipeline.errors import ConfigError
from pipeline.observe.http import _PROBES
from tests.deploy import dockerfile
from tests.deploy.project import Project, misused, seconds

FILE = "docker/compose.yaml"
GPU = "docker/compose.gpu.yaml"
CONFIGURATION = "docker/vectide.toml"
PROMETHEUS = "docker/prometheus/prometheus.yml"
README = "docker/README.md"

#: Commands that embed, in their own process: a query, a chunk, the questions of a gate.
EMBEDS = (["work", "embed"], ["serve"], ["search"], ["migrate", "run"], ["migrate", "plan"], ["migrate", "gate"])
#: Commands that work with the store, and need its key.
STORES = (*EMBEDS, ["status"])
LONG_LIVED = (["connect"], ["work"], ["serve"])
#: The chart's folders, where dashboards and rules are kept.
CHART = "helm"

_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")


@cache
def _parsed(text: str) -> Any:
    # libyaml's where it is there: the same document, in a tenth of the time.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def parsed(project: Project, path: str) -> dict[str, Any]:
    """A YAML file, merge keys resolved, variables as they stand there."""
    made: dict[str, Any] = _parsed(project.text(path))
    return made


def filled(value: Any) -> str:
    """A value with the defaults of its variables."""
    return _VARIABLE.sub(lambda found: found[2] or "", str(value)).replace("$$", "$")


def ours(project: Project) -> dict[str, dict[str, Any]]:
    """The services that are built from our Dockerfile."""
    return {name: one for name, one in parsed(project, FILE)["services"].items() if "build" in one}


def command(project: Project, service: Mapping[str, Any]) -> list[str]:
    """The program and all its arguments."""
    made = dockerfile.image(project, service["build"]["target"])
    entry = service.get("entrypoint") or made.command[:1]
    return [*entry, *(service.get("command") or ([] if "entrypoint" in service else made.command[1:]))]


def environment(project: Project, service: Mapping[str, Any]) -> dict[str, str]:
    """The image's and over it the service's."""
    own = {name: filled(value) for name, value in (service.get("environment") or {}).items()}
    return {**dockerfile.image(project, service["build"]["target"]).environment, **own}


def problems(project: Project) -> Iterator[str]:
    """Everything that is wrong, in words."""
    services = parsed(project, FILE)["services"]
    for name, one in ours(project).items():
        if one["build"]["target"] not in dockerfile.TARGETS:
            yield f"{name}: there is no target {one['build']['target']}"
            return
    for name, one in services.items():
        yield from _image(name, one)
        yield from _references(project, name, one)
        yield from _dependencies(project, name, one)
        yield from _ports(name, one)
        yield from _life(project, name, one)
    for name, one in ours(project).items():
        yield from _built(project, name, one)
        yield from _run(project, name, one)
        yield from _hardened(name, one)
    yield from _unused(project)
    yield from _prometheus(project)
    yield from _grafana(project)
    yield from _gpu(project)
    yield from _readme(project)


def _image(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", filled(service["image"])):
        yield f"{name}: image {service['image']} is not one version"
    if not _VARIABLE.fullmatch(service["image"]):
        yield f"{name}: nobody can give the image {service['image']} with its digest"


def _mounts(service: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Source and whether it is read-only, by the path inside."""
    found = {}
    for one in service.get("volumes", ()):
        if isinstance(one, dict):
            found[one["target"]] = (filled(one["source"]), bool(one.get("read_only")))
        else:
            source, target, *mode = re.sub(r"\$\{.*?\}", lambda text: filled(text[0]), one).split(":")
            found[target] = (source, mode == ["ro"])
    return found


def _references(project: Project, name: str, service: Mapping[str, Any]) -> Iterator[str]:
    whole = parsed(project, FILE)
    for kind in ("secrets", "configs"):
        for one in service.get(kind, ()):
            source = one["source"] if isinstance(one, dict) else one
            if source not in whole[kind]:
                yield f"{name}: there is no {kind[:-1]} {source}"
            elif kind == "configs" and not project.exists(path := f"docker/{whole[kind][source]['file']}"):
                yield f"{name}: config {source}: there is no {path}"
    for target, (source, read_only) in _mounts(service).items():
        if "/" not in source:
            if source not in whole["volumes"]:
                yield f"{name}: there is no volume {source}"
            continue
        path = str((Path("/docker") / source).resolve()).lstrip("/")
        # The chart is made elsewhere; where there is one, it has these folders.
        absent = project.exists(CHART) if path.startswith(f"{CHART}/") else True
        if absent and not project.exists(path):
            yield f"{name}: there is no {path}"
        if not read_only:
            yield f"{name}: {source} of this machine can be written at {target}"
    files = {value for value in (service.get("environment") or {}).values() if str(value).startswith("/run/secrets/")}
    for file in files:
        if Path(file).name not in service.get("secrets", ()):
            yield f"{name}: {file} is not among its secrets"


def _dependencies(project: Project, name: str, service: Mapping[str, Any]) -> Iterator[str]:
    services = parsed(project, FILE)["services"]
    for other, how in (service.get("depends_on") or {}).items():
        if other not in services:
            yield f"{name}: waits for {other}, and there is no such service"
            continue
        check = services[other].get("healthcheck") or ("build" in services[other] and {"test": "the image's"}) or {}
        if how["condition"] == "service_healthy" and ("test" not in check or check.get("disable")):
            yield f"{name}: waits for the health of {other}, which has no healthcheck"
        if how["condition"] == "service_completed_successfully" and services[other].get("restart") != "no":
            yield f"{name}: waits for the end of {other}, which is started again"


def _ports(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    for port in service.get("ports", ()):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", filled(port)):
            yield f"{name}: port {port} is open to other machines"


def _life(project: Project, name: str, service: Mapping[str, Any]) -> Iterator[str]:
    check = service.get("healthcheck") or {}
    if service.get("restart") == "no":
        if "build" not in service:
            yield f"{name}: is not started again"
        elif not check.get("disable"):
            yield f"{name}: ends, and would be looked at by the image's healthcheck"
    elif "build" not in service and "test" not in check:
        yield f"{name}: has no healthcheck"
    elif check.get("disable"):
        yield f"{name}: runs for ever without a healthcheck"


def _starts(arguments: list[str], commands: Any) -> bool:
    return any(arguments[: len(one)] == one for one in commands)


def _built(project: Project, name: str, service: Mapping[str, Any]) -> Iterator[str]:
    build = service["build"]
    known = dockerfile.arguments(project)
    for argument, value in build["args"].items():
        if argument not in known:
            yield f"{name}: the Dockerfile has no argument {argument}"
        elif argument == "PYTHON" and filled(value) != known["PYTHON"]:
            yield f"{name}: PYTHON is another than the Dockerfile's"
        elif argument == "WEIGHTS" and not set(filled(value).split()) <= project.weights:
            yield f"{name}: WEIGHTS are not packages of the group models"
        elif argument == "TORCH_INDEX_URL" and filled(value):
            yield f"{name}: TORCH_INDEX_URL has a default"
    if not project.exists(str((Path("/docker") / build["context"] / build["dockerfile"]).resolve()).lstrip("/")):
        yield f"{name}: there is no {build['dockerfile']} in {build['context']}"
    version = project.metadata["project"]["version"]
    suffix = {"base": "", "embed": "-embed"}[build["target"]]
    if filled(service["image"]) != f"vectide:{version}{suffix}":
        yield f"{name}: target {build['target']} of this version is not image {filled(service['image'])}"


def configuration(project: Project, service: Mapping[str, Any]) -> Config:
    """The configuration as the service's process would read it.

    Raises:
        ConfigError: it would not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = environment(project, service)
        for variable, value in own.items():
            if value.startswith("/run/secrets/"):
                secret = Path(folder) / Path(value).name
                secret.write_text("hunter2")
                own[variable] = str(secret)
        written = Path(folder) / "vectide.toml"
        written.write_text(project.text(CONFIGURATION))
        return load(written, own)


def _run(project: Project, name: str, service: Mapping[str, Any]) -> Iterator[str]:
    program, *given = command(project, service)
    if program not in project.scripts:
        yield f"{name}: {program} is no program of the project"
    if why := misused(given):
        yield f"{name}: {shlex.join(given)}: {why}"
    target = service["build"]["target"]
    if _starts(given, EMBEDS) and dockerfile.TARGETS[target] != "embed":
        yield f"{name}: {shlex.join(given)} needs torch, which {target} has not"
    try:
        config = configuration(project, service)
    except ConfigError as error:
        yield f"{name}: {error}"
        return
    own = environment(project, service)
    if own.get("VECTIDE_CONFIG") not in {one["target"] for one in service["configs"]}:
        yield f"{name}: VECTIDE_CONFIG is not where the configuration is mounted"
    if (config.qdrant.api_key is not None) != _starts(given, STORES):
        yield f"{name}: {shlex.join(given)} {'has a' if config.qdrant.api_key else 'has no'} key for Qdrant"
    if (config.http.token is not None) != (given == ["serve"]):
        yield f"{name}: {shlex.join(given)} {'has a' if config.http.token else 'has no'} token"
    services = parsed(project, FILE)["services"]
    for address in (config.kafka.bootstrap_servers, config.qdrant.url.removeprefix("http://")):
        if address.partition(":")[0] not in services:
            yield f"{name}: {address} is no service"
    for target in _published(service):
        if target != config.http.port:
            yield f"{name}: publishes {target}, and listens on {config.http.port}"
    grace = seconds(filled(service["stop_grace_period"]))
    if grace < config.work.drain_seconds + _END_SECONDS:
        yield f"{name}: is killed after {grace:.0f} s, and drains for {config.work.drain_seconds + _END_SECONDS:.0f}"
    if config.model.threads is not None and str(config.model.threads) != filled(service.get("cpus")):
        yield f"{name}: torch has {config.model.threads} threads for {service.get('cpus')} CPUs"
    if given[:1] == ["connect"] and len(given) > 1:
        yield from _connector(name, service, given[1], config)
    # Any command, those that keep something too: `verify --full`, `forget --out`.
    if given[:1] == ["connect"] or "tools" in service.get("profiles", ()):
        yield from _state(name, service, config)


def _published(service: Mapping[str, Any]) -> list[int]:
    return [int(filled(one).rpartition(":")[2]) for one in service.get("ports", ())]


def _connector(name: str, service: Mapping[str, Any], kind: str, config: Config) -> Iterator[str]:
    mounts = _mounts(service)
    sources = {id: one for id, one in config.sources.items() if one.connector == kind}
    if not sources:
        yield f"{name}: no source has connector = {kind!r}"
    for id, source in sources.items():
        if source.settings.get("path") not in mounts:
            yield f"{name}: source {id}: nothing is mounted at {source.settings.get('path')}"


def _state(name: str, service: Mapping[str, Any], config: Config) -> Iterator[str]:
    if str(config.state) != dockerfile.STATE or _mounts(service).get(str(config.state), ("/", True))[1]:
        yield f"{name}: {config.state} is no volume that the image's user may write"


def _hardened(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"] or "/tmp" not in service.get("tmpfs", ()):
        yield f"{name}: may write to its image, or has capabilities"
    if service.get("security_opt") != ["no-new-privileges:true"]:
        yield f"{name}: may get new privileges"


def _unused(project: Project) -> Iterator[str]:
    whole = parsed(project, FILE)
    services = whole["services"].values()
    used = {
        "secrets": {one for service in services for one in service.get("secrets", ())},
        "configs": {one["source"] for service in services for one in service.get("configs", ())},
        "volumes": {source for service in services for source, _ in _mounts(service).values()},
    }
    for kind, names in used.items():
        for name in set(whole[kind]) - names:
            yield f"nobody uses {kind[:-1]} {name}"
    for name, one in whole["secrets"].items():
        if not one["file"].startswith("secrets/") or "docker/secrets/" not in project.text(".gitignore"):
            yield f"secret {name} may end in the repository"


def _prometheus(project: Project) -> Iterator[str]:
    services = parsed(project, FILE)["services"]
    settings = parsed(project, PROMETHEUS)
    mounts = _mounts(services["prometheus"])
    for pattern in settings["rule_files"]:
        if mounts.get(str(Path(pattern).parent), ("",))[0] != f"../{CHART}/rules":
            yield f"prometheus: nothing is mounted at {pattern}"
    scraped: set[str] = set()
    for job in settings["scrape_configs"]:
        if job.get("metrics_path", "/metrics") not in _PROBES:
            yield f"prometheus: {job['metrics_path']} is no route"
        for found in job.get("dns_sd_configs", ()):
            scraped |= set(found["names"])
            if str(found["port"]) != dockerfile.image(project, "base").last("EXPOSE"):
                yield f"prometheus: nobody listens on {found['port']}"
        hosts = [one.partition(":")[0] for group in job.get("static_configs", ()) for one in group["targets"]]
        for host in hosts:
            if host not in (*services, "127.0.0.1"):
                yield f"prometheus: {host} is no service"
        key = job.get("authorization", {}).get("credentials_file")
        if key is not None and Path(key).name not in services["prometheus"]["secrets"]:
            yield f"prometheus: {key} is not among its secrets"
    lasting = {name for name, one in ours(project).items() if _starts(command(project, one)[1:], LONG_LIVED)}
    if scraped != lasting:
        yield f"prometheus: scrapes {sorted(scraped)}, and there are {sorted(lasting)}"


def _grafana(project: Project) -> Iterator[str]:
    service = parsed(project, FILE)["services"]["grafana"]
    for one in parsed(project, "docker/grafana/datasources.yaml")["datasources"]:
        if one["url"] != "http://prometheus:9090":
            yield f"grafana: {one['url']} is not our Prometheus"
    for one in parsed(project, "docker/grafana/dashboards.yaml")["providers"]:
        path = one["options"]["path"]
        if _mounts(service).get(path, ("",))[0] != f"../{CHART}/dashboards":
            yield f"grafana: no dashboards are mounted at {path}"


def _gpu(project: Project) -> Iterator[str]:
    known = ours(project)
    for name, change in parsed(project, GPU)["services"].items():
        if name not in known:
            yield f"{GPU}: there is no service {name}"
            continue
        merged = {**known[name], "environment": {**known[name]["environment"], **change["environment"]}}
        try:
            configuration(project, merged)
        except ConfigError as error:
            yield f"{GPU}: {error}"


def _readme(project: Project) -> Iterator[str]:
    text, whole = project.text(README), parsed(project, FILE)
    given = {name for name, _ in _VARIABLE.findall(project.text(FILE))}
    for name in sorted(given):
        if f"`{name}`" not in text:
            yield f"README: does not tell of {name}"
    for name in set(re.findall(r"`([A-Z][A-Z_]*_(?:IMAGE|PORT|CPUS))`", text)) - given:
        yield f"README: nothing reads {name}"
    for name in set(re.findall(r"--build-arg (\w+)=", text)) - set(dockerfile.arguments(project)):
        yield f"README: the Dockerfile has no argument {name}"
    for name in set(re.findall(r"--target (\w+)", text)) - set(dockerfile.TARGETS):
        yield f"README: there is no target {name}"
    for line in re.findall(r"^docker compose run --rm (.+)$", text, re.MULTILINE):
        name, *rest = shlex.split(line.partition("   #")[0])
        service = whole["services"].get(name)
        if service is None:
            yield f"README: there is no service {name}"
        elif why := misused([*command(project, {**service, "command": rest})[1:]]):
            yield f"README: {line}: {why}"
    for name in set(re.findall(r"--scale (\w+)=", text)) - set(whole["services"]):
        yield f"README: there is no service {name}"
    made = set(re.search(r"for name in (.*?); do", text, re.DOTALL)[1].split())  # type: ignore[index]
    if made != set(whole["secrets"]):
        yield f"README: makes the secrets {sorted(made)}, and there are {sorted(whole['secrets'])}"
