"""The command line: the only place that sees everything."""

from __future__ import annotations

from pipeline.cli.main import main

__all__ = ["main"]
