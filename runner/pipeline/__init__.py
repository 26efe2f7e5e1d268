"""The way of a record: run, preflight, assemble, both halves, loop, decide, answer, outcomes."""
