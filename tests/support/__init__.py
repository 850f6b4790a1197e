"""Real servers for tests, on this machine."""
