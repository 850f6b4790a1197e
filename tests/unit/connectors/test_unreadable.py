"""Files and folders whose permissions go: nobody knows what they say now, so they stay as they were."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.filesystem import connector
from pipeline.errors import Transient
from pipeline.ports import Source
from tests.support.sources import Documents, running, scanned, wait_until

NOBODY = 65534


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user to whom permissions mean something: root becomes nobody for the test.

    Its files belong to that user, who can take the permissions away and give them back without
    ever being root again: the runner's threads would be root with it.
    """
    folder = Path(tempfile.mkdtemp(prefix="vectide-test-"))
    root_user = os.geteuid() == 0
    try:
        if root_user:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root_user:
            os.seteuid(0)
        shutil.rmtree(folder)


def opened(root: Path) -> Source:
    return connector("files", {"path": str(root)}, 64 * 1024)


def test_what_may_not_be_read_stays_as_it_was(unprivileged: Path, documents: Documents) -> None:
    """Given a file and a folder whose permissions go, then their documents stay, live and over a
    restart, and are followed again when they are back.
    """
    file, inside = unprivileged / "file.txt", unprivileged / "dir" / "in.txt"
    inside.parent.mkdir()
    file.write_text("1")
    inside.write_text("1")
    with running(opened(unprivileged), documents) as one:
        one.wait_scanned()
        inside.parent.chmod(0o000)
        file.chmod(0o000)
        wait_until(lambda: one.skipped("unreadable") >= 1)
    again = scanned(opened(unprivileged), documents)
    assert documents.texts() == {"dir/in.txt": "1", "file.txt": "1"}
    assert again.published("deleted") == 0
    with pytest.raises(Transient, match="Permission denied"):
        opened(unprivileged).fetch("dir/in.txt")
    with running(opened(unprivileged), documents) as one:
        one.wait_scanned()
        inside.parent.chmod(0o755)
        file.chmod(0o644)
        file.write_text("2")
        inside.write_text("2")
        documents.wait_for({"dir/in.txt": "2", "file.txt": "2"})


def test_a_root_that_may_not_be_read_deletes_nothing(unprivileged: Path, documents: Documents) -> None:
    """Given a whole source whose permissions go, then it is not ready, and all goes on when they are back."""
    (unprivileged / "file.txt").write_text("1")
    with running(opened(unprivileged), documents) as one:
        one.wait_scanned()
        unprivileged.chmod(0o000)
        wait_until(lambda: "source.files" in one.health.readyz().reasons)
        assert documents.texts() == {"file.txt": "1"}
        unprivileged.chmod(0o755)
        wait_until(lambda: one.health.readyz().ok)
        (unprivileged / "file.txt").write_text("2")
        documents.wait_for({"file.txt": "2"})
        assert one.published("deleted") == 0
