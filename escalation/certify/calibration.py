"""Fits a job's calibration from labelled answers, and sets the certifying sample apart.

If there are signals besides the answer's probability (`escalation.certify.neighbour_support`,
second looks), a share of the labels trains the combiner that ranks answers, and only the others
certify. Otherwise the probability ranks answers and all labels certify. Platt scaling to P(correct)
keeps the order, so it does not affect the certificate, which depends only on the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from escalation.certify.score_fusion import (
    ALONE,
    PROBABILITY,
    Features,
    Platt,
    ScoreFusion,
    fit_combiner,
    fit_platt,
)
from runner.job import id_digest
from runner.types import WHOLE, Name

if TYPE_CHECKING:
    from escalation.certify.neighbour_support import Support

PEOPLE = "people's labels"
TEACHER = "the closed model's answers"
IDENTITY = ("prompt", "answer", "local", "local.model files", "routes", "looks", "strata")
"""The parts of a job that a calibration depends on (`runner.job.Job.identity`)."""

TRAIN_SHARE = 0.2
MOST_TRAINING = 200
FEWEST_TRAINING = 50
NO_ANSWER = -1.0
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Labelled:
    """One labelled record. ``features`` holds those of the whole answer and of each field; empty if
    there was no valid answer, which ranks last and counts as wrong. ``closed_wrong`` says whether
    the closed model's answer is wrong; None if it was not asked."""

    record_id: str
    features: Mapping[Name, Features]
    wrong: bool
    wrong_fields: Mapping[str, bool] = field(default_factory=dict)
    stratum: str = ""
    closed_wrong: bool | None = None


@dataclass(frozen=True, slots=True)
class Certifying:
    """A labelled record of the certifying sample: its id hashed, and its score in [0, 1] or
    `NO_ANSWER`."""

    mark: str
    score: float
    wrong: bool
    wrong_fields: Mapping[str, bool]
    stratum: str
    closed_wrong: bool | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What ``surelocal calibrate`` saves. ``training`` is the number of labels that trained the
    combiners.

    ``batch`` is (SHA-256 of the records' file, the scores of all its records that reach the local
    model), if the sample is a considerable part of that file.
    """

    job: str
    identity: Mapping[str, str]
    source: str
    made: str
    training: int
    sample: Sequence[Certifying]
    combiners: Mapping[Name, ScoreFusion]
    platt: Mapping[Name, Platt]
    support: Support | None
    error_raw: float
    error_calibrated: float
    batch: tuple[str, Sequence[float]] | None = None

    def score(self, features: Mapping[Name, Features]) -> float:
        """The score that ranks an answer, in (0, 1); `NO_ANSWER` if it has no features."""
        whole, combiner = features.get(WHOLE), self.combiners.get(WHOLE)
        # If no labelled answer had a signal, there is no combiner.
        return combiner(whole) if whole and combiner is not None else NO_ANSWER

    def confidences(self, features: Mapping[Name, Features]) -> dict[Name, float]:
        """P(correct) for each name that was calibrated."""
        return {
            name: self.platt[name](self.combiners[name](given))
            for name, given in features.items()
            if name in self.platt
        }


def calibrate(
    labelled: Sequence[Labelled],
    *,
    job: str,
    identity: Mapping[str, str],
    source: str,
    made: str,
    support: Support | None = None,
) -> Calibration:
    """Fits a combiner and a Platt scaling for the whole answer and for each field.

    ``labelled`` must be in random order: the first of them train. The expected calibration error is
    cross-validated: each record is scaled by a fit on the other folds.
    """
    training = _training(labelled)
    names = sorted({name for one in labelled for name in one.features}, key=str)
    combiners = {name: _combiner(name, labelled[:training]) for name in names}
    certifying = labelled[training:]
    pairs = {name: _scored(name, certifying, combiners[name]) for name in names}
    whole = pairs.get(WHOLE, [])
    raw = _scored(WHOLE, certifying, ALONE)
    return Calibration(
        job=job,
        identity={name: identity[name] for name in IDENTITY},
        source=source,
        made=made,
        training=training,
        sample=[_certifying(one, combiners) for one in certifying],
        combiners=combiners,
        platt={name: fit_platt(found) for name, found in pairs.items() if found},
        support=support,
        error_raw=expected_calibration_error(raw),
        error_calibrated=expected_calibration_error(_out_of_fold(whole)),
    )


def _training(labelled: Sequence[Labelled]) -> int:
    signals = {name for one in labelled for given in one.features.values() for name in given}
    return training_share(len(labelled)) if signals - {PROBABILITY} else 0


def training_share(labels: int) -> int:
    """The number of labels that train, of ``labels``, if there are further signals."""
    share = min(MOST_TRAINING, round(TRAIN_SHARE * labels))
    return share if share >= FEWEST_TRAINING else 0


def _wrong(name: Name, one: Labelled) -> bool | None:
    return one.wrong if name is WHOLE else one.wrong_fields.get(name)


def _combiner(name: Name, training: Sequence[Labelled]) -> ScoreFusion:
    known = [
        (one.features[name], wrong)
        for one in training
        if name in one.features and (wrong := _wrong(name, one)) is not None
    ]
    if not known:
        return ALONE
    rows, wrongs = zip(*known, strict=True)
    return fit_combiner(rows, wrongs)


def _scored(
    name: Name, labelled: Sequence[Labelled], combiner: ScoreFusion
) -> list[tuple[float, bool]]:
    return [
        (combiner(one.features[name]), wrong)
        for one in labelled
        if name in one.features and (wrong := _wrong(name, one)) is not None
    ]


def _certifying(one: Labelled, combiners: Mapping[Name, ScoreFusion]) -> Certifying:
    whole = one.features.get(WHOLE)
    score = combiners[WHOLE](whole) if whole else NO_ANSWER
    name = id_digest(one.record_id)
    return Certifying(name, score, one.wrong, dict(one.wrong_fields), one.stratum, one.closed_wrong)


def _out_of_fold(pairs: Sequence[tuple[float, bool]]) -> list[tuple[float, bool]]:
    seen: list[tuple[float, bool]] = []
    for fold in range(_FOLDS):
        others = [pair for n, pair in enumerate(pairs) if n % _FOLDS != fold]
        if others:
            platt = fit_platt(others)
            seen += [(platt(score), wrong) for score, wrong in pairs[fold::_FOLDS]]
    return seen


def expected_calibration_error(pairs: Sequence[tuple[float, bool]], bins: int = 15) -> float:
    """Mean |confidence − accuracy| over equal-width bins, weighted by size (Guo et al., 2017)."""
    gathered: dict[int, list[tuple[float, bool]]] = {}
    for confidence, wrong in pairs:
        gathered.setdefault(min(bins - 1, int(confidence * bins)), []).append((confidence, wrong))
    total = 0.0
    for found in gathered.values():
        confidence = sum(c for c, _ in found)
        accuracy = sum(not wrong for _, wrong in found)
        total += abs(confidence - accuracy)
    return total / len(pairs) if pairs else 0.0
