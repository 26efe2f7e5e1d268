"""The threshold with the greatest coverage whose error is certified, and the certificate.

- `certify`: one error rate. `escalation.certify.binomial` has the test and its proof; for labels
  drawn from the batch that is answered, `escalation.certify.finite_batch` has them.
- `certify_all`: several error rates of the same accepted records, one threshold.
- `certify_strata`: several groups of records, each with its threshold.

**Several errors, one threshold.** Say the whole answer may be wrong for 5 % of the accepted and its
amount for 1 %. Each is certified separately at the full δ, and the strictest of the thresholds is
taken. No correction is needed. Let t_i be the loosest safe threshold of error i, and a the error
with the strictest, t_a. The threshold taken is unsafe for *some* error only if it is looser than
t_a. Then the threshold certified for a is looser too, since it is at least as loose as the one
taken: a false certificate of a. Since a is fixed by the traffic, not by the sample, the probability
is ≤ δ. (An intersection–union test: Berger, 1982.) This uses `escalation.certify.binomial`'s
proviso, that all thresholds looser than the loosest safe one are unsafe. In a batch, different
errors can be unsafe at different ranks, so there each of k errors gets δ/k, and the loosest rank
certified for all is taken.

**Strata.** Strata have separate records, samples and thresholds, so k certificates that must hold
together share δ: first δ/k each (Bonferroni), then Holm's procedure (1979): a stratum that is
certified down to its last record passes its share to the others. That is valid since such a stratum
either has no unsafe threshold, so its certificate cannot be false, or its certificate is false in
the event that is bounded already (the walk meets the boundary at or behind its loosest safe rank).
So up to the first false certificate, the strata whose certificate can be false have had at most δ
divided by their number. The argument needs a certificate at a smaller δ to be no looser than one at
a greater δ, which the code ensures. All of these certificates are for traffic: in one batch, a
stratum may be safe down to its last record and yet unsafe at an earlier rank, so it would have no
share to pass on.
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
    """One of several certified errors: its target, and how many accepted labelled records have
    it."""

    target_error: float
    errors: int


@dataclass(frozen=True, slots=True)
class Certified:
    """A certified threshold and the sample's counts at it. ``threshold`` is None if none could be
    certified; then ``labels_needed`` estimates how many labels would suffice if further ones
    resembled these (None if no number would: even the best ranks err too often).

    ``accepted`` and ``errors`` count labelled records. ``scope`` is "traffic" if the certified
    error rate is that of the traffic that the labels are a random sample of, and "batch" if it is
    that of one batch of ``population`` records, of which ``population_accepted`` are accepted.
    ``bounds`` holds the errors of fields (`certify_all`); the other attributes are then the first
    error's.
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
        """The share of the sample that is accepted, in [0, 1]."""
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
        delta: δ in (0, 1), the probability that the certificate is false.
        population: the scores of all N records of the batch, including the labelled ones, which are
            a simple random sample of them; shape (N,). None: the certificate is for traffic.

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
    """The loosest threshold certified to keep every named error within its target.

    Args:
        scores: one per labelled record; shape (n,).
        wrongs: name → whether the record has that error; each of shape (n,).
        targets: name → α in (0, 1), at least one; the first is reported first.
        delta: the probability that any of the claims is false.
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
    """For traffic, each error is tested at the full ``delta`` (the module's docstring has the
    proof); in a batch, each error gets an equal share of it."""
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
    """Certifies a threshold for each stratum; with probability at least 1 − δ, all of them hold.

    Args:
        samples: stratum → scores and wrong of its labelled records, as in `certify`. In a random
            sample of all records, each stratum's part is a random sample of that stratum.
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
        # At δ/1, δ/2, …: a rank is never looser than one at a greater share.
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
    """Labelled records by descending score: ``scores`` and the cumulative count of ``errors``, both
    of shape (n,). ``batch`` holds the batch's scores, descending, shape (N,), or None."""

    scores: Floats
    errors: Ints
    batch: Floats | None = None

    @classmethod
    def of(
        cls, scores: Sequence[float], wrong: Sequence[bool], batch: Sequence[float] | None = None
    ) -> Sample:
        """Sorts the records. Raises UsageError if ``batch`` lacks one of ``scores``."""
        score = np.asarray(scores, dtype=np.float64)
        errs = np.asarray(wrong, dtype=np.int64)
        # Wrong answers come first among equal scores, so that the labels' order has no effect.
        order = np.lexsort((-errs, -score))
        errors = np.cumsum(errs[order])
        return cls(score[order], errors, None if batch is None else within(score, batch))

    def certified(self, alpha: float, delta: float) -> Flags:
        """Which of the batch's ranks 1 … N are certified; shape (N,)."""
        assert self.batch is not None
        labelled = np.searchsorted(-self.scores, -self.batch, side="right")
        found = np.append(0, self.errors)[labelled]
        return finite.certified(found, group_ends(self.batch), alpha, delta, len(self.scores))

    def threshold(self, ranks: Flags) -> float | None:
        """The score at the loosest of the batch's ranks that are set."""
        assert self.batch is not None
        return float(self.batch[np.flatnonzero(ranks)[-1]]) if ranks.any() else None

    def at(self, threshold: float | None, alpha: float, delta: float) -> Certified:
        """The certificate for a threshold; None: no threshold was certified."""
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
    """The batch's scores, descending.

    Raises:
        UsageError: the batch lacks one of ``scores``, or has it fewer times.
    """
    rising = np.sort(np.asarray(batch, dtype=np.float64))
    values, counts = np.unique(scores, return_counts=True)
    there = np.searchsorted(rising, values, "right") - np.searchsorted(rising, values, "left")
    if (there < counts).any():
        worst = int(np.argmax(counts - there))
        raise UsageError(
            f"{counts[worst]} labelled records have the score {values[worst]:g}, but the batch has "
            f"{there[worst]} such: the labels must be a sample of the batch that they certify"
        )
    return rising[::-1]
