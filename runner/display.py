"""The run as a person watches it: a live panel on a terminal, plain lines elsewhere.

All of it goes to stderr; stdout is for what other programs read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.pipeline import Progress
from runner.summary import Summary, lines

PLAIN_EVERY_S = 10.0
LIVE_EVERY_S = 0.25

_NAMES = {
    "local": "local",
    "template": "template",
    "closed": "closed",
    "waiting": "waiting",
    "review": "review",
    "error": "errors",
}


class Display:
    """Shows `Progress` while a run goes on. ``total`` is the number of records, if known."""

    def __init__(self, console: Console, progress: Progress, total: int | None) -> None:
        self._console = console
        self._progress = progress
        self._total = total
        self._began = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Shows it until the block ends."""
        stop = threading.Event()
        show = self._live if self._console.is_terminal else self._plain
        thread = threading.Thread(target=show, args=(stop,), name="display", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _live(self, stop: threading.Event) -> None:
        with Live(self._panel(), console=self._console, auto_refresh=False, transient=True) as live:
            while not stop.wait(LIVE_EVERY_S):
                live.update(self._panel(), refresh=True)

    def _plain(self, stop: threading.Event) -> None:
        while not stop.wait(PLAIN_EVERY_S):
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def _facts(self) -> list[str]:
        p = self._progress
        done = p.resumed + sum(p.by.values())
        of = f" of {self._total:,}" if self._total else ""
        facts = [f"{done:,}{of} records"]
        if p.loading:
            facts.append(f"loading the model, {time.monotonic() - self._began:.0f} s")
        elapsed = time.monotonic() - (p.generating_since or self._began)
        if p.generated_tokens:
            facts.append(f"{p.generated_tokens / elapsed:,.0f} tokens/s")
        facts += [f"{words} {p.by[key]:,}" for key, words in _NAMES.items() if p.by.get(key)]
        if p.money is not None:
            spent, cap = p.money()
            facts.append(f"spent ${spent:.4f} of ${cap:.2f}")
        fresh = done - p.resumed
        if self._total and fresh > 0 and p.generated_tokens and done < self._total:
            facts.append(f"about {duration((self._total - done) * elapsed / fresh)} left")
        return facts

    def _line(self) -> str:
        return "  ".join(self._facts())

    def _panel(self) -> Table:
        p = self._progress
        done = p.resumed + sum(p.by.values())
        grid = Table.grid()
        grid.add_row(
            ProgressBar(total=self._total, completed=done, width=60, pulse=not self._total)
        )
        grid.add_row(Text("  ".join(self._facts())))
        return grid


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def show_summary(console: Console, summary: Summary, elapsed_s: float | None = None) -> None:
    """The closing table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for what, how_many in lines(summary):
        table.add_row(what, how_many)
    if elapsed_s is not None:
        table.add_row("took", duration(elapsed_s))
    console.print(table)
    if summary.stopped is not None:
        console.print(f"Sending stopped: {summary.stopped}", markup=False, highlight=False)
    for sentence in summary.trust:
        console.print(sentence, markup=False, highlight=False)
