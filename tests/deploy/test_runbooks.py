"""Runbooks: what they tell an operator to run is run, on a real pipeline in the states that they are about."""

from __future__ import annotations

import json
import re
import shlex
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline import errors
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.main import cli
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.observe.metrics import PASSING, READINESS
from pipeline.ports import NewRecord
from tests.deploy.expressions import RUNBOOKS, alerts
from tests.deploy.test_rules import Promtool, page
from tests.support.commands import Done, run
from tests.support.deployment import Deployment
from tests.support.probing import SECONDS

pytestmark = pytest.mark.timeout(900)

PAGES = sorted(RUNBOOKS.glob("*.md"))
KUBECTL = {"get", "describe", "logs", "scale", "rollout", "top", "exec"}

CONFIGURATION = """
[model]
provider = "hashing"
name = "hashing"
[embed]
flush_seconds = 0.1
delete_grace_seconds = 0.1
[migrate]
known_item_tolerance = 1.0
"""

#: In the order of a story: a letter that stands, a migration that is given up, one that is finished.
#: With exit codes, where it is not 0: the letter's record is as malformed as before.
WITH_A_LETTER = {
    "vectide status": 0,
    "vectide config check": 0,
    'vectide search "a question that has an answer"': 0,
    "vectide explain KEY": 0,
    "vectide dead-letters list": 0,
    "vectide dead-letters show LETTER": 0,
    "vectide dead-letters replay --all": 1,
    "vectide dead-letters drop LETTER": 0,
    "vectide verify": 0,
    "vectide verify --fix": 0,
    "vectide verify --full": 0,
    "vectide verify --source": 0,
    "vectide migrate history": 0,
    "vectide migrate status": 0,
}
BUILDING = ["vectide migrate pause", "vectide migrate resume", "vectide migrate throttle 25%", "vectide migrate abort"]
ABORTED = ["vectide migrate retire GENERATION"]
BUILT = ["vectide migrate gate", "vectide migrate cutover", "vectide migrate rollback"]
SWITCHED = ["vectide migrate retire"]


def commands(text: str) -> list[str]:
    """The lines of a page's blocks of commands."""
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def test_every_alert_has_a_page_and_a_line_in_the_index() -> None:
    assert {path.stem for path in PAGES} == {page(alert) for alert in alerts()} | {"README"}
    rows = re.findall(
        r"^\| \[(\w+)\]\((\S+)\.md\) \| (\w+) \| (.+) \|$", (RUNBOOKS / "README.md").read_text(), re.MULTILINE
    )
    assert {(alert, name, severity) for alert, name, severity, _ in rows} == {
        (alert, page(alert), rule["labels"]["severity"]) for alert, rule in alerts().items()
    }


def test_every_error_that_is_tried_again_is_in_the_runbook_of_dependency_errors() -> None:
    """Those are the values of `error_type`; what is raised at once is none of it."""
    passing = {
        name
        for name, one in vars(errors).items()
        if isinstance(one, type)
        and issubclass(one, errors.Transient | errors.Backpressure)
        and not issubclass(one, errors.PartitionsLost)
        and one is not errors.Backpressure  # only ever as one of its kinds
    }
    assert passing >= set(PASSING)
    text = (RUNBOOKS / "dependency-errors.md").read_text()
    assert passing == set(re.findall(r"^\| `([A-Z]\w+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_short_and_its_commands_can_be_read(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 70
    for line in commands(text):
        words = shlex.split(line)
        assert words[0] in ("vectide", "kubectl"), line
        assert words[0] != "kubectl" or words[1] in KUBECTL, line
    for words in (one.split() for one in re.findall(r"`vectide ([^`]+)`", text)):
        found: click.Command | None = cli
        for word in words:
            if isinstance(found, click.Group) and re.fullmatch(r"[a-z-]+", word):
                found = found.get_command(click.Context(found), word)
                assert found is not None, f"{path.name}: vectide {' '.join(words)}"
            elif word.startswith("--") and found is not None:
                assert any(word in one.opts for one in found.params), f"{path.name}: vectide {' '.join(words)}"


def test_every_command_of_a_runbook_is_run_below() -> None:
    written = {line for path in PAGES for line in commands(path.read_text()) if line.startswith("vectide")}
    assert written == {*WITH_A_LETTER, *BUILDING, *ABORTED, *BUILT, *SWITCHED}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running pipeline with two documents, and a record that nobody can read."""
    made = Deployment(tmp_path_factory.mktemp("runbooks"), CONFIGURATION)
    for name in ("a", "b"):
        (made.documents / f"{name}.md").write_text(f"# Answer {name}\n\nThis is the answer to a question of {name}.\n")
    assert run(made.folder, "topics", "apply").code == 0
    broker = EmbeddedBroker(made.folder / ".vectide" / "log")
    headers = (("vectide-kind", b"changed"), ("vectide-schema", b"1"), ("vectide-event-time", b"1.0"))
    topic = Names("vectide", "default").documents(0)
    broker.publisher("test").publish([NewRecord(topic, b"broken", b'{"text": "cut o', headers)], Deadline.after(5))
    broker.close()
    made.start("up", "docs")
    until(made, lambda found: found["dead_letters"] == 1 and found["documents"] == 2 and found["lag"] == 0)
    yield made
    made.end()


def asked(made: Deployment, *arguments: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(run(made.folder, *arguments, "--json").out)
    return found


def until(made: Deployment, true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + SECONDS
    while not true(asked(made, "status")):
        assert time.monotonic() < deadline, asked(made, "status")
        time.sleep(0.1)


def follow(made: Deployment, line: str, **names: str) -> Done:
    """Run a runbook's line, with what it leaves to the reader filled in."""
    for name, value in names.items():
        line = line.replace(name, value)
    done = run(made.folder, *shlex.split(line)[1:])
    assert "Traceback" not in done.shown
    return done


@pytest.mark.processes
def test_what_the_runbooks_say_works_where_they_say_it(made: Deployment) -> None:
    # Given a dead letter
    (letter,) = asked(made, "dead-letters", "list")["dead_letters"]  # type: ignore[misc]
    names = {"KEY": DocumentKey("docs", "a.md").text, "LETTER": letter["id"]}
    for line, code in WITH_A_LETTER.items():
        done = follow(made, line, **names)
        assert done.code == code, f"{line}: {done}"
    # Given a migration that is being built
    target = asked(made, "migrate", "start", "--dimension", "128")["generation"]["id"]  # type: ignore[index]
    for line in BUILDING:
        assert (done := follow(made, line)).code == 0, f"{line}: {done}"
    for line in ABORTED:
        assert (done := follow(made, line, GENERATION=target)).code == 0, f"{line}: {done}"
    # Given one that is built
    asked(made, "migrate", "start", "--dimension", "64")
    deadline = time.monotonic() + SECONDS
    while not all(one["documents"] == 2 for one in asked(made, "migrate", "status")["generations"]):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for line in BUILT:
        assert (done := follow(made, line)).code == 0, f"{line}: {done}"
    # Given one that was cut over
    assert run(made.folder, "migrate", "cutover").code == 0
    for line in SWITCHED:
        assert (done := follow(made, line)).code == 0, f"{line}: {done}"


@pytest.mark.processes
def test_promtool_takes_the_metrics_of_a_real_process(made: Deployment, promtool: Promtool) -> None:
    url = json.loads((made.folder / ".vectide" / "endpoint.json").read_text())["url"]
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        exposition = answer.read().decode()
    done = promtool(["check", "metrics"], exposition)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    samples = [line for line in exposition.splitlines() if not line.startswith("#")]
    assert all('pipeline="vectide.default"' in line for line in samples)
    ready = [line for line in samples if line.startswith("vectide_dependency_ready{")]
    assert len(ready) == len(READINESS)
    assert all(line.endswith(" 1.0") for line in ready)
