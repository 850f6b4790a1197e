"""``vectide verify`` before anything is opened, and what it says of what was found."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.main import cli
from pipeline.cli.verify import report_lines
from pipeline.errors import ConfigError
from pipeline.verification import KINDS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--full", "--sample", "5"], "exclude each other"),
        (["--seed", "5"], "give --sample N as well"),
        ([], "there is no index"),
    ],
)
def test_a_bad_question_is_told_what_to_ask(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["verify", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)


def report(**changes: Any) -> dict[str, Any]:
    none: dict[str, Any] = {kind: {"count": 0, "examples": []} for kind in KINDS}
    found = {
        "generation": "g1", "state": "live", "model": "m",
        "documents": 3, "points": 20, "points_read": 4, "requests": 7,
        "seconds": 1.25, "findings": none, "unexplained": 0, "ok": True, "unserved": {"count": 0, "examples": []},
        "sample": None, "full": None, "sources": None, "repaired": None, "again": None, "ahead": 0, "equal": True,
        "different": False, "unproven": [],
    }  # fmt: skip
    return {**found, **changes}


def told(**changes: Any) -> list[str]:
    return list(report_lines(report(**changes)))


def findings(**kinds: int) -> dict[str, Any]:
    none: dict[str, Any] = {kind: {"count": 0, "examples": []} for kind in KINDS}
    named = {
        kind.replace("_", " "): {"count": count, "examples": [f"s:{number}" for number in range(min(count, 10))]}
        for kind, count in kinds.items()
    }
    return {**none, **named}


def test_nothing_found_is_said_in_five_lines() -> None:
    assert told() == [
        "generation    g1 (live, m)",
        "log           3 documents",
        "collection    20 points; 4 read one by one, 7 requests, 1.2 s",
        "findings      none",
        "verdict       the collection equals the log",
    ]


def test_findings_are_named_by_kind_with_some_examples() -> None:
    lines = told(findings=findings(missing=2, wrong_list=5), ok=False, different=True, equal=False)
    assert lines[3:] == [
        "findings",
        "  missing                2  s:0, s:1",
        "  wrong list             5  s:0, s:1, s:2, ...",
        "verdict       different; --fix repairs the collection",
    ]


def test_a_name_cannot_write_to_the_terminal() -> None:
    evil = {**findings(), "orphan": {"count": 1, "examples": ["s:\x1b[2J\r\nverdict equal"]}}
    lines = told(findings=evil, ok=False, different=True, equal=False)
    assert not any("\x1b" in line or "\n" in line or "\r" in line for line in lines)


def test_a_log_that_has_lost_records_is_said_to_have() -> None:
    assert (
        "the log has lost records"
        in told(findings=findings(ahead=1), ok=False, different=True, equal=False, ahead=1)[-1]
    )


AWAY = {"source": "away", "ok": False, "unreached": "not mounted"}
UNSURE = {
    "source": "docs", "ok": True, "documents": 3, "findings": {},
    "unreadable": {"count": 1, "examples": ["docs:x"]}, "changing": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("different", "ahead", "code", "says"),
    [
        (False, 0, 7, "verdict       the collection equals the log"),
        (True, 0, 11, "verdict       different; --fix repairs the collection"),
        (True, 1, 4, "verdict       the store knows versions that the log does not have"),
    ],
)
def test_sources_that_cannot_be_looked_at_hide_nothing(
    different: bool, ahead: int, code: int, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Given a source that is away and documents that cannot be read, then what is known of the rest is said, what is
    not as well, and the exit code is of the worst.
    """
    found = report(sources=[AWAY, UNSURE], unproven=["away", "docs"], equal=False, different=different, ahead=ahead)
    monkeypatch.setattr("pipeline.cli.verify.awaited", lambda *asked: {})
    monkeypatch.setattr("pipeline.cli.verify.raised", lambda task: found)
    monkeypatch.setattr("pipeline.cli.verify.reached", lambda config: nullcontext(lambda *asked: {}))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["verify", "--source"])
    assert (result.exit_code, says in result.output) == (code, True), result.output
    assert result.output.endswith("; not proven: source away, 3 documents of source docs\n")


def test_everything_else_is_said_where_it_was_looked_at() -> None:
    lines = told(
        unserved={"count": 1, "examples": [{"key": "s:a", "state": "omitted", "reason": "9 MB"}]},
        unexplained=2,
        sample={"statement": "none of 5", "reasons": [["s:b", "it is not finite"]]},
        full={"documents": 3, "chunks": 17, "resumed": True, "more": 4, "unchecked": 6},
        sources=[AWAY, UNSURE],
        repaired={"documents": {"complete": 2}, "embedded": 1, "left": ["s:c: gone"]},
        again={"findings": findings(), "ok": True, "unexplained": 5,
              "sample": {"statement": "none of 5 others", "wrong": 0}},
    )  # fmt: skip
    text = "\n".join(lines)
    for part in (
        "1 documents are incomplete, failed or omitted",
        "omitted     s:a: 9 MB",
        "2 counts are explained by no document",
        "none of 5",
        "s:b: it is not finite",
        "17 chunks embedded again, begun by one that was killed",
        "4 more findings were not kept",
        "of 6 only the texts",
        "none of 5 others",
        "source away   not looked at: not mounted",
        "source docs   3 documents, equal to the log",
        "cannot be read         1  docs:x",
        "changing               2  ",
        "2 complete; 1 chunks embedded",
        "left: s:c: gone",
        "verified again none",
        "after the repair, but for 5 counts that no document explains",
    ):
        assert part in text, part
