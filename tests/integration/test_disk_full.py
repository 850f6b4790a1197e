"""``vectide up`` whose state folder runs out of room: not ready, nothing lost, no restart needed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_up import CONFIGURATION
from tests.support.deployment import Deployment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for the state of this test and the 128 MiB that the store wants free."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("no file system can be mounted here (it needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_waited_out(tmp_path: Path, small_disk: Path) -> None:
    made = Deployment(tmp_path, CONFIGURATION)
    try:
        (made.documents / "first.md").write_text("# First\n\nThere was room for this.\n")
        up = made.start("up", "docs", "--state", str(small_disk))
        time.sleep(1)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        for number in range(200):
            (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\n" + f"word{number} " * 600)
        deadline = time.monotonic() + 60
        while "full" not in up.errors():
            assert time.monotonic() < deadline, up.errors()
            assert up.process.poll() is None, up.errors()
            time.sleep(0.1)
        ballast.unlink()
        deadline = time.monotonic() + 90
        while True:
            assert up.process.poll() is None, up.errors()
            assert time.monotonic() < deadline, up.errors()
            status = made.ask("status", "--json", "--state", str(small_disk))
            if '"documents": 201' in status and '"lag": 0' in status:
                break
            time.sleep(0.3)
        assert up.stop() == 0
        assert made.embedded_differences("docs", small_disk) == []
    finally:
        made.end()
