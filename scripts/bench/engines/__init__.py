"""What `throughput.py` measures: ways to answer the demo's records, a module each."""
