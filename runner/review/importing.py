"""`surelocal review import`: books the decisions of a file, either all of them or none.

A person may decide what is in review, correct what a person decided before, and check what was
drawn at random; all else has been decided and stands. A check of an accepted local answer is a
verdict for the audit. Where the answer was accepted after an alarm cannot be told any more, so
such verdicts count for the time before the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from escalation.certify.labels import DECISION, ID, NOTE, PART
from escalation.policy import Acceptance
from runner.errors import InputError
from runner.job import Job
from runner.ledger import Ledger, open_ledger
from runner.pipeline.certificate_monitor import Auditing, CertificateMonitor
from runner.records import column_names, likely_delimiter, read_records
from runner.results import deliver
from runner.review.deciding import Decisions
from runner.review.exporting import review_format
from runner.status.summary import Summary, summarise
from runner.types import DecidedBy, JSONValue, Outcome, Reason, Record, Status

MOST_NAMED = 3
BOOKED = ("decided", "corrected", "confirmed", "unchanged")
TIGHTER = Acceptance(None)
ALARM = (
    "audit: {wrong:,} of {checked:,} checked answers were wrong: the certified error no longer "
    "holds; the next run accepts {less}"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file's rows. ``booked``, by what they were to their records: ``decided``
    (they had no answer), ``corrected`` (another), ``confirmed`` (the same) or ``unchanged``
    (imported before). ``undecided``: rows without a decision. ``alarm``: what the audit found,
    where these decisions raised it."""

    booked: Mapping[str, int]
    undecided: int
    alarm: str | None

    def counts(self) -> dict[str, int]:
        return {**{name: self.booked.get(name, 0) for name in BOOKED}, "undecided": self.undecided}


@dataclass(frozen=True, slots=True)
class _Decision:
    line: int
    outcome: Outcome
    value: JSONValue
    note: str


def import_reviews(
    run_dir: Path, job: Job, path: Path, who: str, output: Path
) -> tuple[Imported, Summary]:
    """Books a file's decisions as ``who``'s, and writes the results again to ``output``.

    Raises:
        InputError: some rows cannot be used, the first few named; nothing of the file was.
    """
    with open_ledger(run_dir, create=False) as ledger:
        sample = ledger.meta.drawn
        decisions, undecided = _read(ledger, sample, job, path)
        alarms = _monitor(ledger, job).alarms
        # The running audit must not hear of verdicts in an order that depends on them.
        decisions.sort(key=lambda decision: decision.outcome.position)
        counts = Counter(_book(ledger, one, who, sample) for one in decisions)
        ledger.commit()
        monitor = _monitor(ledger, job)
        if ledger.audits.counts().checked and (stated := monitor.stated()):
            ledger.meta.audit = stated
        deliver(ledger, job, output)
        alarm = _alarm(ledger, monitor) if monitor.alarms > alarms else None
        return Imported(dict(counts), undecided, alarm), summarise(ledger)


def _read(
    ledger: Ledger, sample: frozenset[int], job: Job, path: Path
) -> tuple[list[_Decision], int]:
    """The decided rows, all of them sound, and how many rows are not decided yet."""
    kind = review_format(path)
    reading = Decisions(job.answer.constraint(), cells=kind == "csv")
    _check_columns(path, reading)
    found: dict[int, _Decision] = {}
    mistakes: list[str] = []
    undecided = 0
    for record in _rows(path):
        try:
            one = _decision(ledger, sample, record, reading)
            if one is None:
                undecided += 1
                continue
            first = found.setdefault(one.outcome.position, one)
            if first is not one:
                raise ValueError(
                    f"{one.outcome.record_id} is decided on line {first.line} already; keep one"
                )
        except ValueError as error:
            mistakes.append(f"line {record.line}: {error}")
    if mistakes:
        raise _unusable(path, mistakes)
    return list(found.values()), undecided


def _unusable(path: Path, mistakes: list[str]) -> InputError:
    count = "1 row" if len(mistakes) == 1 else f"{len(mistakes):,} rows"
    more = len(mistakes) - MOST_NAMED
    named = mistakes[:MOST_NAMED] + ([f"and {more:,} more"] if more > 0 else [])
    return InputError(f"{path}: nothing was imported: {count} cannot be used", named)


def _check_columns(path: Path, reading: Decisions) -> None:
    delimiter = likely_delimiter(path, ID)
    try:
        names = column_names(path, ID, delimiter=delimiter)
    except InputError:  # of a file without that column, whose own names are told below
        names = column_names(path, delimiter=delimiter)
    if names is None:
        return
    if ID not in names:
        raise InputError(
            f"{path}, line 1: no column `{ID}`; give a file of `surelocal review export`, saved "
            "with commas as CSV UTF-8"
        )
    if wrong := reading.unknown_column(names):
        raise InputError(f"{path}, line 1: {wrong}")
    if not any(name == DECISION or name.startswith(PART) for name in names):
        raise InputError(
            f"{path}, line 1: no column `{DECISION}` nor one that begins with `{PART}`; give a "
            "file of `surelocal review export`"
        )


def _rows(path: Path) -> Iterator[Record]:
    """The file's rows but those that a spreadsheet left wholly empty."""
    for record in read_records(path, ID, delimiter=likely_delimiter(path, ID)):
        if any(value not in (None, "") for value in record.fields.values()) or not record.fields:
            yield record


def _decision(
    ledger: Ledger, sample: frozenset[int], row: Record, reading: Decisions
) -> _Decision | None:
    if row.problem is not None:
        raise ValueError(row.problem.removeprefix(f"line {row.line}: "))
    if wrong := reading.unknown_column(row.fields):
        raise ValueError(wrong)
    value = reading.read(row.fields)
    if value is None:
        return None
    record_id = reading.plain(row.id)
    outcome = ledger.find(record_id)
    if outcome is None:
        raise ValueError(
            f"{record_id} is no record of this run; a spreadsheet may have changed the id (00123 "
            "to 123, say): import that column as text"
        )
    if outcome.position not in sample:
        _may_decide(outcome)
    return _Decision(row.line, outcome, value, str(row.fields.get(NOTE) or "").strip())


def _may_decide(outcome: Outcome) -> None:
    if outcome.status is Status.REVIEW or outcome.decided_by is DecidedBy.HUMAN:
        return
    state = {
        Status.WAITING: "still waits for the closed model",
        Status.ERROR: "is in error",
    }.get(outcome.status, f"was answered by {outcome.decided_by}")
    raise ValueError(
        f"{outcome.record_id} is not in review: it {state}; take the row out, or check answers of "
        "a random sample: `surelocal review export RUN_DIR FILE --audit N`"
    )


def _book(ledger: Ledger, one: _Decision, who: str, sample: frozenset[int]) -> str:
    """Records a decision; returns which of `BOOKED` it is."""
    before, value = one.outcome, one.value
    if ledger.reviews.last(before.position) == (value, one.note):
        return "unchanged"
    ledger.reviews.add(before, who, value, one.note)
    if before.position in sample:
        _audit(ledger, before, value, who)
    if before.status is Status.DONE and before.value == value:
        return "confirmed"
    # The reason stays, since it says why a person was asked; an accepted answer was drawn.
    reason = Reason.AUDIT if before.decided_by is DecidedBy.LOCAL else before.reason
    ledger.change(
        replace(
            before,
            status=Status.DONE,
            value=value,
            decided_by=DecidedBy.HUMAN,
            reason=reason,
            model=None,
            error=None,
        )
    )
    return "corrected" if before.status is Status.DONE else "decided"


def _audit(ledger: Ledger, before: Outcome, value: JSONValue, who: str) -> None:
    """Records a verdict on the accepted local answer, even if another answer replaced it."""
    known = ledger.reviews.audited_value(before.position)
    if known is None:
        if before.decided_by is not DecidedBy.LOCAL:
            return
        known = (before.value, 0)
    record = Record(before.position, before.record_id, {}, 0)
    ledger.audits.add(record, known[0], value, who, known[1])


def _monitor(ledger: Ledger, job: Job) -> CertificateMonitor:
    """The audit as the verdicts so far leave it; nothing is accepted by it."""
    rule = job.confidence
    if not rule.certifies or rule.target is None:
        return CertificateMonitor(ledger, Acceptance(None))
    tighter = (lambda: TIGHTER) if rule.audit.on_alarm == "tighten" else None
    auditing = Auditing(rule.target, rule.delta, 1.0, "", tighter, {})
    return CertificateMonitor(ledger, Acceptance(None), auditing)


def _alarm(ledger: Ledger, monitor: CertificateMonitor) -> str:
    found = ledger.audits.counts()
    less = "less" if monitor.rule is TIGHTER else "nothing any more"
    return ALARM.format(wrong=found.wrong, checked=found.checked, less=less)
