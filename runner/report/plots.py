"""The page's four plots, from numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runner.ledger.answers import Confidences
from runner.report.calls import Calls
from runner.report.drawing import ACCENT, BAD, INK, MUTED, OTHER, figure
from runner.report.evidence import Bin, Evidence, Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_THRESHOLDS = 6
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))


def reliability(evidence: Evidence, called: str) -> str:
    """Draws the share of correct answers against the stated confidence, with 95 % intervals."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        if evidence.labels is not None:
            _points(axes, evidence.labels.bins, ACCENT, "o", 0.0)
        _points(axes, evidence.checked, OTHER, "D", 0.008 if evidence.labels else 0.0)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xlabel=called)
        axes.set_ylabel("share that was right")
        _percent(axes, x=True)

    return figure("reliability", "Stated confidence against the share that was right", draw)


def _points(axes: Axes, bins: Sequence[Bin], colour: str, marker: str, aside: float) -> None:
    if not bins:
        return
    x = [one.confidence + aside for one in bins]
    y = [one.share for one in bins]
    low = [one.share - one.interval[0] for one in bins]
    high = [one.interval[1] - one.share for one in bins]
    axes.errorbar(
        x, y, yerr=[low, high], fmt=marker, color=colour, ecolor=colour, elinewidth=1.2,
        markersize=5.5, markeredgewidth=0,
    )  # fmt: skip


def risk_coverage(labels: Labels, target: float | None) -> str:
    """Draws the error rate of the accepted answers against coverage."""

    def draw(axes: Axes) -> None:
        x, y = [c for c, _ in labels.curve], [r for _, r in labels.curve]
        overall = labels.wrong / labels.count
        axes.axhline(overall, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        top = max([overall, target or 0, *y[len(y) // 10 :]]) * 1.25 or 0.01
        # Of two lines near each other, the lower one's words stand below it.
        below = target is not None and overall <= target
        _along(axes, overall, "accepted at random", MUTED, top, below=below)
        axes.plot(x, y, color=ACCENT, drawstyle="steps-post")
        if target is not None:
            axes.axhline(target, color=BAD, linewidth=1.2)
            said = f"asked for: {target * 100:.4g}%"
            _along(axes, target, said, BAD, top, below=target < overall)
        if labels.accepted:
            at = labels.accepted / labels.count
            axes.axvline(at, color=INK, linewidth=1)
            axes.plot([at], [labels.wrong_accepted / labels.accepted], "o", color=INK, markersize=6)
            left = at > 0.6
            axes.text(
                at + (-0.015 if left else 0.015), top * 0.97, "threshold", color=INK, fontsize=9,
                ha="right" if left else "left", va="top",
            )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, top), xlabel="share accepted", ylabel="of these, wrong")
        _percent(axes, x=True)

    return figure("risk", "Share of accepted answers that are wrong, by share accepted", draw)


def _along(axes: Axes, at: float, says: str, colour: str, top: float, *, below: bool) -> None:
    room = at > 0.08 * top
    axes.text(
        0.005, at + top * (-0.02 if below and room else 0.02), says, color=colour, fontsize=9,
        va="top" if below and room else "bottom",
    )  # fmt: skip


def histogram(found: Confidences, thresholds: Sequence[float], called: str) -> str:
    """Draws a histogram of local answers by confidence: accepted ones and others."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        bins = len(found.kept)
        width = 1 / bins
        middles = [(n + 0.5) * width for n in range(bins)]
        axes.bar(middles, found.others, width * 0.9, color=OTHER)
        axes.bar(middles, found.kept, width * 0.9, bottom=found.others, color=ACCENT)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.08)  # room for a word above the bars
        for at in thresholds[:MOST_THRESHOLDS]:
            axes.axvline(at, color=INK, linewidth=1)
        if len(thresholds) == 1:
            left = thresholds[0] > 0.5
            top = axes.get_ylim()[1]
            axes.text(
                thresholds[0] + (-0.015 if left else 0.015), top * 0.99, "threshold", color=INK,
                fontsize=9, ha="right" if left else "left", va="top",
            )  # fmt: skip
        axes.set(xlim=(0, 1), xlabel=called, ylabel="answers")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _percent(axes, x=True, y=False)

    return figure("histogram", "Local answers by confidence", draw)


def spend(calls: Calls, cap: Decimal | None) -> str:
    """Draws the US dollars spent over time."""

    def draw(axes: Axes) -> None:
        last = calls.spend[-1][0]
        divisor, unit = next(((d, u) for least, d, u in _UNITS if last >= least), (1, "seconds"))
        x = [at / divisor for at, _ in calls.spend]
        y = [float(usd) for _, usd in calls.spend]
        axes.fill_between(x, y, step="post", color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=ACCENT, drawstyle="steps-post")
        top = y[-1] * 1.2 or 1e-6
        # A cap far above would press the curve flat: the caption says it then.
        if cap is not None and float(cap) <= 4 * y[-1]:
            top = max(top, float(cap) * 1.12)
            axes.axhline(float(cap), color=BAD, linewidth=1.2)
            axes.text(x[-1], float(cap), "cap", color=BAD, fontsize=9, ha="right", va="bottom")
        axes.set(xlim=(0, x[-1]), ylim=(0, top), xlabel=f"{unit} since the first call")
        digits = 0 if top > 20 else 2 if top > 0.2 else 4
        axes.yaxis.set_major_formatter(lambda value, _: f"${value:,.{digits}f}")

    return figure("spend", "US dollars spent over time", draw)


def _percent(axes: Axes, *, x: bool, y: bool = True) -> None:
    def words(value: float, _: Any) -> str:
        return f"{value:.0%}" if round(value * 100, 6) == round(value * 100) else f"{value:.1%}"

    if x:
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.xaxis.set_major_formatter(words)
    if y:
        axes.yaxis.set_major_formatter(words)
