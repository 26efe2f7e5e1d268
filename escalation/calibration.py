"""Scores → P(correct), and the labelled sample that certifies a threshold on them.

The *score* that ranks answers is the model's own probability of the values it gave. Calibration
maps it to a probability of being right by Platt scaling on its logit (Platt, 1999, with his
smoothed targets), which keeps the order. So the certificate, which depends on the order alone, is
never trained on the labels that it is made from, and may use all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.errors import UsageError

WHOLE = ""
VERSION = 1
PEOPLE = "people's labels"
IDENTITY = ("prompt", "answer", "local", "local.model files", "routes")
"""The parts of a job that a calibration belongs to (`runner.job.Job.identity`)."""

_EPSILON = 1e-6
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Labelled:
    """One labelled record: the scores of the whole answer and of each field, and which are wrong.

    ``score`` is −1 where there was no valid answer: such a record ranks last and counts as wrong.
    """

    score: float
    wrong: bool
    fields: Mapping[str, tuple[float, bool]]


@dataclass(frozen=True, slots=True)
class Platt:
    """P(correct) = σ(slope · logit(score) + intercept)."""

    slope: float
    intercept: float

    def __call__(self, score: float) -> float:
        """Score in [0, 1] → probability in (0, 1)."""
        z = self.slope * _logit(score) + self.intercept
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What ``localfirst calibrate`` saves. ``sample`` holds (score, wrong) of every label."""

    job: str
    identity: Mapping[str, str]
    source: str
    made: str
    sample: Sequence[tuple[float, bool]]
    platt: Mapping[str, Platt]
    error_raw: float
    error_calibrated: float

    def confidences(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Calibrated probability of each name in ``scores`` that was calibrated."""
        return {n: self.platt[n](s) for n, s in scores.items() if n in self.platt}

    def save(self, path: Path) -> None:
        whole = {"version": VERSION} | asdict(self)
        path.write_text(json.dumps(whole) + "\n", encoding="utf-8")


def load(path: Path, identity: Mapping[str, str]) -> Calibration:
    """Reads a calibration made for exactly this job.

    Raises:
        UsageError: it is not there, is none, or belongs to another job, model or prompt.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("version") != VERSION:
            raise ValueError("of another version")
        platt = {name: Platt(**p) for name, p in data.pop("platt").items()}
        sample = [(float(score), bool(wrong)) for score, wrong in data.pop("sample")]
        calibration = Calibration(platt=platt, sample=sample, **data)
    except FileNotFoundError:
        raise UsageError(
            f"there is no calibration at {path} yet; make it with `localfirst calibrate JOB.yaml "
            "--labels FILE`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a calibration: {error}") from None
    differs = [name for name in IDENTITY if calibration.identity.get(name) != identity.get(name)]
    if differs:
        raise UsageError(
            f"{path} was made for another job: {', '.join(f'`{d}`' for d in differs)} differ; "
            "run `localfirst calibrate` again"
        )
    return calibration


def calibrate(
    job: str, identity: Mapping[str, str], labelled: Sequence[Labelled], made: str
) -> Calibration:
    """Fits one `Platt` for the whole answer and one for each field.

    The expected calibration errors stated are out of fold: of each record as the other folds'
    fit sees it.
    """
    names = {name for one in labelled for name in one.fields}
    valid = [one for one in labelled if one.score >= 0]
    pairs = {WHOLE: [(one.score, one.wrong) for one in valid]}
    pairs |= {name: [one.fields[name] for one in valid if name in one.fields] for name in names}
    whole = pairs[WHOLE]
    return Calibration(
        job=job,
        identity={name: identity[name] for name in IDENTITY},
        source=PEOPLE,
        made=made,
        sample=[(one.score, one.wrong) for one in labelled],
        platt={name: _fit(found) for name, found in sorted(pairs.items()) if found},
        error_raw=expected_calibration_error(whole),
        error_calibrated=expected_calibration_error(_out_of_fold(whole)),
    )


def _fit(pairs: Sequence[tuple[float, bool]]) -> Platt:
    from sklearn.linear_model import LogisticRegression

    right = sum(not wrong for _, wrong in pairs)
    sure = (right + 1) / (right + 2)
    unsure = 1 / (len(pairs) - right + 2)
    inputs, outputs, weights = [], [], []
    for score, wrong in pairs:
        probability = unsure if wrong else sure
        inputs += [[_logit(score)], [_logit(score)]]
        outputs += [1, 0]
        weights += [probability, 1 - probability]
    model = LogisticRegression(C=100.0).fit(inputs, outputs, sample_weight=weights)
    slope = float(model.coef_[0][0])
    if slope > 0:
        return Platt(slope, float(model.intercept_[0]))
    # A falling fit would turn the order around: better the same confidence for every answer.
    return Platt(0.0, _logit((right + 1) / (len(pairs) + 2)))


def _out_of_fold(pairs: Sequence[tuple[float, bool]]) -> list[tuple[float, bool]]:
    seen: list[tuple[float, bool]] = []
    for fold in range(_FOLDS):
        others = [pair for n, pair in enumerate(pairs) if n % _FOLDS != fold]
        if others:
            platt = _fit(others)
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


def _logit(probability: float) -> float:
    p = min(1 - _EPSILON, max(_EPSILON, probability))
    return math.log(p / (1 - p))
