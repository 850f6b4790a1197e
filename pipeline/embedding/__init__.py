"""Embedding models: resolving, loading and running them."""
