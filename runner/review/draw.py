"""Random samples of a run's records, for people to check or to label."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from escalation.certify.audit import uniform
from escalation.policy import Router
from runner.answering.prompts import Renderer, renderer_of
from runner.errors import RecordError, RunDirError, UsageError
from runner.job import Job, digest
from runner.ledger import Ledger
from runner.types import Record, Route, Status


@dataclass(frozen=True, slots=True)
class Draw:
    """``number`` records at random, in random order, so that the first few of them are a random
    sample too. ``accepted``: of the accepted local answers that nobody checked yet; otherwise of
    all that reach the local model. Another ``seed``, another sample."""

    number: int
    accepted: bool
    seed: str = ""

    def records(self, ledger: Ledger, job: Job, records: Iterable[Record]) -> list[Record]:
        """The sample, its fields from the job's ``records``; written down as drawn.

        Raises:
            RunDirError: the records have changed since the run.
            UsageError: the run has not seen all of them, or there are none to draw from.
        """
        draw = self._of_accepted if self.accepted else self._of_all
        found = draw(ledger, job, ledger.places.numbered(records))
        if not found:
            what = "no accepted local answer is left unchecked" if self.accepted else (
                "no record reaches the local model"
            )  # fmt: skip
            raise UsageError(f"there is nothing to draw a sample from: {what}")
        known = ledger.meta.drawn | {record.position for record in found}
        ledger.meta.drawn = known
        return found

    def _of_accepted(self, ledger: Ledger, job: Job, records: Iterable[Record]) -> list[Record]:
        place = self._place(ledger)
        rows = heapq.nsmallest(self.number, ledger.reviews.unaudited(), lambda row: place(row[1]))
        wanted = dict(rows)
        found = {r.position: _same(ledger, r) for r in records if r.position in wanted}
        for position, record_id in wanted.items():
            if position not in found:
                raise RunDirError(f"{job.records_place()} does not hold {record_id} any more")
        return [found[position] for position in wanted]

    def _of_all(self, ledger: Ledger, job: Job, records: Iterable[Record]) -> list[Record]:
        place = self._place(ledger)
        local = _local(ledger, Router(job), renderer_of(job), records)
        return heapq.nsmallest(self.number, local, lambda record: place(record.id))

    def _place(self, ledger: Ledger) -> Place:
        # Nobody who writes the records should be able to foresee which are drawn.
        job = (ledger.meta.identity or {}).get("prompt", "")
        return Place(f"review {self.seed} {job}")


@dataclass(frozen=True, slots=True)
class Place:
    """A record's place in random order, the same at every draw with this seed."""

    seed: str

    def __call__(self, record_id: str) -> float:
        return uniform(record_id, self.seed)


def _local(
    ledger: Ledger, router: Router, renderer: Renderer, records: Iterable[Record]
) -> Iterator[Record]:
    """Those that a calibration counts too: what the model itself failed on reached it."""
    for record in records:
        same = _same(ledger, record)
        if record.problem is not None:
            continue
        try:
            if router.route(record).route is not Route.LOCAL:
                continue
            if _in_error(ledger, record):
                renderer.render(record)
                if ledger.is_double(record.id, record.position):
                    continue
        except RecordError:
            continue
        yield same


def _in_error(ledger: Ledger, record: Record) -> bool:
    known = ledger.known(record.position)
    return known is not None and known.status is Status.ERROR


def _same(ledger: Ledger, record: Record) -> Record:
    known = ledger.known(record.position)
    if known is None:
        raise UsageError(
            f"the run has not reached {record.id} (line {record.line}) yet: a sample of all "
            "records needs a complete run; let it finish first"
        )
    if known.record_id != record.id or not digest(dict(record.given)).startswith(known.digest):
        fix = "put the file back as it was"
        if known.status is Status.ERROR:
            fix = (
                "it was in error, so if it is fixed now, first give the same `surelocal run …` "
                "again, which takes it up"
            )
        raise RunDirError(
            f"the records have changed since the run: line {record.line} is now {record.id}, and "
            f"was {known.record_id} or had other values; {fix}"
        )
    return record
