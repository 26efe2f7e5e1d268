"""Which score ranks right answers over wrong ones: ours, its parts, the peers', chance, oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from selecting.answers import Flags, Floats, Question
from selecting.measures import (
    POOLS,
    aurc,
    greatest_coverage,
    pool_of,
    referenced,
    risks,
    trained,
)

TARGETS = (0.01, 0.02, 0.05)
DRAWS = 10
LABELS = 1000
RESAMPLES = 200
OURS = "surelocal"
LOOKS = "surelocal, with every look"
TOKENS = "token probabilities, trained alike"
SIGNALS = {
    "probability": "probability of the value",
    "sequence_probability": "sequence probability",
    "mean_probability": "mean logprob",
    "least_probability": "least token probability",
    "quartile_probability": "lower quartile of tokens",
    "margin": "margin",
    "entropy": "entropy",
}
ASKED = {
    "p_true": "P(true)",
    "wording": "another wording",
    "agreement": "self-consistency (5 samples)",
}

Scores = dict[str, Floats]


def every_score(questions: Sequence[Question], peers: Mapping[str, Floats]) -> Scores:
    """Name → one score per question, higher = surer; all but ours, which must be trained."""
    found: Scores = {}
    for key, name in SIGNALS.items():
        sign = -1.0 if key == "entropy" else 1.0
        found[name] = sign * np.array([q.signals.get(key, 0.0) for q in questions])
    for key, name in ASKED.items():
        found[name] = np.array([q.features.get(key, 0.0) for q in questions])
    found |= {name: np.nan_to_num(np.asarray(s), nan=-1e9) for name, s in peers.items()}
    found["random"] = np.random.default_rng(0).random(len(questions))
    return found


def table(questions: Sequence[Question], scores: Scores) -> tuple[list[str], dict[str, Floats]]:
    """The table in Markdown, and the risk–coverage curves of the last draw with out-of-scope."""
    lines = [
        "| questions | score | AUROC | AURC ·10³ | ours − this (95 %) | coverage at 1 % | 2 % "
        "| 5 % error | out of scope accepted at 5 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    curves: dict[str, Floats] = {}
    for pool, inside_only in POOLS.items():
        measured, curves = _pool(questions, scores, inside_only)
        for name, values in sorted(measured.items(), key=lambda item: item[1][1]):
            lines.append(f"| {pool} | {name} | {_row(values)} |")
    return lines, curves


def _row(values: Sequence[float]) -> str:
    auroc, area, low, high, *covered, outside = values
    difference = "" if np.isnan(low) else f"{low:+.1f} … {high:+.1f}"
    coverage = " | ".join(f"{c:.3f}" for c in covered)
    accepted = "" if np.isnan(outside) else f"{outside:.1%}"
    return f"{auroc:.3f} | {area:.1f} | {difference} | {coverage} | {accepted}"


def _pool(
    questions: Sequence[Question], scores: Scores, inside_only: bool
) -> tuple[dict[str, list[float]], dict[str, Floats]]:
    """Means over draws of reference and labels; every score on the same held-out questions."""
    places = [i for i, q in enumerate(questions) if q.inside or not inside_only]
    pool = pool_of(questions, inside_only)
    rows: dict[str, list[list[float]]] = {}
    differences: dict[str, list[float]] = {}
    curves: dict[str, Floats] = {}
    for draw in range(DRAWS):
        held, wrong, inside, found = _held_out(pool, places, scores, draw)
        for name, score in found.items():
            rows.setdefault(name, []).append(_measures(score, wrong, inside))
        random = np.random.default_rng(draw)
        for _ in range(RESAMPLES // DRAWS):
            again = random.integers(0, len(held), len(held))
            ours = aurc(found[OURS][again], wrong[again])
            for name, score in found.items():
                differences.setdefault(name, []).append(ours - aurc(score[again], wrong[again]))
        curves = {name: risks(score, wrong) for name, score in found.items()}
    measured = {}
    for name, all_rows in rows.items():
        mean = np.mean(all_rows, axis=0).tolist()
        low, high = np.quantile(differences[name], [0.025, 0.975]).tolist()
        ends = [np.nan, np.nan] if name in (OURS, "oracle") else [low, high]
        measured[name] = [*mean[:2], *ends, *mean[2:]]
    return measured, curves


def _held_out(
    pool: Sequence[Question], places: Sequence[int], scores: Scores, draw: int
) -> tuple[list[int], Flags, Flags, Scores]:
    order = np.random.default_rng(draw).permutation(len(pool))
    found: Scores = {}
    held: list[int] = []
    trained_ones = (
        (OURS, (), True),
        (LOOKS, tuple(ASKED), True),
        (TOKENS, ("entropy", "margin", "least_probability"), False),
    )
    for name, also, support in trained_ones:
        split = referenced(pool, draw, also, support=support)
        labels = list(range(LABELS))
        score, training = trained(split, labels)
        held = list(range(training, len(split.rest)))
        found[name] = np.array([score(i) for i in held])
    place = [places[order[len(pool) - len(split.rest) + i]] for i in held]
    wrong = split.wrong[held]
    found |= {name: score[place] for name, score in scores.items()}
    found["oracle"] = (~wrong).astype(np.float64)
    return held, wrong, np.array([split.rest[i].inside for i in held]), found


def _measures(score: Floats, wrong: Flags, inside: Flags) -> list[float]:
    risk = risks(score, wrong)
    covered = [greatest_coverage(risk, target) for target in TARGETS]
    accepted = np.zeros(len(wrong), dtype=bool)
    accepted[np.argsort(-score, kind="stable")[: round(covered[-1] * len(wrong))]] = True
    outside = float(accepted[~inside].mean()) if (~inside).any() else float("nan")
    return [float(roc_auc_score(~wrong, score)), float(1000 * risk.mean()), *covered, outside]
