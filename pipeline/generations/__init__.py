"""Generations of the index, and which one is live."""
