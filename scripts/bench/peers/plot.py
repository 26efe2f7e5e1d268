"""Draws risk–coverage curves: `python plot.py CURVES.json OUT.svg`.

CURVES.json: name → [coverages, risks]. Runs in .venv-peers, for its matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    for name, (coverage, risk) in curves.items():
        strong = name == "surelocal"
        axes.plot(
            coverage,
            [100 * r for r in risk],
            label=name,
            linewidth=2.4 if strong else 1.2,
            linestyle="--" if name in ("random", "oracle") else "-",
            zorder=3 if strong else 2,
        )
    axes.axhline(5, color="0.7", linewidth=0.8, zorder=1)
    axes.set(xlabel="share of answers accepted (coverage)", ylabel="wrong among them, %")
    axes.set(xlim=(0, 1), ylim=(0, 25))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
