"""The machine's hardware, and whether a job fits on it."""
