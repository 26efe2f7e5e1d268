"""The records that a person should look at: the least sure ones, and the head of the queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from runner.errors import UsageError
from runner.formats.typed_json import read
from runner.job import Job, digest
from runner.ledger import Ledger
from runner.ledger.columns import shown_reason
from runner.records.source import job_records
from runner.report.texts import Shown, Texts
from runner.types import Reason, Record

MOST = 20
_COLUMNS = (
    "o.position, o.record_id, o.digest, o.status, o.decided_by, o.reason, o.confidence, o.value, "
    "h.line, h.fields, h.answer, o.words"
)


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
    unsure = _least(ledger, "o.confidence IS NOT NULL")
    narrow = _least(ledger, "o.confidence IS NOT NULL AND o.decided_by = 'local'")
    times = dict(ledger.meta.slowest)
    slow = _at(ledger, times)
    again = _reread(ledger, job, [row for row in (*unsure, *narrow, *slow) if row[9] is None])
    return Samples(
        [_sample(row, again, texts) for row in unsure],
        [_sample(row, again, texts) for row in narrow],
        [replace(_sample(row, again, texts), seconds=times[row[0]]) for row in slow],
        _queue(ledger, texts),
    )


def _least(ledger: Ledger, where: str) -> list[tuple[Any, ...]]:
    return ledger.query(
        f"SELECT {_COLUMNS} FROM present o LEFT JOIN held h USING (position) "
        f"WHERE {where} ORDER BY o.confidence, o.position LIMIT ?",
        (MOST,),
    )


def _at(ledger: Ledger, times: Mapping[int, float]) -> list[tuple[Any, ...]]:
    """The outcomes at these positions, those of the longest times first."""
    rows = ledger.query(
        f"SELECT {_COLUMNS} FROM present o LEFT JOIN held h USING (position) "
        f"WHERE o.position IN ({','.join('?' * len(times))})",
        tuple(times),
    )
    return sorted(rows, key=lambda row: -times[row[0]])


def _reread(ledger: Ledger, job: Job, rows: Iterable[tuple[Any, ...]]) -> dict[int, Record]:
    """Done records as the records file still has them: the ledger keeps no more than a digest."""
    wanted: Mapping[int, tuple[str, str]] = {row[0]: (row[1], row[2]) for row in rows}
    found: dict[int, Record] = {}
    # A database is not asked again: a report only looks at what lies here.
    if not wanted or job.records.path is None:
        return found
    try:
        for record in ledger.places.numbered(job_records(job)):
            known = wanted.get(record.position)
            if known and _is(record, *known):
                found[record.position] = record
    except UsageError:
        pass  # each record that was not found says so in its place
    return found


def _is(record: Record, record_id: str, mark: str) -> bool:
    return record.id == record_id and digest(dict(record.given))[: len(mark)] == mark


def _sample(row: tuple[Any, ...], again: Mapping[int, Record], texts: Texts) -> Sample:
    position, name, _, status, by, why, confidence, value, line, fields, held, words = row
    record = again.get(position)
    if fields is not None:
        record = Record(position, name, read(fields), line)
    kept = json.loads(held or "null") or {}
    # What is done has one answer, the one that stands; whoever gave it.
    answer = json.loads(value) if by else kept.get("value")
    shown = texts.unseen(position, name) if record is None else texts.shown(record, answer)
    return Sample(shown, status, by, shown_reason(why, words), confidence)


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
