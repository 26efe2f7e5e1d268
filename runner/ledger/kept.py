"""The objects that the ledger returns: waiting records in full, and known outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runner.types import Reason, Record, Status


@dataclass(frozen=True, slots=True)
class Held:
    """A record that waits or is in review, whole, so that no later step needs the input file.
    ``local``: the local model's ``value`` and ``model`` and the ``signals`` taken of it. ``words``:
    see `Outcome`."""

    record: Record
    reason: Reason
    confidence: float | None
    field_confidence: Mapping[str, float]
    closed_estimate: Decimal
    local: Mapping[str, Any] | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Which record an outcome belongs to, and how it ended. ``by_teacher``: it is of the sample
    that calibrates against the closed model. ``mistake``: why it could not be read, or is none of
    its own, which may change with other records of the file."""

    record_id: str
    digest: str
    status: Status
    by_teacher: bool = False
    mistake: str | None = None
