"""Jinja2 templates, in a sandbox, and what they read of a record."""
