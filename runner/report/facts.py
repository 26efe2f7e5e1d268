"""Everything that the page says, gathered from a ledger once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import RunDirError
from runner.job import Job
from runner.ledger import Ledger
from runner.ledger.answers import Confidences
from runner.ledger.meta import Pace
from runner.ledger.reading import Unfinished
from runner.ledger.trail import moment
from runner.report.calls import Calls, calls
from runner.report.evidence import Evidence, evidence
from runner.report.samples import Samples, samples
from runner.report.savings import Way, ways
from runner.report.texts import Texts
from runner.report.themes import Theme, themes
from runner.status.summary import Summary, summarise
from runner.types import Status

BINS = 40


@dataclass(frozen=True, slots=True)
class Facts:
    """``at``: when the ledger was last written to."""

    summary: Summary
    job: Job
    at: str
    confidences: Confidences
    evidence: Evidence
    calls: Calls
    ways: Sequence[Way]
    pace: Pace | None
    unfinished: dict[str, list[Unfinished]]
    samples: Samples
    themes: Sequence[Theme]


def gather(ledger: Ledger, run_dir: Path) -> Facts:
    """Raises `RunDirError` where no run came far enough to write its job down."""
    written = ledger.meta.job
    if written is None:
        raise RunDirError(f"{run_dir} holds no job yet: its first run never came that far")
    job = Job.model_validate(written)
    summary = summarise(ledger)
    known = evidence(ledger, job)
    pace = ledger.meta.pace
    texts = Texts(job)
    last = ledger.trail.last_at()
    assert last is not None  # the job is in it
    undone = (Status.ERROR, Status.WAITING, Status.REVIEW)
    return Facts(
        summary,
        job,
        moment(last),
        ledger.answers.by_confidence(BINS),
        known,
        calls(ledger),
        ways(ledger, job, summary, known.labels, pace),
        pace,
        {str(status): ledger.reading.unfinished(status) for status in undone},
        samples(ledger, job, texts),
        themes(ledger, texts),
    )
