"""Observing a run: the display, its figures and traces."""
