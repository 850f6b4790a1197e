"""The embedded log gives back room, and leaves no byte of what was erased in its files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pipeline.broker.embedded_log import EmbeddedLog
from pipeline.errors import BrokerUnavailable
from pipeline.ports import NewRecord, TopicSpec

SECRET = b"QxZjKw19VbPt"
KEPT, TRIMMED = "t.kept", "t.trimmed"


def opened(folder: Path) -> EmbeddedLog:
    log = EmbeddedLog(folder)
    log.ensure_topics([TopicSpec(KEPT, 2, "compact", 1 << 20), TopicSpec(TRIMMED, 1, "delete", 1 << 20)])
    return log


def files_with(folder: Path, text: bytes) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if text in path.read_bytes())


def put(log: EmbeddedLog, topic: str, key: str, value: bytes | None) -> None:
    log.append([NewRecord(topic, key.encode(), value, (("header", b"h"),))])


@pytest.mark.parametrize("size", [1, 300, 100_000], ids=["small", "cell", "overflowing"])
def test_what_compaction_and_trimming_remove_is_in_no_file_after_a_purge(tmp_path: Path, size: int) -> None:
    log = opened(tmp_path)
    for number in range(50):
        put(log, KEPT, f"k{number}", b"ordinary" * 40)
        put(log, KEPT, f"s{number}", SECRET * size if size < 1000 else b"x" * size + SECRET)
        put(log, TRIMMED, "k", SECRET * 20)
    assert {"log.db-wal", "transient.db-wal"} <= set(files_with(tmp_path, SECRET))
    for number in range(50):
        put(log, KEPT, f"s{number}", b"{}")
    log.trim(TRIMMED, {0: 50})
    log.purge([KEPT])
    assert files_with(tmp_path, SECRET) == []
    assert sum(log.count_from(KEPT, partition, 0) for partition in range(2)) == 100
    log.close()


def test_what_is_still_the_last_word_stays(tmp_path: Path) -> None:
    log = opened(tmp_path)
    put(log, KEPT, "k", SECRET)
    log.purge([KEPT])
    assert files_with(tmp_path, SECRET) == ["log.db"]
    log.close()


def test_a_log_of_before_is_written_anew_once(tmp_path: Path) -> None:
    """Given files whose deletes left the bytes in place, then the first purge removes those too."""
    log = opened(tmp_path)
    put(log, KEPT, "k", SECRET)
    put(log, KEPT, "k", b"{}")
    log.close()
    file = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    file.execute("PRAGMA secure_delete = OFF")
    file.execute("DELETE FROM records WHERE value = ?", (SECRET,))
    file.execute("PRAGMA user_version = 0")
    file.close()
    assert files_with(tmp_path, SECRET) == ["log.db"]
    log = opened(tmp_path)
    log.purge([KEPT])
    assert files_with(tmp_path, SECRET) == []
    log.close()


def test_maintenance_gives_back_pages_by_the_thousand(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(600):
        put(log, KEPT, "k", bytes(20_000))
    log.maintain()
    log.close()
    assert (tmp_path / "log.db").stat().st_size < 6_000_000, "of 12 MB, 8 are given back at a time"


def test_files_that_somebody_else_reads_are_not_called_purged(tmp_path: Path) -> None:
    """Given a backup in the middle of its read, then the purge says so, and one after it is whole."""
    log = opened(tmp_path)
    put(log, KEPT, "k", SECRET * 50)
    backup = sqlite3.connect(tmp_path / "log.db")
    backup.execute("BEGIN")
    backup.execute("SELECT count(*) FROM records").fetchone()
    put(log, KEPT, "k", b"{}")
    with pytest.raises(BrokerUnavailable, match="read by another process"):
        log.purge([KEPT])
    backup.close()
    log.purge([KEPT])
    assert files_with(tmp_path, SECRET) == []
    log.close()
