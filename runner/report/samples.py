"""The records that a person should look at: the least sure ones, and the head of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from runner.errors import UsageError
from runner.job import Job, digest
from runner.ledger import Ledger
from runner.ledger.answers import Example
from runner.records.source import job_records
from runner.report.texts import Shown, Texts
from runner.types import Reason, Record

MOST = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """``status`` and ``decided_by`` say how it ended, if it has. The answer shown is the one that
    stands or, of what is not done, the local one; in the queue it is the local and the closed
    model's answers, and the problem with the last of them."""

    shown: Shown
    status: str
    decided_by: str | None
    reason: Reason | str
    confidence: float | None
    seconds: float | None = None
    """From handing its prompt to the engine until its answer was there."""


@dataclass(frozen=True, slots=True)
class Samples:
    """``unsure``: the least confident of all; ``narrow``: the least confident that stand;
    ``slow``: those that the local model took longest for."""

    unsure: list[Sample]
    narrow: list[Sample]
    slow: list[Sample]
    queue: list[Sample]


def samples(ledger: Ledger, job: Job, texts: Texts) -> Samples:
    unsure = ledger.answers.least_sure(MOST)
    narrow = ledger.answers.least_sure(MOST, standing=True)
    times = dict(ledger.meta.slowest)
    slow = sorted(ledger.answers.at(tuple(times)), key=lambda one: -times[one.position])
    again = _reread(ledger, job, (*unsure, *narrow, *slow))
    return Samples(
        [_sample(one, again, texts) for one in unsure],
        [_sample(one, again, texts) for one in narrow],
        [replace(_sample(one, again, texts), seconds=times[one.position]) for one in slow],
        _queue(ledger, texts),
    )


def _reread(ledger: Ledger, job: Job, examples: Iterable[Example]) -> dict[int, Record]:
    """Done records as the records file still has them: the ledger keeps no more than a digest."""
    wanted = {one.position: one for one in examples if one.record is None}
    found: dict[int, Record] = {}
    # A database is not asked again: a report only looks at what lies here.
    if not wanted or job.records.path is None:
        return found
    try:
        for record in ledger.places.numbered(job_records(job)):
            known = wanted.get(record.position)
            if known is not None and _is(record, known):
                found[record.position] = record
    except UsageError:
        pass  # each record that was not found says so in its place
    return found


def _is(record: Record, known: Example) -> bool:
    same = digest(dict(record.given)).startswith(known.digest)
    return record.id == known.record_id and same


def _sample(one: Example, again: Mapping[int, Record], texts: Texts) -> Sample:
    record = one.record or again.get(one.position)
    if record is None:
        shown = texts.unseen(one.position, one.record_id)
    else:
        shown = texts.shown(record, one.answer)
    return Sample(shown, one.status, one.decided_by, one.reason, one.confidence)


def _queue(ledger: Ledger, texts: Texts) -> list[Sample]:
    return [
        Sample(
            texts.shown(one.record, one.local, one.closed, one.problem),
            "review",
            None,
            one.reason,
            one.confidence,
        )
        for one in islice(ledger.reviews.queue(), MOST)
    ]
