"""What commands share: where a run's results go, and how a command about a run ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from runner.summary import Summary

SOME_UNFINISHED = 3


def finish(
    console: Console,
    summary: Summary,
    output: Path,
    as_json: bool,
    elapsed_s: float | None = None,
    more: Mapping[str, Any] | None = None,
    table: str | None = None,
) -> None:
    """Shows what the run came to; ends with status 3 where some of its records are unfinished."""
    from runner.display import show_summary

    show_summary(console, summary, elapsed_s)
    where = f"{output} and the table {table}" if table else str(output)
    console.print(f"results: {where}", highlight=False, markup=False, soft_wrap=True)
    entries, head = summary.trail
    trail = f"audit trail: {entries:,} entries, the last {head}"
    console.print(trail, highlight=False, markup=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps({**summary.as_json(), "results": str(output), **(more or {})}))
    if summary.unfinished:
        sys.exit(SOME_UNFINISHED)
