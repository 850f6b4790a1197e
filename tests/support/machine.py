"""What a machine needs before anything is installed, checked with nothing but Python's own library."""

import os
import shutil
import sys

#: torch brings CUDA libraries on Linux: some 5 GB installed, and as much again while unpacking.
_FREE_GIGABYTES = 8


def main() -> int:
    problems = []
    if sys.version_info < (3, 11):
        problems.append(
            "Python 3.11 or later is needed, this is %s: make PYTHON=python3.11 ..." % sys.version.split()[0]
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        problems.append("this Python cannot make virtual environments (Debian: apt-get install python3-venv)")
    if not os.path.exists(".venv/.installed"):
        free = shutil.disk_usage(".").free / 1e9
        if free < _FREE_GIGABYTES:
            problems.append("%.0f GB of disk are free, torch needs %d GB" % (free, _FREE_GIGABYTES))
    for problem in problems:
        print("vectide: " + problem, file=sys.stderr)
    if not problems and not (shutil.which("java") and shutil.which("mvn")):
        print("vectide: without Java 17 and Maven the Kafka tests are skipped (all else works)", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
