"""Formats that several packages use: foreign JSON, YAML, typed cells, requests."""
