"""The simulation: the real store protocol under seeded interleavings, and mutants that it must kill.

One schedule alone, with its trace: ``python -m tests.simulation --profile zombies --seed 17``.
"""
