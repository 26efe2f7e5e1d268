"""Formats that several rooms read and write: JSON from outside, YAML, typed cells, requests."""
