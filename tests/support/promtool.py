"""Prometheus's own promtool, which checks rules, metrics and expressions: from PATH or from Debian's package.

``python -m tests.support.promtool --fetch`` takes it out of the package ``prometheus`` (19 MB) into
``${VECTIDE_CACHE:-~/.cache/vectide}/promtool``, once and without installing anything; ``make test``
calls it. No test fetches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

#: On two cores that others use as well.
_SECONDS = 300


class Missing(Exception):
    """There is no promtool; the text says what to do."""


def cached() -> Path:
    """Where a fetched one is or belongs."""
    cache = os.environ.get("VECTIDE_CACHE") or Path.home() / ".cache" / "vectide"
    return Path(cache).expanduser() / "promtool"


def binary() -> str:
    """The one to use. Raises Missing."""
    found = shutil.which("promtool") or (str(cached()) if cached().is_file() else None)
    if found is None:
        raise Missing(
            "promtool is missing: run `python -m tests.support.promtool --fetch` on Debian, or install Prometheus"
        )
    return found


def fetch() -> None:
    """Take it out of Debian's package, unless there is one. Raises Missing."""
    try:
        binary()
        return
    except Missing:
        pass
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Missing("promtool is missing, and this is no Debian: install Prometheus, or put promtool into PATH")
    target = cached()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        done = subprocess.run(
            ["apt-get", "download", "--quiet", "prometheus"], cwd=work, capture_output=True, text=True, check=False
        )
        packages = list(work.glob("*.deb"))
        if done.returncode != 0 or not packages:
            raise Missing(f"apt-get could not download prometheus (apt-get update?): {done.stderr.strip()}")
        subprocess.run(["dpkg", "-x", str(packages[0]), str(work / "root")], check=True)
        # In one step: an interrupted fetch leaves no half of a program behind.
        (work / "root" / "usr" / "bin" / "promtool").rename(target)


def run(arguments: Sequence[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; ``given`` is its standard input."""
    return subprocess.run(
        [binary(), *arguments], input=given, capture_output=True, text=True, check=False, timeout=_SECONDS
    )


def main() -> int:
    """``--fetch``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fetch", action="store_true", required=True)
    parser.parse_args()
    try:
        fetch()
    except Missing as missing:
        print(f"vectide: rules and dashboards are not checked: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
