"""The s3 connector: the objects of a bucket, of AWS or of anything that speaks its protocol."""

from __future__ import annotations

from connectors.s3.settings import settings_of
from connectors.s3.source import connector

__all__ = ["connector", "settings_of"]
