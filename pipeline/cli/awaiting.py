"""Waiting for a task of the process that works, with a bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from pipeline.cli.access import Ask

_POLL_SECONDS: Final = 0.2


def awaited(ask: Ask, path: str, begun: Mapping[str, Any]) -> dict[str, Any]:
    """A task once it has ended. No deadline: it tells how far it is.

    Args:
        ask: reaches the process.
        path: of the tasks.
        begun: the task as it was begun.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(str(begun["name"]), total=None)
        while True:
            task: dict[str, Any] = ask("POST", path, {"action": "task", "id": begun["id"]})
            if not task["running"]:
                return task
            described = f"{task['name']}: {task['phase']}"
            bar.update(shown, description=described, completed=task["done"], total=task["whole"] or None)
            time.sleep(_POLL_SECONDS)
