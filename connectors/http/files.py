"""Whether a file is still the one that was read."""

from __future__ import annotations

from pathlib import Path


def looks(file: Path) -> tuple[int, ...]:
    """Another value once it is another file; empty: it is not there."""
    try:
        found = file.stat()  # of what a link leads to: a mounted secret is replaced as a whole
    except OSError:
        return ()
    # The last time is that of its mode as well: a file that may be read at last is another one.
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_ctime_ns)
