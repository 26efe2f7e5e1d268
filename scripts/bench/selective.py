"""What the confidence ranks, and whether certificates hold, on the demo model and CLINC150's test.

    python scripts/bench/selective.py [--splits 200] [--labels 500 1000 2000]

One pass of the local model over 4,500 in-scope and 1,000 out-of-scope test questions; everything
below is computed from the same completions. Out-of-scope questions have no right answer, so every
answer to one is wrong. Prints two tables in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from escalation.risk import certify, fewest_labels
from runner.check import Checker
from runner.engines.vllm import VllmEngine
from runner.job import Local
from runner.types import Constraint, Message, Prompt, Sampling

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
SYSTEM = "Answer with the intent of the customer's message."
SIGNALS = ("sequence_probability", "least_probability", "mean_probability")
TARGETS = (0.01, 0.02, 0.05)
DELTA = 0.1
GRID = np.linspace(0.03, 0.99, 33)

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Answered:
    """Parallel arrays over questions: signals (name → score), wrong, in scope."""

    signals: dict[str, Floats]
    wrong: Flags
    inside: Flags


def answer_all() -> Answered:
    """Every test question through the demo model, once."""
    with gzip.open(DEMO / "clinc150" / "data_full.json.gz", "rt", encoding="utf-8") as file:
        data = json.load(file)
    questions = [(text, label, True) for text, label in data["test"]]
    questions += [(text, "", False) for text, _ in data["oos_test"]]
    constraint = Constraint(labels=tuple(sorted({label for _, label in data["train"]})))
    checker = Checker(constraint)
    local = Local(model="demo", cpu_threads=1, engine_args={"dtype": "float32"})
    engine = VllmEngine(str(DEMO / "model"), local)

    async def ask(text: str, label: str) -> tuple[dict[str, float], bool]:
        messages = (Message("system", SYSTEM), Message("user", text))
        completion = await engine.generate(Prompt(messages, constraint), Sampling(max_tokens=16))
        answer = checker.check(completion)
        return dict(answer.signals), answer.value != label

    async def all_of_them() -> list[tuple[dict[str, float], bool]]:
        answers = await asyncio.gather(*(ask(text, label) for text, label, _ in questions))
        await engine.aclose()
        return answers

    answers = asyncio.run(all_of_them())
    return Answered(
        {name: np.array([s.get(name, 0.0) for s, _ in answers]) for name in SIGNALS},
        np.array([wrong for _, wrong in answers]),
        np.array([inside for _, _, inside in questions]),
    )


def risks(score: Floats, wrong: Flags) -> Floats:
    """Selective risk at each coverage k / n, k = 1 … n."""
    order = np.argsort(-score, kind="stable")
    risk: Floats = np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)
    return risk


def greatest_coverage(risk: Floats, target: float) -> float:
    """The greatest coverage at which the selective risk is at most the target."""
    safe = np.nonzero(risk <= target)[0]
    return float((safe[-1] + 1) / len(risk)) if len(safe) else 0.0


def ranking_table(answered: Answered) -> list[str]:
    """AUROC, AURC and coverage by signal, in scope and with the out-of-scope questions."""
    random = np.random.default_rng(0).random(len(answered.wrong))
    perfect = (~answered.wrong).astype(np.float64)
    named = answered.signals | {"random": random, "oracle": perfect}
    lines = [
        "| questions | score | AUROC | AURC ·10³ | coverage at 1 % | 2 % | 5 % error |",
        "|---|---|---|---|---|---|---|",
    ]
    for pool, keep in (
        ("in scope", answered.inside),
        ("+ 18 % out of scope", np.ones_like(answered.inside)),
    ):
        for name, scores in named.items():
            risk = risks(scores[keep], answered.wrong[keep])
            auroc = roc_auc_score(~answered.wrong[keep], scores[keep])
            covered = " | ".join(f"{greatest_coverage(risk, t):.3f}" for t in TARGETS)
            row = f"| {pool} | {name} | {auroc:.3f} | {1000 * risk.mean():.1f} | {covered} |"
            lines.append(row.replace("_", " "))
    return lines


def fixed_sequence(score: Floats, wrong: Flags, target: float, thresholds: Floats) -> float:
    """The plain test that ours is held against: from the strictest threshold that enough labels
    reach to show anything, until one fails."""
    best = np.inf
    for threshold in thresholds:
        accepted = score >= threshold
        if accepted.sum() < fewest_labels(target, DELTA):
            continue
        errors = int(wrong[accepted].sum())
        if binom.cdf(errors, int(accepted.sum()), target) > DELTA:
            break
        best = float(threshold)
    return best


def certificate_table(answered: Answered, sizes: list[int], splits: int) -> list[str]:
    """Over random draws of labels: how often certificates are broken, and what they keep."""
    score = answered.signals[SIGNALS[0]]
    lines = [
        "| questions | labels | target | ours: broken | of the oracle's coverage | nothing "
        "| plain: broken | of the oracle's | nothing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pool, keep in (
        ("in scope", answered.inside),
        ("+ 18 % out of scope", np.ones_like(answered.inside)),
    ):
        for size in sizes:
            for target in TARGETS:
                found = _draws(score[keep], answered.wrong[keep], size, target, splits)
                lines.append(f"| {pool} | {size:,} | {target:.0%} | {' | '.join(found)} |")
    return lines


def _draws(score: Floats, wrong: Flags, size: int, target: float, splits: int) -> list[str]:
    random = np.random.default_rng(size)
    oracle = greatest_coverage(risks(score, wrong), target)
    strict_first = np.sort(np.quantile(score, 1 - GRID))[::-1]
    methods: list[Callable[[Floats, Flags], float]] = [
        lambda s, w: _ours(s, w, target),
        lambda s, w: fixed_sequence(s, w, target, strict_first),
    ]
    columns: list[str] = []
    drawn = [random.integers(0, len(score), size) for _ in range(splits)]
    for method in methods:
        coverage, broken = [], []
        for rows in drawn:
            accepted = score >= method(score[rows], wrong[rows])
            coverage.append(accepted.mean())
            broken.append(bool(accepted.any() and wrong[accepted].mean() > target))
        nothing = np.mean(np.array(coverage) == 0)
        columns += [f"{np.mean(broken):.1%}", f"{np.mean(coverage) / oracle:.0%}", f"{nothing:.1%}"]
    return columns


def _ours(score: Floats, wrong: Flags, target: float) -> float:
    found = certify(score.tolist(), wrong.tolist(), target_error=target, delta=DELTA)
    return np.inf if found.threshold is None else found.threshold


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--labels", type=int, nargs="+", default=[500, 1000, 2000])
    options = parser.parse_args()
    answered = answer_all()
    print("\n".join(ranking_table(answered)))
    print(f"\nCertificates at delta = {DELTA}, {options.splits} random draws of labels each:\n")
    print("\n".join(certificate_table(answered, options.labels, options.splits)))


if __name__ == "__main__":
    main()
