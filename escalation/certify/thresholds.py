"""The threshold with the greatest coverage whose error is certified, and the certificate.

- `certify`: one error rate. `escalation.certify.binomial` has the test and its proof; where the
  labels are drawn out of the very batch that is answered, `escalation.certify.finite_batch` has
  them.
- `certify_all`: several error rates of the same accepted records, one threshold.
- `certify_strata`: several groups of records, each with a threshold of its own.

**Several errors, one threshold.** Say the whole answer may be wrong for 5 % of the accepted and its
amount for 1 %. Each is certified by itself at the full δ, and the strictest of the thresholds is
taken. No correction is due. Let t_i be the loosest safe threshold of error i, and a the error with
the strictest, t_a. The threshold taken is unsafe for *some* error only if it is looser than t_a;
then so is a's own, which is at least as loose: a false certificate of a, and a is fixed by
the traffic, not by the sample: probability ≤ δ. (An intersection–union test: Berger, 1982.) This
leans on `escalation.certify.binomial`'s proviso, that behind a safe threshold all are unsafe. A
batch can be unsafe here for one error and there for another, so there each of k errors gets δ/k,
and the loosest rank certified for all is taken.

**Strata.** Each has records, sample and threshold of its own, so k certificates that are to hold
together share δ: δ/k each, as Bonferroni has it, and then Holm (1979): a stratum that is certified
down to its last record gives its share to the others. That is valid since such a stratum either has
no unsafe threshold, and can break nothing, or has broken its certificate in the same event that is
bounded anyway (the walk meets the boundary at or behind its loosest safe rank). So up to the first
false certificate, the strata that can break theirs have had at most δ divided by their number.
Certificates at a smaller δ are kept within those at a greater one, which that argument needs. All
of them speak of the traffic: in one batch, a stratum may be safe to its last record and yet unsafe
before, and would have no share to pass on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from escalation.certify import finite_batch as finite
from escalation.certify.binomial import (
    Flags,
    Floats,
    Ints,
    crossing_probability,
    fewest_labels,
    gate_boundary,
    group_ends,
    labels_needed,
    loosest_rank,
)
from runner.errors import UsageError
from runner.types import WHOLE, Name

__all__ = [
    "Bound",
    "Certified",
    "certify",
    "certify_all",
    "certify_strata",
    "crossing_probability",
    "fewest_labels",
    "gate_boundary",
]


@dataclass(frozen=True, slots=True)
class Bound:
    """One of several certified errors: its target, and the labelled records accepted that have
    it."""

    target_error: float
    errors: int


@dataclass(frozen=True, slots=True)
class Certified:
    """A threshold and what the sample showed at it. ``threshold`` is None where nothing could be
    certified; then ``labels_needed`` is about how many labels would do, if the rest looks alike
    (None: at no number, since even the best ranks err too often).

    ``accepted`` and ``errors`` count labelled records. ``scope`` says what is certified: the error
    rate of the "traffic" that the labels are a random sample of, or the share of wrong answers in
    the one "batch" of ``population`` records, of which ``population_accepted`` are accepted.
    ``bounds`` holds the errors of fields (`certify_all`); those here are then the first one's.
    """

    target_error: float
    delta: float
    labels: int
    threshold: float | None
    accepted: int
    errors: int
    labels_needed: int | None = None
    scope: Literal["traffic", "batch"] = "traffic"
    population: int | None = None
    population_accepted: int | None = None
    bounds: Mapping[str, Bound] | None = None

    @property
    def coverage(self) -> float:
        """The accepted share of the sample."""
        return self.accepted / self.labels if self.labels else 0.0


def certify(
    scores: Sequence[float],
    wrong: Sequence[bool],
    *,
    target_error: float,
    delta: float = 0.1,
    population: Sequence[float] | None = None,
) -> Certified:
    """The loosest certified threshold on ``scores`` (accept where score ≥ threshold).

    Args:
        scores: one per labelled record, higher = more confident; shape (n,).
        wrong: whether its answer was wrong; shape (n,).
        target_error: α in (0, 1).
        delta: δ in (0, 1), the certificate's own chance to be false.
        population: the scores of all N records of the batch, the labelled ones (a simple random
            sample of them) among them; shape (N,). None: the claim is about the traffic.

    Raises:
        UsageError: a labelled record's score is not among the batch's.
    """
    sample = Sample.of(scores, wrong, population)
    if population is None:
        rank = loosest_rank(sample.scores, sample.errors, target_error, delta)
        threshold = float(sample.scores[rank - 1]) if rank else None
    else:
        threshold = sample.threshold(sample.certified(target_error, delta))
    return sample.at(threshold, target_error, delta)


def certify_all(
    scores: Sequence[float],
    wrongs: Mapping[Name, Sequence[bool]],
    *,
    targets: Mapping[Name, float],
    delta: float = 0.1,
    population: Sequence[float] | None = None,
) -> Certified:
    """The loosest threshold at which every named error is within its target, all at once.

    Args:
        scores: one per labelled record; shape (n,).
        wrongs: name → whether the record has that error; each of shape (n,).
        targets: name → α in (0, 1), at least one; the first is reported first.
        delta: the chance that any of them is false.
        population: as in `certify`.

    Raises:
        UsageError: as in `certify`.
    """
    samples = {name: Sample.of(scores, wrongs[name], population) for name in targets}
    threshold = _loosest_for_all(samples, targets, delta, in_batch=population is not None)
    found = {name: one.at(threshold, targets[name], delta) for name, one in samples.items()}
    needs = [one.labels_needed for one in found.values()]
    return replace(
        next(iter(found.values())),
        labels_needed=None if None in needs else max(need for need in needs if need is not None),
        bounds={
            name: Bound(one.target_error, one.errors)
            for name, one in found.items()
            if name is not WHOLE
        },
    )


def _loosest_for_all(
    samples: Mapping[Name, Sample], targets: Mapping[Name, float], delta: float, *, in_batch: bool
) -> float | None:
    """For traffic at the whole ``delta``, as the docstring of this module proves; in a batch each
    error has its share of it."""
    first = next(iter(samples.values()))
    if in_batch:
        share = delta / len(samples)
        ranks = [one.certified(targets[name], share) for name, one in samples.items()]
        return first.threshold(np.logical_and.reduce(ranks))
    rank = min(
        loosest_rank(one.scores, one.errors, targets[name], delta) for name, one in samples.items()
    )
    return float(first.scores[rank - 1]) if rank else None


def certify_strata(
    samples: Mapping[str, tuple[Sequence[float], Sequence[bool]]],
    *,
    targets: float | Mapping[str, float],
    delta: float = 0.1,
) -> dict[str, Certified]:
    """A threshold for each stratum; that all hold has probability at least 1 − δ.

    Args:
        samples: stratum → scores and wrong of its labelled records, as in `certify`. Of a random
            sample of all records, each stratum's part is one of that stratum.
        targets: α, or stratum → α.

    Returns:
        Stratum → its certificate, with the joint ``delta``.
    """
    each = {name: Sample.of(scores, wrong) for name, (scores, wrong) in samples.items()}
    alphas = {n: targets if isinstance(targets, float) else targets[n] for n in each}
    ranks = _holm(each, alphas, delta)
    thresholds = {n: float(each[n].scores[k - 1]) if k else None for n, k in ranks.items()}
    return {name: one.at(thresholds[name], alphas[name], delta) for name, one in each.items()}


def _holm(
    samples: Mapping[str, Sample], alphas: Mapping[str, float], delta: float
) -> dict[str, int]:
    """The certified rank of each stratum, 0 for none."""
    ladder: dict[str, list[int]] = {}
    for name, one in samples.items():
        # At δ/1, δ/2, …: none looser than at any greater share.
        at = [
            loosest_rank(one.scores, one.errors, alphas[name], delta / share)
            for share in range(1, len(samples) + 1)
        ]
        ladder[name] = np.minimum.accumulate(at).tolist()
    open_ = set(samples)
    ranks: dict[str, int] = {}
    while open_:
        share = len(open_)
        ranks |= {name: ladder[name][share - 1] for name in open_}
        open_ -= {name for name in open_ if ranks[name] == len(samples[name].scores) > 0}
        if len(open_) == share:
            break
    return ranks


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled records by falling score: ``scores`` and the running count of ``errors``, both of
    shape (n,); ``batch`` holds the scores of the whole batch likewise, shape (N,), or None."""

    scores: Floats
    errors: Ints
    batch: Floats | None = None

    @classmethod
    def of(
        cls, scores: Sequence[float], wrong: Sequence[bool], batch: Sequence[float] | None = None
    ) -> Sample:
        """Raises UsageError where ``batch`` lacks one of ``scores``."""
        score = np.asarray(scores, dtype=np.float64)
        errs = np.asarray(wrong, dtype=np.int64)
        # Of equal scores the wrong first: the order in which labels came must not matter.
        order = np.lexsort((-errs, -score))
        errors = np.cumsum(errs[order])
        return cls(score[order], errors, None if batch is None else within(score, batch))

    def certified(self, alpha: float, delta: float) -> Flags:
        """Of the batch's ranks 1 … N, those certified; shape (N,)."""
        assert self.batch is not None
        labelled = np.searchsorted(-self.scores, -self.batch, side="right")
        found = np.append(0, self.errors)[labelled]
        return finite.certified(found, group_ends(self.batch), alpha, delta, len(self.scores))

    def threshold(self, ranks: Flags) -> float | None:
        """The score at the loosest of the batch's ranks that are set."""
        assert self.batch is not None
        return float(self.batch[np.flatnonzero(ranks)[-1]]) if ranks.any() else None

    def at(self, threshold: float | None, alpha: float, delta: float) -> Certified:
        """What the sample shows at a threshold that was certified, or that none was."""
        n, accepted, everywhere = len(self.scores), 0, None
        if threshold is not None:
            accepted = int(np.sum(self.scores >= threshold))
        errors = int(self.errors[accepted - 1]) if accepted else 0
        needed = labels_needed(self.errors, alpha, delta) if threshold is None else None
        if self.batch is None:
            return Certified(alpha, delta, n, threshold, accepted, errors, needed)
        size = len(self.batch)
        if needed is not None:
            needed = min(needed, size) if n < size else None
        everywhere = 0 if threshold is None else int(np.sum(self.batch >= threshold))
        return Certified(
            alpha, delta, n, threshold, accepted, errors, needed, "batch", size, everywhere
        )


def within(scores: Floats, batch: Sequence[float]) -> Floats:
    """The batch's scores, falling.

    Raises:
        UsageError: it does not hold every one of ``scores``, as often as it occurs there.
    """
    rising = np.sort(np.asarray(batch, dtype=np.float64))
    values, counts = np.unique(scores, return_counts=True)
    there = np.searchsorted(rising, values, "right") - np.searchsorted(rising, values, "left")
    if (there < counts).any():
        worst = int(np.argmax(counts - there))
        raise UsageError(
            f"{counts[worst]} labelled with score {values[worst]:g}, but {there[worst]} such in "
            "the batch: the labels must be a sample of the very batch that they certify"
        )
    return rising[::-1]
