"""Figures by matplotlib as inline SVG that takes its colours and its font from the page.

Colours are drawn as placeholders and replaced by the page's variables, so that one figure is right
by day and by night; text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE = "#010201", "#010202", "#010203"
ACCENT, OTHER, BAD = "#010204", "#010205", "#010206"
_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", OTHER: "other", BAD: "bad"
}  # fmt: skip
_INCHES = (4.5, 3.1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar is a dollar
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
}


def figure(name: str, says: str, draw: Callable[[Axes], None]) -> str:
    """One ``<svg>``. ``name`` keeps its ids apart from other figures'; ``says`` is for those who
    do not see it."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        canvas = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasSVG(canvas)
        draw(canvas.add_subplot())
        out = io.StringIO()
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        canvas.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _inline(out.getvalue(), name, says)


def _inline(svg: str, name: str, says: str) -> str:
    """Without what belongs to a file: its prolog, its fixed size, a style for the whole page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None
    head = f'<svg {box[0]} role="img" aria-label="{escape(says)}" class="plot">'
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'\bxlink:href="#', f'href="#{name}-', svg)
    # Fonts of this machine mean nothing on the reader's.
    svg = re.sub(r"font: (\d[\d.]*px) [^;\"]+", r"font-size: \1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()
