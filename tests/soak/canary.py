"""Whether the machine lets anything run: a little work twice a second, and how long it took.

``python -m tests.soak.canary`` prints a line each time: wall seconds by processor seconds. The targets for
freshness hold for a machine that is there; one that others have taken is weather too, and counted.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.soak.weather import Weather

_WORK_SECONDS = 0.01
_REST_SECONDS = 0.5
#: Less than a tenth of a core: nothing that has a deadline can be held to it.
_STARVED = 10.0


class Canary:
    """Tells the weather, from a process of its own."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.canary"],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if float(line) > _STARVED:
                self._weather.starved(time.monotonic() - float(line) * _WORK_SECONDS, time.monotonic())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> None:
    """Until the reader is gone."""
    while True:
        wall, cpu = time.monotonic(), time.process_time()
        while time.process_time() - cpu < _WORK_SECONDS:
            sum(range(1000))
        print((time.monotonic() - wall) / _WORK_SECONDS, flush=True)
        time.sleep(_REST_SECONDS)


if __name__ == "__main__":
    main()
