"""Computes from an answer's signals the score that decides and the confidence that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from escalation.certify.calibration import Calibration
from escalation.certify.score_fusion import PROBABILITY, SUPPORT, Features
from runner.answering.check import flat_signals, of_fields, value_of
from runner.types import WHOLE, Answer, JSONValue, Name

if TYPE_CHECKING:
    from escalation.certify.neighbour_support import Support

Signals = Mapping[Name, Features]
"""Name (the whole answer or a field) → its signals."""


def signals_of(
    answer: Answer, support: Mapping[Name, float] | None = None
) -> dict[Name, dict[str, float]]:
    """The signals of one generation; empty if the answer is invalid or has no logprobs."""
    if not answer.valid or answer.score is None:
        return {}
    found: dict[Name, dict[str, float]] = {
        name: {PROBABILITY: score} for name, score in answer.scores.items()
    }
    for name, value in (support or {}).items():
        if name in found:
            found[name][SUPPORT] = value
    return found


def values_of(answer: Answer) -> dict[Name, JSONValue]:
    """The answer's value and, for an object, each field's, by the names of its scores."""
    there = {WHOLE, *(answer.value if isinstance(answer.value, dict) else ())}
    return {name: value_of(answer.value, name) for name in answer.scores if name in there}


def with_looks(signals: Signals, looks: Signals) -> dict[Name, dict[str, float]]:
    """Merges both, for the names in ``signals``."""
    return {name: {**given, **looks.get(name, {})} for name, given in signals.items()}


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores answers with a calibration. Without one, answers stay as the Checker returned them.
    ``support`` is the calibration's, or the one being calibrated with."""

    calibration: Calibration | None = None
    support: Support | None = None

    def signals(self, answer: Answer, text: str, record_id: str) -> dict[Name, dict[str, float]]:
        """The signals of one generation, with support if there are references. ``text`` is the
        prompt's last message; ``record_id`` keeps a record from supporting itself."""
        if self.support is None or not answer.valid:
            return signals_of(answer)
        return signals_of(answer, self.support.of_answer(text, values_of(answer), record_id))

    def scored(self, answer: Answer, signals: Signals) -> Answer:
        """The answer with its score, calibrated confidences and signals."""
        if self.calibration is None or not signals:
            return answer
        confidences = self.calibration.confidences(signals)
        return replace(
            answer,
            score=self.calibration.score(signals),
            confidence=confidences.get(WHOLE),
            field_confidence=of_fields(confidences),
            signals={**answer.signals, **flat_signals(signals)},
            calibrated=True,
        )

    def open_to_looks(
        self, signals: Signals, threshold: float | None, *, always: bool = False
    ) -> bool:
        """Whether second looks can still move the score across the threshold; with ``always``,
        whether they can change the score."""
        if self.calibration is None or WHOLE not in signals:
            return False
        combiner = self.calibration.combiners.get(WHOLE)
        if always or combiner is None or threshold is None:
            return always and combiner is not None
        low, high = combiner.bounds(signals[WHOLE])
        return low < threshold <= high
