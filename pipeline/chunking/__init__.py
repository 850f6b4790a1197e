"""Documents to chunks: structure first, then size, with exact spans; pure functions."""

from __future__ import annotations

from pipeline.chunking.packing import ALGORITHM, chunk

__all__ = ["ALGORITHM", "chunk"]
