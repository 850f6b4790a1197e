"""Benchmarks: run by `make bench`, each also by hand with `python -m tests.bench.NAME`."""
