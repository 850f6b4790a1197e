"""A runner on an embedded broker, as the certification suite has it."""

from connectors.certification.rig import (
    PATIENCE_SECONDS,
    Documents,
    Running,
    runner,
    running,
    scanned,
    wait_until,
)

__all__ = ["PATIENCE_SECONDS", "Documents", "Running", "runner", "running", "scanned", "wait_until"]
