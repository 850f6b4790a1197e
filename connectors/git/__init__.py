"""The git connector: the files of one branch, local or remote."""

from __future__ import annotations

from connectors.git.settings import settings_of
from connectors.git.source import connector

__all__ = ["connector", "settings_of"]
