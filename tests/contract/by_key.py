"""A source of tables or topics as its place has it: with keys as paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from connectors.keys import key_of, path_of
from pipeline.ports import Backlog, Expired, Fetched, Hint, Listed, LogSource, Skipped, without_pauses


class ByKey:
    """Without the table or topic before keys, and with any slash in them.

    Args:
        source: of one table or topic, whose keys are one value.
        first: its name.
    """

    def __init__(self, source: LogSource, first: str) -> None:
        self.id = source.id
        self._source = source
        self._first = first

    def scan(self) -> Iterator[Listed]:
        for one in without_pauses(self._source.scan()):
            yield Listed(_outside(one.path), one.revision)

    def fetch(self, path: str) -> Fetched | Skipped | Expired | None:
        found = self._source.fetch(path_of(self._first, [path]))
        return found if found is None else replace(found, path=path)

    def hints(self, timeout: float) -> list[Hint]:
        return [Hint(None if one.path is None else _outside(one.path), one.at) for one in self._source.hints(timeout)]

    def resume(self, position: str | None) -> bool:
        return self._source.resume(position)

    def caught_up(self) -> bool:
        return self._source.caught_up()

    def position(self) -> str:
        return self._source.position()

    def acknowledge(self, position: str) -> None:
        self._source.acknowledge(position)

    def backlog(self) -> Backlog | None:
        return self._source.backlog()

    def close(self) -> None:
        self._source.close()


def _outside(path: str) -> str:
    found = key_of(path)
    assert found is not None
    return found[1][0]
