"""How many records would end how, by the pilot."""

from __future__ import annotations

from dataclasses import dataclass

from runner.quote.intervals import Range, count_in
from runner.quote.pilot import Pilot

KINDS = {
    "local": "answered by the local model",
    "template": "answered by a template",
    "escalated": "escalated",
    "rule": "– by a rule",
    "confidence": "– by the confidence",
    "audit": "– to audit the accepted",
    "review": "for a person",
    "error": "in error",
}
_ALWAYS = ("local", "escalated", "rule", "confidence", "error")


@dataclass(frozen=True, slots=True)
class Counted:
    """``found`` in the pilot; ``of_all`` says how many of the whole batch."""

    kind: str
    found: int
    of_all: Range

    @property
    def words(self) -> str:
        return KINDS[self.kind]


def counted(pilot: Pilot) -> list[Counted]:
    """Kinds that the pilot has none of are left out, but for those that are always asked for."""
    found = dict.fromkeys(KINDS, 0)
    for one in pilot.seen:
        if one.end != "closed":
            found[one.end] += 1
        if one.escalated:
            found["escalated"] += 1
            found[one.escalated] += 1
    return [
        Counted(kind, number, count_in(pilot.size, len(pilot.seen), number))
        for kind, number in found.items()
        if number or kind in _ALWAYS
    ]
