"""Which records a calibration is made from: the labelled, and others of the batch to compare with.

Only records that would reach the local model count: a certificate speaks of what it would accept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from escalation.certify.audit import uniform
from escalation.certify.labels import Label
from escalation.policy import Router, strata_of, stratum
from runner.errors import InputError, RecordError, UsageError
from runner.job import Job
from runner.pipeline import assemble
from runner.types import Record, Route

MOST_NAMED = 3
# With at least a fifth of the batch labelled, what is certain of the batch shows in the bounds.
BATCH_PER_LABEL = 4
_SEED = "calibration"


@dataclass(frozen=True, slots=True)
class Drawn:
    """``labelled`` and ``others``, each in random order (fixed by the ids). ``whole``: together
    they are every record of the batch that reaches the local model, and the labelled were drawn
    from all of them. ``kept``: positions of those, labelled or not, that must not be sent; where
    the labelled were drawn from the rest alone, ``passed_over`` says so."""

    labelled: list[Record]
    others: list[Record]
    whole: bool
    kept: frozenset[int] = frozenset()
    passed_over: bool = False

    def sendable(self) -> list[Record]:
        """The labelled records that may leave the machine."""
        return [record for record in self.labelled if record.position not in self.kept]


def draw_labelled(job: Job, labels: Mapping[str, Label], path: Path) -> Drawn:
    """The records that people labelled, and a random share of the rest.

    Raises:
        InputError: a label's record is not in the batch.
    """
    unknown = dict(labels)
    labelled: dict[str, Record] = {}
    kept: set[int] = set()
    keep = max(job.confidence.reference, BATCH_PER_LABEL * len(labels))
    others = _Smallest(keep)
    for record, may_leave in _local(job, unknown):
        if record.id not in labels:
            others.offer(record)
        elif labelled.setdefault(record.id, record) is record and not may_leave:
            kept.add(record.position)
    if unknown:
        named = [f"{i} (line {label.line})" for i, label in list(unknown.items())[:MOST_NAMED]]
        more = f" and {len(unknown) - MOST_NAMED:,} more" if len(unknown) > MOST_NAMED else ""
        raise InputError(
            f"{path} labels records that {job.records_place()} does not hold: "
            f"{', '.join(named)}{more}"
        )
    in_order = sorted(labelled.values(), key=_place)
    return Drawn(in_order, others.taken(), not others.refused, frozenset(kept))


def draw_for_teacher(job: Job, number: int) -> Drawn:
    """A random ``number`` of the records that may be sent to the closed model, and others.

    Raises:
        UsageError: there are not so many.
    """
    sendable = _Smallest(number)
    everything = _Smallest(number + max(job.confidence.reference, BATCH_PER_LABEL * number))
    stays = False
    for record, may_leave in _local(job, {}):
        everything.offer(record)
        if may_leave:
            sendable.offer(record)
        else:
            stays = True
    chosen = sendable.taken()
    if len(chosen) < number:
        raise UsageError(
            f"--teacher {number:,}: only {len(chosen):,} records reach the local model and may be "
            "sent to the closed one; ask for fewer"
        )
    sent = {record.position for record in chosen}
    others = [record for record in everything.taken() if record.position not in sent]
    return Drawn(chosen, others, not (everything.refused or stays), passed_over=stays)


def _local(job: Job, unknown: dict[str, Label]) -> Iterator[tuple[Record, bool]]:
    """Records that reach the local model, and whether each may leave; every record of the batch
    leaves ``unknown``. One that an expression or a template fails on is an error of the run."""
    router = Router(job)
    renderer = assemble.renderer(job)
    strata = strata_of(job.confidence)
    for record in assemble.records(job):
        unknown.pop(record.id, None)
        if record.problem is not None:
            continue
        try:
            routed = router.route(record)
            if routed.route is not Route.LOCAL:
                continue
            renderer.render(record)
            if strata is not None:
                stratum(strata, record)
        except RecordError:
            continue
        yield record, routed.may_leave


def _place(record: Record) -> float:
    """Random over records, and the same at every run."""
    return uniform(record.id, _SEED)


class _Smallest:
    """The ``number`` records of smallest `_place`, out of any number that is offered in input
    order; of two with the same id the first, as in a run."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._ids: set[str] = set()
        self._heap: list[tuple[float, int, Record]] = []
        self.refused = 0

    def offer(self, record: Record) -> None:
        if record.id in self._ids:
            return
        entry = (-_place(record), -record.position, record)
        self._ids.add(record.id)
        if len(self._heap) < self._number:
            heapq.heappush(self._heap, entry)
            return
        self.refused += 1
        _, _, out = heapq.heappushpop(self._heap, entry)
        self._ids.remove(out.id)

    def taken(self) -> list[Record]:
        return [record for _, _, record in sorted(self._heap, reverse=True)]
