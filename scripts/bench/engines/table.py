"""What was measured, as two tables: ours against the peers, and what a check adds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from engines.meter import Took
from engines.ways import COMPARED, COSTS, OURS

Found = dict[str, list[Took]]


def middle(takes: Sequence[Took], what: str) -> float:
    return float(median(getattr(one, what) for one in takes))


def compared(found: Found) -> None:
    """Ratios are medians over the rounds, each within one round."""
    print("\n| | tokens/s | ours, times | CPU s | ours, times | load: s | settings |")
    print("|---|---|---|---|---|---|---|")
    for name, way in COMPARED.items():
        if not (takes := found.get(name)):
            continue
        pairs = list(zip(found.get(OURS, []), takes, strict=False))
        faster = [mine.rate / its.rate for mine, its in pairs]
        busier = [mine.cpu_s / its.cpu_s for mine, its in pairs]
        print(
            f"| {name} | {middle(takes, 'rate'):,.0f} | {_ratio(faster)} "
            f"| {middle(takes, 'cpu_s'):.1f} | {_ratio(busier)} "
            f"| {middle(takes, 'load_s'):.1f} | {way.settings} |"
        )


def costs(found: Found) -> None:
    """Each way beside the one that lacks just what its name says."""
    print("\n| | s | CPU s | adds to | s | CPU s | |\n|---|---|---|---|---|---|---|")
    for name, way in COSTS.items():
        if not (takes := found.get(name)):
            continue
        pairs = list(zip(takes, found.get(way.adds_to, []), strict=False))
        seconds = [mine.seconds - its.seconds for mine, its in pairs]
        cpu_s = [mine.cpu_s - its.cpu_s for mine, its in pairs]
        print(
            f"| {name} | {middle(takes, 'seconds'):.1f} | {middle(takes, 'cpu_s'):.1f} "
            f"| {way.adds_to} | {_more(seconds)} | {_more(cpu_s)} | {takes[-1].said} |"
        )


def _ratio(found: list[float]) -> str:
    return f"{median(found):.2f}" if found else "–"


def _more(found: list[float]) -> str:
    return f"{median(found):+.1f}" if found else "–"
