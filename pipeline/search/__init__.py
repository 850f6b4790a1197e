"""Exact reads from the live collection."""
