"""Which records a calibration is made from: the labelled, and others of the batch to compare with.

Only records that would reach the local model count: a certificate speaks of what it would accept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from escalation.audit import uniform
from escalation.policy import Routed, Router
from runner import build
from runner.errors import InputError, RecordError, UsageError
from runner.job import Job
from runner.labels import Label
from runner.types import Record, Route

MOST_NAMED = 3
# With at least a fifth of the batch labelled, what is certain of the batch shows in the bounds.
BATCH_PER_LABEL = 4
_SEED = "calibration"


@dataclass(frozen=True, slots=True)
class Drawn:
    """``labelled`` and ``others``, each in random order (fixed by the ids). ``whole``: together
    they are every record of the batch that reaches the local model."""

    labelled: list[Record]
    others: list[Record]
    whole: bool


def draw_labelled(job: Job, labels: Mapping[str, Label], path: Path) -> Drawn:
    """The records that people labelled, and a random share of the rest.

    Raises:
        InputError: a label's record is not in the batch.
    """
    unknown = dict(labels)
    labelled: list[Record] = []
    keep = max(job.confidence.reference, BATCH_PER_LABEL * len(labels))
    others = _Smallest(keep)
    for record, _ in _local(job, unknown):
        if record.id in labels:
            labelled.append(record)
        else:
            others.offer(record)
    if unknown:
        named = [f"{i} (line {label.line})" for i, label in list(unknown.items())[:MOST_NAMED]]
        more = f" and {len(unknown) - MOST_NAMED:,} more" if len(unknown) > MOST_NAMED else ""
        raise InputError(
            f"{path} labels records that {job.records_path()} does not hold: "
            f"{', '.join(named)}{more}"
        )
    return Drawn(sorted(labelled, key=_place), others.taken(), not others.refused)


def draw_for_teacher(job: Job, number: int) -> Drawn:
    """A random ``number`` of the records that may be sent to the closed model, and others.

    Raises:
        UsageError: there are not so many.
    """
    sendable = _Smallest(number)
    everything = _Smallest(number + max(job.confidence.reference, BATCH_PER_LABEL * number))
    for record, routed in _local(job, {}):
        everything.offer(record)
        if routed.may_leave:
            sendable.offer(record)
    chosen = sendable.taken()
    if len(chosen) < number:
        raise UsageError(
            f"--teacher {number:,}: only {len(chosen):,} records reach the local model and may be "
            "sent to the closed one; ask for fewer"
        )
    sent = {record.position for record in chosen}
    others = [record for record in everything.taken() if record.position not in sent]
    return Drawn(chosen, others, not everything.refused)


def _local(job: Job, unknown: dict[str, Label]) -> Iterator[tuple[Record, Routed]]:
    """Records that reach the local model; every record of the batch leaves ``unknown``."""
    router = Router(job)
    for record in build.records(job):
        unknown.pop(record.id, None)
        if record.problem is not None:
            continue
        try:
            routed = router.route(record)
        except RecordError:
            continue
        if routed.route is Route.LOCAL:
            yield record, routed


def _place(record: Record) -> float:
    """Random over records, and the same at every run."""
    return uniform(record.id, _SEED)


class _Smallest:
    """The ``number`` records of smallest `_place`, out of any number that is offered."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._heap: list[tuple[float, int, Record]] = []
        self.refused = 0

    def offer(self, record: Record) -> None:
        entry = (-_place(record), -record.position, record)
        if len(self._heap) < self._number:
            heapq.heappush(self._heap, entry)
            return
        self.refused += 1
        if self._heap:
            heapq.heappushpop(self._heap, entry)

    def taken(self) -> list[Record]:
        return [record for _, _, record in sorted(self._heap, reverse=True)]
