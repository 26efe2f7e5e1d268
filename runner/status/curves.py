"""What other choices would give: coverage at other targets, expected error at other spends."""

from __future__ import annotations

from decimal import Decimal

from escalation.certify.calibration import Calibration
from escalation.certify.certificates import certified
from runner.job.confidence import Confidence
from runner.ledger import Ledger

TARGETS = (0.01, 0.02, 0.05, 0.1)
POINTS = 10


def certified_curve(calibration: Calibration, rule: Confidence) -> list[tuple[float, float]]:
    """(target error, share of the sample that could be accepted) for a few usual targets.

    Each certificate holds on its own; to have picked one of several is to have looked at all.
    """
    if rule.target_error is None or rule.strata is not None or rule.fields:
        return []
    batch = calibration.batch[0] if calibration.batch is not None else None
    found = []
    for target in TARGETS:
        other = rule.model_copy(update={"target_error": target})
        certificates = certified(calibration, other, batch).certificates or {}
        found += [(target, certificate.coverage) for certificate in certificates.values()]
    return found


def spending_curve(ledger: Ledger) -> list[tuple[Decimal, float]]:
    """(US dollars spent on the closed model, expected wrong share of the answers that have a
    confidence), from nothing sent to all of them sent, where a dollar prevents most.

    The closed model's own mistakes are not in it: nothing is known of them here.
    """
    rows = [(1.0 - confidence, cost) for confidence, cost in ledger.answers.estimates()]
    rows.sort(key=lambda row: -row[0] / max(float(row[1]), 1e-12))
    spent, wrong = Decimal(0), sum(loss for loss, _ in rows)
    curve = [(spent, wrong / len(rows))] if rows else []
    for number, (loss, cost) in enumerate(rows, 1):
        spent, wrong = spent + cost, wrong - loss
        if number % max(1, len(rows) // POINTS) == 0 or number == len(rows):
            curve.append((spent, max(0.0, wrong) / len(rows)))
    return curve
