"""Whether a generation's collection equals the log, and the log its sources: proved while they change."""
