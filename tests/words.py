"""Every word of ours that a job may use itself, from where we have them."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum

from escalation.certify import labels
from runner import reasons, types
from runner.formats.openai_request import MOST_USD, NAMES
from runner.ledger import CHOOSING, IN_BATCH
from runner.results import COLUMNS
from runner.status.summary import CAUSES

_ENUMS = (reasons.Status, reasons.DecidedBy, reasons.Route, reasons.Reason)
_SHAPES = (
    types.Record, types.Message, types.Prompt, types.Usage, types.Completion, types.Answer,
    types.Outcome,
)  # fmt: skip
_MORE = (
    "", "_", "whole", "label", "value", "answer", "closed", "local", "self", "loop", "none",
    "other", "words", "waits_for", "position", "digest", "held", "signals", "probability",
    "support", "decision.", "decision.value", "record.id", "record", "a.probability",
    ".probability", "WHOLE", "Whole.WHOLE", "the whole answer", MOST_USD, CHOOSING, IN_BATCH,
)  # fmt: skip


def words() -> list[str]:
    """Sorted, each once."""
    enums: tuple[type[StrEnum], ...] = _ENUMS
    found = {str(member) for enum in enums for member in enum}
    found |= {one.name for shape in _SHAPES for one in fields(shape)}
    review = (labels.ID, labels.NOTE, labels.DECISION, labels.FROM_ALL, *labels.WHY)
    return sorted(found | {*COLUMNS, *CAUSES, *NAMES, *review, *_MORE})


WORDS = words()
