"""The http connector: a push API. Senders put, patch and delete documents, and are answered once the log has them."""

from __future__ import annotations

from connectors.http.settings import settings_of
from connectors.http.source import connector

__all__ = ["connector", "settings_of"]
