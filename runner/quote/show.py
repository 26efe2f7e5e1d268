"""A quote on the terminal, as a Markdown file to send, and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from escalation.providers.prices import price_date
from runner import private
from runner.errors import UsageError
from runner.quote import Quote
from runner.quote.words import sections, title


def show(console: Console, quote: Quote) -> None:
    console.print(Text(title(quote), style="bold"))
    for section in sections(quote):
        console.print()
        if section.rows:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for number, name in enumerate(section.head):
                table.add_column(name, justify="right" if number else "left")
            for row in section.rows:
                table.add_row(*map(Text, row))
            console.print(table)
        for note in section.notes:
            console.print(Text(note), style="dim")


def write_markdown(quote: Quote, path: Path) -> None:
    """Raises `UsageError` where it cannot be written."""
    try:
        private.made(path).write_text(markdown(quote), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the quote to {path}: {error.strerror}") from None


def markdown(quote: Quote) -> str:
    made = f"By `surelocal quote` on {datetime.now(UTC).date().isoformat()}."
    lines = [f"# {title(quote)}", "", made]
    for section in sections(quote):
        lines += ["", f"## {section.title}", ""]
        if section.rows:
            lines += [_row(section.head), "|" + "---|" + "---:|" * (len(section.head) - 1)]
            lines += [*map(_row, section.rows), ""]
        lines.append("\n\n".join(section.notes))
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def as_json(quote: Quote) -> dict[str, Any]:
    closed, time = quote.job.escalation, quote.time
    return {
        "name": quote.job.name,
        "records": quote.size,
        "pilot": quote.pilot,
        "counts": {c.kind: {"in_pilot": c.found, **c.of_all.as_json()} for c in quote.counts},
        "closed_model": closed.model if closed is not None else None,
        "prices_of": price_date(),
        "cost_usd": {
            way.name: {
                "nothing_cached": way.plain.as_json(),
                "cached": way.cached.as_json() if way.cached is not None else None,
            }
            for way in quote.ways
        },
        "shared_tokens": quote.cache.tokens if quote.cache is not None else None,
        "time": {
            "loading_s": time.loading_s,
            "pilot_s": time.pilot_s,
            "records_a_second": time.records_a_second,
            "low_s": time.low,
            "high_s": time.high,
            "gpu_usd": [float(usd) for usd in time.gpu_usd] if time.gpu_usd is not None else None,
        },
        "curve": _curve(quote),
    }


def _curve(quote: Quote) -> dict[str, Any] | None:
    curve = quote.curve
    if curve is None:
        return None
    return {
        "calibrated": curve.labels is not None,
        "labels": curve.labels,
        "delta": curve.delta,
        "answered": curve.answered,
        "points": [
            {
                "target_error": one.target,
                "certified": one.certified,
                "labels_needed": one.labels_needed,
                "accepted": one.accepted.as_json(),
                "escalated": one.escalated.as_json(),
                "usd": one.usd.as_json(),
            }
            for one in curve.points
        ],
    }
