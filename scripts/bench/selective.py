"""What the confidence ranks, and whether certificates hold, on the demo model and CLINC150's test.

    python scripts/bench/selective.py [--splits 200] [--labels 1000] [--plot FILE]

One pass of the local model over 4,500 in-scope and 1,000 out-of-scope test questions, with every
look at each answer; all scores, cascadeflow's and uqlm's included, are of the same completions.
Out-of-scope questions have no right answer, so every answer to one is wrong. Prints tables in
Markdown. The peers are installed into a virtual environment of their own, once; without a network
they are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from peers.install import PeersError, peer_scores, peers_python
from selecting import certifying, ranking
from selecting.answers import SYSTEM, Floats, Question, answer_all
from selecting.answers import questions as questions_and_labels

from escalation.providers.prices import price_date, price_of
from runner.job import Escalation

HERE = Path(__file__).resolve().parent
DRAWN = (ranking.OURS, "sequence probability", "entropy", "cascadeflow", "random", "oracle")
POINTS = 400
OUTPUT_TOKENS = 12
CLOSED = Escalation.model_validate({})


def peers(questions: Sequence[Question]) -> dict[str, Floats]:
    try:
        return peer_scores([q.row for q in questions])
    except PeersError as error:
        print(f"cascadeflow and uqlm are left out: {error}\n")
        return {}


def all_closed_usd(questions: Sequence[Question]) -> float:
    """A thousand of the questions by the closed model, estimated as a run estimates it."""
    price, around = price_of(CLOSED), len(json.dumps(questions_and_labels()[1]))
    costs = [price.estimate(around + len(SYSTEM) + len(q.text), OUTPUT_TOKENS) for q in questions]
    return float(1000 * sum(costs) / len(costs))


def plot(curves: Mapping[str, Floats], path: Path) -> None:
    """Risk against coverage; drawn where the peers live, since matplotlib does."""
    shown = {}
    for name in DRAWN:
        if name in curves:
            kept = np.linspace(0, len(curves[name]) - 1, POINTS).astype(int)
            coverage = (kept + 1) / len(curves[name])
            shown[name] = [coverage.tolist(), curves[name][kept].tolist()]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(shown, file)
        file.flush()
        command = [peers_python(), HERE / "peers" / "plot.py", file.name, path]
        subprocess.run(list(map(str, command)), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--labels", type=int, nargs="+", default=[1000])
    parser.add_argument("--plot", type=Path, help="also draws risk against coverage, as SVG or PNG")
    options = parser.parse_args()
    questions = answer_all()
    lines, curves = ranking.table(questions, ranking.every_score(questions, peers(questions)))
    print("\n".join(lines))
    print(
        f"\nCertificates at delta = {certifying.DELTA}, {options.splits} random draws of labels:\n"
    )
    drawn = certifying.draw_all(questions, options.labels, options.splits)
    print("\n".join(certifying.table(drawn)))
    print(f"\nCost, by the prices of {price_date()} for {CLOSED.model}, nothing cached:\n")
    print("\n".join(certifying.cost_table(drawn, all_closed_usd(questions))))
    print("\nThe same on scikit-learn's handwritten digits and a logistic regression:\n")
    print("\n".join(certifying.digits_table(options.labels, options.splits)))
    if options.plot is not None:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
