"""Sandboxed Jinja2 templates, and analysis of the columns that they read."""
