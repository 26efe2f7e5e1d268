"""Over random draws of labels: how often certificates are broken, and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from escalation.certify.thresholds import certify, fewest_labels
from selecting.answers import Flags, Floats, Question
from selecting.measures import POOLS, greatest_coverage, pool_of, referenced, risks, trained

TARGETS = (0.01, 0.02, 0.05)
DELTA = 0.1
GRID = np.linspace(0.03, 0.99, 33)
SPLITS_PER_REFERENCE = 20

Threshold = Callable[[Floats, Flags, float], float]


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: each method's scores of the whole pool, and the places of its certifying labels."""

    wrong: Flags
    ours: tuple[Floats, Sequence[int]]
    alone: tuple[Floats, Sequence[int]]


def ours(score: Floats, wrong: Flags, target: float) -> float:
    found = certify(score.tolist(), wrong.tolist(), target_error=target, delta=DELTA)
    return np.inf if found.threshold is None else found.threshold


def fixed_sequence(score: Floats, wrong: Flags, target: float) -> float:
    """The plain test: from the strictest quantile that enough labels reach to show anything, until
    one fails."""
    best = np.inf
    for threshold in np.sort(np.quantile(score, 1 - GRID))[::-1]:
        accepted = score >= threshold
        if accepted.sum() < fewest_labels(target, DELTA):
            continue
        errors = int(wrong[accepted].sum())
        if binom.cdf(errors, int(accepted.sum()), target) > DELTA:
            break
        best = float(threshold)
    return best


Draws = dict[tuple[str, int], list[Draw]]
"""By pool and number of labels."""


def draw_all(questions: Sequence[Question], sizes: Sequence[int], splits: int) -> Draws:
    return {
        (pool, size): list(_draws(pool_of(questions, inside_only), size, splits))
        for pool, inside_only in POOLS.items()
        for size in sizes
    }


def table(drawn: Draws) -> list[str]:
    lines = [
        "| questions | labels | target | surelocal: broken | coverage | of the oracle's "
        "| nothing | probability alone: broken | coverage | of the oracle's | nothing "
        "| plain test: broken | coverage | of the oracle's | nothing |",
        "|" + "---|" * 15,
    ]
    for (pool, size), draws in drawn.items():
        for target in TARGETS:
            cells = " | ".join(
                _cells([(d.wrong, *getattr(d, which)) for d in draws], method, target)
                for which, method in (("ours", ours), ("alone", ours), ("alone", fixed_sequence))
            )
            lines.append(f"| {pool} | {size:,} | {target:.0%} | {cells} |")
    return lines


def cost_table(drawn: Draws, usd: float) -> list[str]:
    """What a thousand records cost, of ``usd`` if all are paid for, and which share of all that is
    delivered is wrong by the local model's doing. What the closed model itself gets wrong comes on
    top, and is not measured here."""
    lines = [
        "| questions | labels | policy | paid for | $ per 1,000 | wrong by the local model |",
        "|---|---|---|---|---|---|",
    ]
    for (pool, size), draws in drawn.items():
        everything = np.mean([d.wrong.mean() for d in draws])
        rows = [("all local", 0.0, everything), ("all closed", 1.0, 0.0)]
        for target in TARGETS:
            accepted = [_accepted(d, target) for d in draws]
            wrong = np.mean([(a & d.wrong).mean() for a, d in zip(accepted, draws, strict=True)])
            paid = 1 - np.mean([a.mean() for a in accepted])
            rows.insert(-1, (f"surelocal at {target:.0%}", float(paid), float(wrong)))
        lines += [
            f"| {pool} | {size:,} | {name} | {paid:.1%} | {paid * usd:.2f} | {wrong:.1%} |"
            for name, paid, wrong in rows
        ]
    return lines


def _accepted(draw: Draw, target: float) -> Flags:
    score, labels = draw.ours
    accepted: Flags = score >= ours(score[labels], draw.wrong[labels], target)
    return accepted


def _draws(pool: Sequence[Question], size: int, splits: int) -> Iterator[Draw]:
    """Labels are drawn with replacement from what is no reference: its error is the truth."""
    split = referenced(pool, 0)
    for number in range(splits):
        if number % SPLITS_PER_REFERENCE == 0:
            split = referenced(pool, number)
            alone = np.array([given["probability"] for given in split.features])
        random = np.random.default_rng([size, number])
        labels = random.integers(0, len(split.rest), size).tolist()
        score, training = trained(split, labels)
        scores = np.array([score(i) for i in range(len(split.rest))])
        yield Draw(split.wrong, (scores, labels[training:]), (alone, labels))


def _cells(
    draws: Sequence[tuple[Flags, Floats, Sequence[int]]], method: Threshold, target: float
) -> str:
    coverage, oracle, broken = [], [], []
    for wrong, score, labels in draws:
        accepted = score >= method(score[labels], wrong[labels], target)
        coverage.append(accepted.mean())
        oracle.append(greatest_coverage(risks(score, wrong), target))
        broken.append(bool(accepted.any() and wrong[accepted].mean() > target))
    share = np.mean(coverage) / np.mean(oracle) if np.mean(oracle) else 0.0
    nothing = np.mean(np.array(coverage) == 0)
    return f"{np.mean(broken):.1%} | {np.mean(coverage):.3f} | {share:.0%} | {nothing:.1%}"


def digits_table(sizes: Sequence[int], splits: int) -> list[str]:
    """The same test on a model and data that have nothing to do with ours: a logistic regression
    on scikit-learn's handwritten digits, with its greatest class probability as the score."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    data, truth = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(truth))
    learn, rest = order[:300], order[300:]
    model = LogisticRegression(C=0.01, max_iter=2000).fit(data[learn] / 16, truth[learn])
    score = model.predict_proba(data[rest] / 16).max(axis=1)
    wrong = model.predict(data[rest] / 16) != truth[rest]
    lines = ["| labels | target | broken | coverage | of the oracle's | nothing |"]
    lines.append("|---|---|---|---|---|---|")
    for size in sizes:
        random = np.random.default_rng(size)
        draws = [
            (wrong, score, random.integers(0, len(rest), size).tolist()) for _ in range(splits)
        ]
        for target in TARGETS:
            lines.append(f"| {size:,} | {target:.0%} | {_cells(draws, ours, target)} |")
    return lines
