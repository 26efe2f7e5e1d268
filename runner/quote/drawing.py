"""The pilot's records: a simple random sample of the batch, in one pass and whatever its size."""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass, replace

import numpy as np

from escalation.certify.audit import uniform
from runner.errors import UsageError
from runner.job import Job
from runner.pipeline import assemble
from runner.types import Record


@dataclass(frozen=True, slots=True)
class Drawn:
    """``records`` in input order, out of ``size``."""

    records: list[Record]
    size: int


def draw(job: Job, number: int) -> Drawn:
    """A random ``number`` of the job's records, broken ones among them, or all where there are no
    more; the same at every call.

    An id that an earlier record has is an error in a run, so it is one here, also where that
    earlier record was not drawn. Eight bytes of each record are kept for it.

    Raises:
        UsageError: there are no records.
    """
    seed = f"quote {job.identity()['prompt']}"
    heap: list[tuple[float, int, Record]] = []
    ids = array("q")
    for record in assemble.records(job):
        ids.append(hash(record.id))
        # By position: by id, two with the same one would be drawn together or not at all.
        entry = (-uniform(str(record.position), seed), record.position, record)
        (heapq.heappush if len(heap) < number else heapq.heappushpop)(heap, entry)
    if not ids:
        raise UsageError(f"{job.records_place()} holds no records: there is nothing to quote")
    marks = np.frombuffer(ids, dtype=np.int64)
    drawn = sorted((record for *_, record in heap), key=lambda record: record.position)
    return Drawn([_with_its_problem(record, marks) for record in drawn], len(ids))


def _with_its_problem(record: Record, marks: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Record:
    if record.problem is not None or not (marks[: record.position] == hash(record.id)).any():
        return record
    problem = f"line {record.line}: the id {record.id} is already an earlier record's"
    return replace(record, problem=problem)
