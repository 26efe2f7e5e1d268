"""What was measured, as two tables: ours against the peers, and what a check adds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from engines.meter import Took
from engines.ways import COMPARED, COSTS, OURS

Found = dict[str, dict[int, Took]]
"""By way and round; a round in which it did not run is missing."""


def pairs(found: Found, one: str, other: str) -> list[tuple[Took, Took]]:
    """What both took, in the rounds in which both ran."""
    its, others = found.get(one, {}), found.get(other, {})
    return [(its[n], others[n]) for n in its if n in others]


def middle(takes: Sequence[Took], what: str) -> float:
    return float(median(getattr(one, what) for one in takes))


def compared(found: Found) -> None:
    """Ratios are medians over the rounds, each within one round."""
    print("\n| | tokens/s | ours, times | CPU s | ours, times | load: s | settings |")
    print("|---|---|---|---|---|---|---|")
    for name, way in COMPARED.items():
        if not (takes := [*found.get(name, {}).values()]):
            continue
        both = pairs(found, OURS, name)
        faster = [mine.rate / its.rate for mine, its in both]
        busier = [mine.cpu_s / its.cpu_s for mine, its in both]
        print(
            f"| {name} | {middle(takes, 'rate'):,.0f} | {_ratio(faster)} "
            f"| {middle(takes, 'cpu_s'):.1f} | {_ratio(busier)} "
            f"| {middle(takes, 'load_s'):.1f} | {way.settings} |"
        )


def costs(found: Found) -> None:
    """Each way beside the one that lacks just what its name says."""
    print("\n| | s | CPU s | adds to | s | CPU s | |\n|---|---|---|---|---|---|---|")
    for name, way in COSTS.items():
        if not (takes := [*found.get(name, {}).values()]):
            continue
        both = pairs(found, name, way.adds_to)
        seconds = [mine.seconds - its.seconds for mine, its in both]
        cpu_s = [mine.cpu_s - its.cpu_s for mine, its in both]
        print(
            f"| {name} | {middle(takes, 'seconds'):.1f} | {middle(takes, 'cpu_s'):.1f} "
            f"| {way.adds_to} | {_more(seconds)} | {_more(cpu_s)} | {takes[-1].said} |"
        )


def _ratio(found: list[float]) -> str:
    return f"{median(found):.2f}" if found else "–"


def _more(found: list[float]) -> str:
    return f"{median(found):+.1f}" if found else "–"
