"""Exit codes by real processes: those that no other test of a real process ends with, and `up` that is told to stop."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main as entry
from pipeline.cli.job import STOPPED
from pipeline.errors import UNAVAILABLE, Fatal
from tests.docs.generate import DOCS
from tests.integration.test_up import CONFIGURATION
from tests.support.deployment import Deployment
from tests.support.probing import Probed, until, until_said

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

DOCUMENTS = 60


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, CONFIGURATION)
    for number in range(DOCUMENTS):
        text = f"# Document {number}\n\nThe words of number w{number} and of no other.\n"
        (made.documents / f"d{number}.md").write_text(text)
    yield made
    made.end()


def test_up_that_is_told_to_stop_finishes_its_batch_and_answers_what_it_was_asked(made: Deployment) -> None:
    """Given `up` in the middle of its first sync and of a search, when it is told to stop, then it ends with 0, the
    search is answered, and the next one embeds only what is left.
    """
    held = made.folder / "held"
    up = Probed(made, "up", "docs", **{"pass": 0.3, "query": held})
    until(lambda: up.metric("records_processed_total", stage="embed") > 0, up.command.errors)
    with up.searching(held):
        up.command.process.terminate()
        until(lambda: up.get("/livez")[0] == 0)
        assert up.command.process.poll() is None
    assert up.command.stop() == 0, up.command.errors()
    up = Probed(made, "up", "docs")
    up.until_probes(200, 200, 200)
    status = made.quiet(DOCUMENTS)
    assert status["chunks_embedded"] == status["chunks"] == DOCUMENTS
    assert status["documents_published"] == DOCUMENTS
    assert up.command.stop() == 0
    assert made.embedded_differences("docs") == []


def test_the_codes_of_a_job_an_impatient_user_and_another_log(made: Deployment) -> None:
    """10, 130 and 4: see docs/commands.md."""
    up = Probed(made, "up", "docs", **{"pass": 600})
    until(lambda: up.metric("inflight_records", stage="embed") > 0, up.command.errors)
    up.command.process.send_signal(signal.SIGINT)
    until(lambda: "stopping" in up.get("/readyz")[1])
    up.command.process.send_signal(signal.SIGINT)
    assert up.command.process.wait(60) == 130, up.command.errors()
    # What was interrupted goes on
    up = Probed(made, "up", "docs")
    up.until_probes(200, 200, 200)
    made.quiet(DOCUMENTS)
    assert up.command.stop() == 0
    # A job that builds by itself, in thirty steps of a second
    (made.folder / "vectide.toml").write_text(f"{CONFIGURATION}gather_documents = 2\n")
    arguments = ("migrate", "run", "--dimension", "64", "--cutover", "auto")
    job = Probed(made, *arguments, **{"pass": 1})
    until_said(job.command, "building")
    assert job.command.stop() == 10, job.command.errors()
    # Settings that would lose data, and a log that is another one
    for setting, says in (("partitions = 3", "partitions is"), ("epoch = 2", "epoch")):
        (made.folder / "vectide.toml").write_text(f"{CONFIGURATION}[pipeline]\n{setting}\n")
        assert says in made.ask("up", "docs", code=4)


def test_the_documents_name_every_code_and_no_other() -> None:
    def fatal(kind: type[Fatal]) -> Iterator[int]:
        yield kind.exit_code
        for one in kind.__subclasses__():
            yield from fatal(one)

    # verify's 11 is its own, in pipeline.cli.verify, and so is certify's 12
    produced = {0, *fatal(Fatal), UNAVAILABLE, STOPPED, 11, 12, 130}
    page = re.findall(r"^\| (\d+) \|", (DOCS / "commands.md").read_text(), re.MULTILINE)
    module = re.findall(r"^(\d+)  ", entry.__globals__["__doc__"], re.MULTILINE)
    assert {int(one) for one in page} == {int(one) for one in module} == produced
