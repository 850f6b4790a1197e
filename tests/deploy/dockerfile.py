"""What docker/Dockerfile and .dockerignore say of the project, held against the project."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from dockerfile_parse import DockerfileParser
from packaging.specifiers import SpecifierSet

from pipeline.config import load
from pipeline.errors import ConfigError
from tests.deploy.project import Project, misused

FILE = "docker/Dockerfile"
IGNORED = ".dockerignore"
#: Targets that are built by name, and the extra of each.
TARGETS = {"base": None, "embed": "embed"}
USER = "10001"
STATE = "/var/lib/vectide"

#: What must never be in an image, whether it is there today or not.
SECRETS = (
    "docker/secrets/http_token", "docker/.env", ".env", ".git/config", ".venv/bin/python", ".vectide/log",
    "vectide.toml", "tests/conftest.py", "pipeline/__pycache__/config.cpython-311.pyc", "helm/values.yaml",
)  # fmt: skip


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        """The values of all its instructions of a kind."""
        return [value for kind, value in self.instructions if kind == instruction]


@dataclass
class Image:
    """A target: its own instructions after those of its parents."""

    stages: list[Stage]

    def of(self, instruction: str) -> list[str]:
        """The values of all instructions of a kind, in order."""
        return [value for stage in self.stages for value in stage.of(instruction)]

    def last(self, instruction: str) -> str:
        """The value that counts; empty if there is none."""
        return (self.of(instruction) or [""])[-1]

    @property
    def environment(self) -> dict[str, str]:
        """ENV and its values, as they stand there."""
        return dict(pair.split("=", 1) for value in self.of("ENV") for pair in shlex.split(value))

    @property
    def command(self) -> list[str]:
        """What it runs without arguments."""
        return [*json.loads(self.last("ENTRYPOINT")), *json.loads(self.last("CMD"))]


@cache
def _stages(text: str) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for one in DockerfileParser(fileobj=io.BytesIO(text.encode())).structure:
        kind, value = one["instruction"], one["value"]
        if kind == "FROM":
            parent, _, name = value.partition(" AS ")
            current = stages[name] = Stage(name, parent)
        elif current is not None and kind != "COMMENT":
            current.instructions.append((kind, value))
    return stages


def image(project: Project, target: str) -> Image:
    """A target of the Dockerfile."""
    stages, chain, name = _stages(project.text(FILE)), [], target
    while name in stages:
        chain.insert(0, stages[name])
        name = stages[name].parent
    return Image(chain)


def arguments(project: Project) -> dict[str, str]:
    """Build arguments and their defaults."""
    found = re.findall(r'^ARG (\w+)(?:="?([^"\n]*)"?)?$', project.text(FILE), re.MULTILINE)
    return {name: next((value for one, value in found if one == name and value), "") for name, _ in found}


def problems(project: Project) -> Iterator[str]:
    """Everything that is wrong, in words."""
    stages = _stages(project.text(FILE))
    for target in TARGETS:
        if target not in stages:
            yield f"there is no target {target}"
            return
    yield from _python(project)
    yield from _copies(project, stages)
    yield from _layers(project, stages)
    yield from _locked(stages)
    yield from _argument_defaults(project)
    for target in TARGETS:
        yield from _target(project, target)
    yield from _installed(project, stages)


def _python(project: Project) -> Iterator[str]:
    given = arguments(project).get("PYTHON", "")
    found = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-\w+(@sha256:[0-9a-f]{64})?", given)
    if not found:
        yield f"PYTHON={given!r} is not one slim Python to the last digit"
    elif not SpecifierSet(project.metadata["project"]["requires-python"]).contains(found[1]):
        yield f"Python {found[1]} is not one that requires-python allows"


def _copies(project: Project, stages: dict[str, Stage]) -> Iterator[str]:
    known: list[str] = []
    for stage in stages.values():
        if stage.parent not in (*known, "${PYTHON}"):
            yield f"{stage.name}: FROM {stage.parent} is no stage before it"
        for value in stage.of("COPY"):
            words = shlex.split(value)
            origins = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
            for origin in origins:
                if origin not in known:
                    yield f"{stage.name}: COPY --from={origin} is no stage before it"
            for source in [] if origins else [word for word in words[:-1] if not word.startswith("--")]:
                if not project.exists(source):
                    yield f"{stage.name}: COPY {source}: there is no such file"
                elif ignored(project, source):
                    yield f"{stage.name}: COPY {source}: {IGNORED} leaves it out"
        known.append(stage.name)
    for path in SECRETS:
        if not ignored(project, path):
            yield f"{IGNORED} lets {path} in"


def _layers(project: Project, stages: dict[str, Stage]) -> Iterator[str]:
    """What is copied before dependencies are installed is what they are installed from, and no more."""
    for name in ("dependencies", "dependencies-embed"):
        if name not in stages:
            yield f"there is no stage {name}"
            continue
        copied = {word for value in stages[name].of("COPY") for word in shlex.split(value)[:-1]}
        if not copied <= {"pyproject.toml", "requirements.lock"}:
            yield f"{name}: a change of {', '.join(sorted(copied))} would install everything anew"


def _locked(stages: dict[str, Stage]) -> Iterator[str]:
    """Every installation takes versions from the lock, or is of the project alone; what builds it is locked, too."""
    for stage in stages.values():
        for step in re.split(r"&&|\|\||; then|; fi", " ".join(stage.of("RUN"))):
            if re.search(r"\bpip\b.* install ", step):
                if " --constraint requirements.lock" not in step and not step.strip().endswith("--no-deps ."):
                    yield f"{stage.name}: installs versions that are not locked: {step.strip()}"
                if (
                    re.search(r' "?\.(\[\w+\])?"?$', step.strip())
                    and "--build-constraint requirements.lock" not in step
                ):
                    yield f"{stage.name}: builds with versions that are not locked: {step.strip()}"


def _argument_defaults(project: Project) -> Iterator[str]:
    given = arguments(project)
    if given.get("VERSION") != project.metadata["project"]["version"]:
        yield f"VERSION={given.get('VERSION')} is not the version of pyproject.toml"
    if given.get("TORCH_INDEX_URL"):
        yield "TORCH_INDEX_URL has a default: which index is the builder's choice"
    if not set(given.get("WEIGHTS", "").split()) <= project.weights:
        yield f"WEIGHTS={given['WEIGHTS']} are not packages of the group models"


def _target(project: Project, target: str) -> Iterator[str]:
    made = image(project, target)
    if made.last("USER") != f"{USER}:{USER}":
        yield f"{target}: runs as {made.last('USER') or 'root'}"
    users = " ".join(made.of("RUN"))
    if f"--uid {USER}" not in users or f"--gid {USER}" not in users:
        yield f"{target}: makes no user {USER}"
    if not re.search(rf"--owner={USER} --group={USER} --mode=0700 {STATE}", users):
        yield f"{target}: {STATE} is not its user's"
    if made.last("WORKDIR") != STATE:
        yield f"{target}: works in {made.last('WORKDIR')}"
    try:
        command = made.command
    except ValueError:
        yield f"{target}: ENTRYPOINT and CMD must be JSON, or a shell stands between a signal and vectide"
        return
    if command[0] not in project.scripts:
        yield f"{target}: {command[0]} is no program of the project"
    elif why := misused(command[1:]):
        yield f"{target}: {' '.join(command)}: {why}"
    environment = made.environment
    if environment.get("HF_HUB_OFFLINE") != "1":
        yield f"{target}: HF_HUB_OFFLINE is not 1"
    try:
        config = load(None, environment)
    except ConfigError as error:
        yield f"{target}: {error}"
        return
    if made.last("EXPOSE") != str(config.http.port):
        yield f"{target}: exposes {made.last('EXPOSE')}, and listens on {config.http.port}"
    if config.http.host != "0.0.0.0":
        yield f"{target}: listens on {config.http.host}, where no other container reaches it"
    yield from _labels(project, target, made)
    yield from _healthcheck(target, made)


def _labels(project: Project, target: str, made: Image) -> Iterator[str]:
    labels = dict(pair.split("=", 1) for value in made.of("LABEL") for pair in shlex.split(value))
    prefix = "org.opencontainers.image."
    for name in ("title", "description", "version", "revision", "created", "licenses", "base.name"):
        if prefix + name not in labels:
            yield f"{target}: has no label {prefix}{name}"
    for name, key in (("licenses", "license"), ("description", "description"), ("title", "name")):
        if labels.get(prefix + name) != project.metadata["project"][key]:
            yield f"{target}: label {name} is not what pyproject.toml says"


def _healthcheck(target: str, made: Image) -> Iterator[str]:
    check = made.last("HEALTHCHECK")
    try:
        program, *_, script = json.loads(check[check.index("CMD") + 3 :])
    except ValueError:
        yield f"{target}: HEALTHCHECK is not CMD and JSON"
        return
    if program != "/opt/vectide/bin/python":
        yield f"{target}: HEALTHCHECK runs {program}, which the image may not have"
    copied = {shlex.split(value)[-1]: shlex.split(value)[-2] for value in made.of("COPY")}
    if copied.get(script) != "docker/healthcheck.py":
        yield f"{target}: HEALTHCHECK runs {script}, which is not copied from docker/healthcheck.py"


def _installed(project: Project, stages: dict[str, Stage]) -> Iterator[str]:
    """Each target has the dependencies of its extra, and the project over them."""
    known = set(project.metadata["project"]["optional-dependencies"])
    for target, extra in TARGETS.items():
        dependencies = "dependencies" if extra is None else f"dependencies-{extra}"
        wanted = [f"--from={dependencies} /opt/vectide /opt/vectide", "--from=application /opt/vectide /opt/vectide"]
        if stages[target].of("COPY") != wanted:
            yield f"{target}: must have what {dependencies} and application made, in this order"
        runs = " ".join(stages[dependencies].of("RUN")) if dependencies in stages else ""
        extras = {name for names in re.findall(r'"\.\[([\w,-]+)\]"', runs) for name in names.split(",")}
        for name in sorted(extras - known):
            yield f"{dependencies}: there is no extra {name}"
        if extra is not None and extra not in extras:
            yield f"{dependencies}: does not install the extra {extra}"
        if extra is None and "embed" in extras:
            yield f"{dependencies}: torch does not belong into base"
        if extra is None and (missing := sorted(known - extras - {"embed"})):
            yield f"{dependencies}: does not install {', '.join(missing)}: connectors run in base"
        if "--only-deps" not in runs:
            yield f"{dependencies}: installs the project, and not only what it needs"


def ignored(project: Project, path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that matches it, or a folder above it, counts."""
    outcome = False
    parts = path.split("/")
    for line in project.text(IGNORED).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pattern = _pattern(line.removeprefix("!"))
        if any(pattern.fullmatch("/".join(parts[: end + 1])) for end in range(len(parts))):
            outcome = not line.startswith("!")
    return outcome


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Go's filepath.Match, and ``**`` for any number of folders."""
    made = re.escape(text.strip("/")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
    return re.compile(made.replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
