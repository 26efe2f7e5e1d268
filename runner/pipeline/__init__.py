"""The way of a record: run, preflight, assemble, load the engine, loop, outcomes."""
