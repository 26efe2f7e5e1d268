"""Displays a run to a person: a live panel on a terminal, plain lines elsewhere.

All of it goes to stderr; stdout is for what other programs read. `runner.observe.display_log` has
the same face for machines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.events import diverted, is_real_stderr
from runner.formats.amounts import duration, usd
from runner.observe.meter import Meter, Phase, Reading
from runner.plain import one_line
from runner.status.summary import Summary, lines
from runner.types import Notice

PLAIN_EVERY_S = 10.0
LIVE_EVERY_S = 0.25
WIDEST = 120
_AROUND = 4  # the panel's own columns

# Who decides or what it waits for → how it is called here, and its colour.
_ENDS = {
    "local": ("local", "green"),
    "template": ("template", "cyan"),
    "closed": ("closed", "blue"),
    "waiting": ("waiting", "yellow"),
    "review": ("review", "magenta"),
    "error": ("errors", "red"),
}


class Display:
    """Shows the readings of ``meter`` during a run. ``name``: the job's; ``closed``: its closed
    model; ``batches``: whether that one answers in batches."""

    def __init__(
        self,
        console: Console,
        meter: Meter,
        name: str = "",
        closed: str | None = None,
        *,
        batches: bool = False,
    ) -> None:
        self._console = console
        self._meter = meter
        self._name = name
        self._closed = closed
        self._batches = batches

    def say(self, notice: Notice) -> None:
        """Prints a notice above the panel, and keeps it in the panel while it is the latest."""
        self._meter.heard(notice)
        # No markup: the words of a provider or a path may hold brackets.
        self._console.print(one_line(notice.text), style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Shows it until the block ends."""
        console = self._console
        if not console.is_terminal or console.is_dumb_terminal:
            with _thread(self._plain):
                yield
            return
        if not is_real_stderr(usual := console.file):
            with _thread(self._live):
                yield
            return
        # What an engine writes to stderr would tear the panel: it is printed above it.
        with diverted(self._of_others) as true:
            console.file = true
            try:
                with _thread(self._live):
                    yield
            finally:
                console.file = usual

    def _of_others(self, line: str) -> None:
        self._console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _live(self, stop: threading.Event) -> None:
        with Live(self.panel(), console=self._console, auto_refresh=False, transient=True) as live:
            while not stop.wait(LIVE_EVERY_S):
                live.update(self.panel(), refresh=True)

    def _plain(self, stop: threading.Event) -> None:
        while not stop.wait(PLAIN_EVERY_S):
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """The progress, on one line."""
        now = self._meter.read()
        of = f" of {now.total:,}" if now.total else ""
        facts = [f"{now.records:,}{of} records"]
        if now.phase in (Phase.LOADING, Phase.SENDING):
            facts.append(self._phase(now))
        facts += _rates(now)
        facts += [f"{name} {now.by[key]:,}" for key, (name, _) in _ENDS.items() if key in now.by]
        if now.spent_usd is not None:
            facts.append(f"spent ${now.spent_usd:.4f} of ${now.cap_usd:.2f}")
        facts += [f"saved about {usd(now.saved_usd)}"] if now.saved_usd else []
        facts += [_restarts(now)] if now.engine_restarts else []
        return "  ".join(facts)

    def panel(self) -> RenderableType:
        """The whole panel, for at least 80 columns."""
        now, width = self._meter.read(), min(self._console.width, WIDEST)
        rows: list[RenderableType] = [self._bar(now)]
        if rates := _rates(now):
            rows.append(Text("   ".join(rates)))
        if now.by and not self._console.no_color:  # without colours it would say nothing
            rows.append(_shares(now, width - _AROUND))
        rows += [_ends(now)] if now.by else []
        rows += self._money(now)
        if now.engine_restarts:
            rows.append(Text(_restarts(now), style="red"))
        if now.last_told is not None:
            rows.append(Text(one_line(now.last_told.text), style="yellow"))
        title = Text(self._name or "surelocal", style="bold")
        return Panel(
            Group(*rows), title=title, title_align="left", subtitle=Text(self._phase(now)),
            subtitle_align="right", width=width, border_style="dim",
        )  # fmt: skip

    def _phase(self, now: Reading) -> str:
        closed = f"{self._closed}'s batches" if self._batches else self._closed
        for_s = duration(now.phase_s)
        return {
            Phase.STARTING: "starting",
            Phase.LOADING: f"loading the model, {for_s}",
            Phase.RUNNING: f"running, {duration(now.elapsed_s)}",
            Phase.SENDING: f"waiting for {closed or 'the closed model'}, {for_s}",
            Phase.WRITING: "writing the results",
        }[now.phase]

    def _bar(self, now: Reading) -> RenderableType:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=now.total, completed=now.records, pulse=not now.total)
        count = f"{now.records:,} records"
        if now.total:
            # Rounded down: 100 % is when the last one is there.
            part = int(1000 * min(1, now.records / now.total)) / 10
            count = f"{now.records:,} of {now.total:,}  {part:.1f}%"
        grid.add_row(bar, Text(count))
        return grid

    def _money(self, now: Reading) -> list[RenderableType]:
        if now.spent_usd is None or now.cap_usd is None:
            return []
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(width=24)
        grid.add_column(no_wrap=True)
        cap, spent = float(now.cap_usd), float(now.spent_usd)
        full = "red" if spent >= 0.9 * cap else "yellow"
        bar = ProgressBar(total=cap or 1, completed=spent, complete_style=full)
        grid.add_row("spent", bar, f"${spent:.4f} of ${cap:.2f}")
        rows: list[RenderableType] = [grid]
        if now.all_closed_usd:
            share = float(now.saved_usd / now.all_closed_usd)
            bar = ProgressBar(total=1, completed=share, complete_style="green")
            words = f"about {usd(now.saved_usd)} of {usd(now.all_closed_usd)} all closed"
            grid.add_row("saved", bar, words)
        return rows


@contextmanager
def _thread(show: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=show, args=(stop,), name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _rates(now: Reading) -> list[str]:
    facts = [f"{now.records_per_s:,.1f} records/s"] if now.records_per_s else []
    facts += [f"{now.tokens_per_s:,.0f} tokens/s"] if now.tokens_per_s else []
    facts += [f"about {duration(now.left_s)} left"] if now.left_s else []
    return facts


def _restarts(now: Reading) -> str:
    times = "once" if now.engine_restarts == 1 else f"{now.engine_restarts:,} times"
    return f"the engine died and was started again {times}"


def _ends(now: Reading) -> RenderableType:
    whole = sum(now.by.values())
    facts = [
        Text.assemble(
            (f"{name} ", colour), f"{now.by[key]:,} ", (f"{now.by[key] / whole:.1%}", "dim")
        )
        for key, (name, colour) in _ENDS.items()
        if key in now.by
    ]
    return Columns(facts, padding=(0, 3))


def _shares(now: Reading, width: int) -> RenderableType:
    """One bar of all shares; each that is there has a cell of its own at least."""
    whole, bar = sum(now.by.values()), Text(no_wrap=True)
    shown = [(key, colour) for key, (_, colour) in _ENDS.items() if key in now.by]
    left = width - len(shown)
    cells = [1 + int(left * now.by[key] / whole) for key, _ in shown]
    cells[0] += width - sum(cells)
    for (_, colour), count in zip(shown, cells, strict=True):
        bar.append("━" * count, colour)
    return bar


def show_summary(console: Console, summary: Summary, elapsed_s: float | None = None) -> None:
    """The closing table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for what, how_many in lines(summary):
        table.add_row(one_line(what), how_many)
    if elapsed_s is not None:
        table.add_row("took", duration(elapsed_s))
    console.print(table)
    if summary.stopped is not None:
        console.print(
            f"Sending stopped: {one_line(summary.stopped)}", markup=False, highlight=False
        )
    for sentence in summary.trust:
        console.print(one_line(sentence), markup=False, highlight=False)
