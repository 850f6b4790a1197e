"""The soak: real parts, a seeded writer and seeded faults, and the truth held against them all the time."""
