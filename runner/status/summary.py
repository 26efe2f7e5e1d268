"""What a run came to, in numbers from the ledger and in words for a manager."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from escalation.limits.daily_cap import spent_today
from escalation.providers.prices import price_date
from runner.errors import UsageError
from runner.job import Job
from runner.ledger import Ledger
from runner.plain import one_line
from runner.status.certificate_text import audit_words, looks_words, trust_words
from runner.types import DecidedBy, Status

ENOUGH_BILLS = 20
MOST_REASON = 32
MOST_FIELDS = 5
CAUSES = {
    "no_key": "no API key in the environment",
    "budget": "the spending cap is reached",
    "daily_budget": "the day's spending cap is reached",
    "provider_halted": "sending was stopped",
    "provider_busy": "the provider is overloaded",
    "guarded": "held back by the guard",
    "provider_unreachable": "the provider cannot be reached",
    "stopped": "the server was stopped",
    "sending": "on their way",
    "batch": "in a batch at the provider",
    "client_gone": "their clients had gone before they were sent",
    "choosing": "until it is known what the budget still buys",
}


@dataclass(frozen=True, slots=True)
class Escalated:
    """``fields``: of the local answers among them, how often each field was the one that it was
    least sure of."""

    records: int
    fields: dict[str, int]

    @property
    def words(self) -> str:
        named = [f"{name} {count:,}" for name, count in list(self.fields.items())[:MOST_FIELDS]]
        more = ", …" if len(self.fields) > MOST_FIELDS else ""
        return f", least sure of: {', '.join(named)}{more}" if named else ""


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and US dollars of one run directory."""

    name: str
    records: int
    decided_by: dict[str, int]
    status: dict[str, int]
    reasons: dict[str, int]
    waits_for: dict[str, int]
    spent_usd: Decimal
    cap_usd: Decimal | None
    waiting_estimate_usd: Decimal
    all_closed_usd: Decimal
    closed_model: str | None
    trust: list[str]
    """What stands behind the accepted answers, in sentences."""
    stopped: str | None
    """Why nothing more was sent to the closed model, where something ended it early."""
    trail: tuple[int, str]
    """How many entries the audit trail has, and the last one's hash."""
    day_usd: Decimal | None = None
    day_cap_usd: Decimal | None = None
    """Spent, possibly spent or reserved today by all runs under the cap per day, and that cap."""
    gone: int = 0
    """Records of former files that the one which was given last has no longer."""
    batches: tuple[int, float] | None = None
    """How many of the provider's batches are not back, and for how many seconds the oldest."""
    escalated: dict[str, Escalated] = field(default_factory=dict)
    """What went to the closed model or waits for it, by the reason that is shown."""
    key_env: str | None = None
    """The environment variable in which the closed model's key is looked for."""

    @property
    def unfinished(self) -> int:
        return self.records - self.status.get(Status.DONE, 0)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "records": self.records,
            "decided_by": self.decided_by,
            "status": self.status,
            "reasons": self.reasons,
            "waits_for": self.waits_for,
            "spent_usd": float(self.spent_usd),
            "cap_usd": None if self.cap_usd is None else float(self.cap_usd),
            "waiting_estimate_usd": float(self.waiting_estimate_usd),
            "all_closed_estimate_usd": float(self.all_closed_usd),
            "closed_model": self.closed_model,
            "trust": self.trust,
            "stopped": self.stopped,
            "trail": dict(zip(("entries", "head"), self.trail, strict=True)),
            "day_usd": None if self.day_usd is None else float(self.day_usd),
            "day_cap_usd": None if self.day_cap_usd is None else float(self.day_cap_usd),
            "batches": self.batches[0] if self.batches else 0,
            "gone": self.gone,
            "escalated": {
                why: {"records": one.records, "least_sure_field": one.fields}
                for why, one in self.escalated.items()
            },
        }


def summarise(ledger: Ledger) -> Summary:
    """Sums of the ledger as it stands; quick at any size, and possible during a run."""
    job = ledger.meta.job or {}
    closed = job.get("escalation") or {}
    estimates = ledger.reading.estimates()
    learned = _paid_over_estimated(ledger)
    ends = ledger.reading.ends()
    return Summary(
        name=str(job.get("name", "")),
        records=sum(end.records for end in ends),
        status=_counts((end.status, end.records) for end in ends),
        decided_by=_counts((end.decided_by, end.records) for end in ends),
        reasons=_counts((end.reason, end.records) for end in ends),
        waits_for=_counts((end.waits_for, end.records) for end in ends),
        spent_usd=ledger.attempts.committed_usd(),
        cap_usd=Decimal(str(closed["budget_usd"])) if closed else None,
        waiting_estimate_usd=estimates.waiting_usd * learned,
        all_closed_usd=estimates.all_usd * learned,
        closed_model=closed.get("model"),
        trust=trust_words(ledger.meta.certificate, job.get("confidence") or {})
        + audit_words(ledger.meta.audit, ledger.meta.shift_alarm)
        + looks_words(ledger.meta.looks),
        stopped=ledger.meta.stopped,
        trail=ledger.trail.head(),
        gone=ledger.places.gone(),
        batches=_batches(ledger),
        escalated=_escalated(ledger),
        key_env=closed.get("api_key_env"),
        **_day(job),
    )


def _batches(ledger: Ledger) -> tuple[int, float] | None:
    opened = ledger.batches.open()
    return (len(opened), time.time() - opened[0].begun_at) if opened else None


def _day(job: dict[str, Any]) -> dict[str, Decimal]:
    cap = (job.get("escalation") or {}).get("daily_budget_usd")
    if cap is None:
        return {}
    try:
        spent = spent_today(Job.model_validate(job).spend_path())
    except UsageError:  # a copied run directory may be looked at on another machine
        return {"day_cap_usd": Decimal(str(cap))}
    return {"day_usd": spent, "day_cap_usd": Decimal(str(cap))}


def _paid_over_estimated(ledger: Ledger) -> Decimal:
    """What this run's own bills say about its estimates, once there are enough of them: they know
    the provider's tokenizer and cache, which an estimate does not."""
    bills = ledger.bills.against_estimates()
    if bills.calls < ENOUGH_BILLS or not bills.estimated_usd:
        return Decimal(1)
    return bills.usd / bills.estimated_usd


def _escalated(ledger: Ledger) -> dict[str, Escalated]:
    """The most frequent reason first."""
    counts: Counter[str] = Counter()
    fields: dict[str, Counter[str]] = {}
    for sent in ledger.reading.sent():
        counts[sent.reason] += sent.records
        if sent.field is not None:
            fields.setdefault(sent.reason, Counter())[sent.field] += sent.records
    return {
        why: Escalated(count, dict(fields.get(why, Counter()).most_common()))
        for why, count in counts.most_common()
    }


def _short(reason: str) -> str:
    """A rule's own reason may be of any length, and a table's cell would be wrapped."""
    text = one_line(reason)
    return text if len(text) <= MOST_REASON else f"{text[:MOST_REASON]}…"


def _counts(values: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    """How many records have each value, the most frequent first."""
    found: Counter[str] = Counter()
    for value, records in values:
        if value is not None:
            found[value] += records
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def lines(summary: Summary) -> list[tuple[str, str]]:
    """(what, how many) pairs, in the order in which a person asks."""
    by, of = summary.decided_by, summary.records
    out = [("records", f"{of:,}")]
    if summary.gone:
        out.append(("kept of records that are no longer given", f"{summary.gone:,}"))
    named = [
        (DecidedBy.LOCAL, "answered by the local model"),
        (DecidedBy.TEMPLATE, "answered by a template"),
        (DecidedBy.CLOSED, f"answered by {summary.closed_model}"),
        (DecidedBy.HUMAN, "answered by a person"),
    ]
    out += [(words, _share(by[who], of)) for who, words in named if by.get(who)]
    waiting = summary.status.get(Status.WAITING, 0)
    if waiting:
        causes = ", ".join(CAUSES.get(c, c) for c in summary.waits_for) or "not sent yet"
        out.append((f"waiting for {summary.closed_model} ({causes})", _share(waiting, of)))
    out += [
        (f"escalated: {_short(why)}{one.words}", _share(one.records, of))
        for why, one in summary.escalated.items()
    ]
    if summary.batches is not None:
        count, oldest_s = summary.batches
        ago = f"{count:,}, the oldest sent {oldest_s / 3600:.1f} h ago"
        out.append(("batches not back (`surelocal escalate --wait` collects them)", ago))
    if review := summary.status.get(Status.REVIEW, 0):
        out.append(("for a person to review", _share(review, of)))
    if errors := summary.status.get(Status.ERROR, 0):
        out.append(("in error", _share(errors, of)))
    return out + _money(summary, waiting)


def _money(summary: Summary, waiting: int) -> list[tuple[str, str]]:
    if summary.cap_usd is None:
        return []
    out = [("spent, of a cap of", f"${summary.spent_usd:.4f} of ${summary.cap_usd:.2f}")]
    if summary.day_usd is not None and summary.day_cap_usd is not None:
        day = f"${summary.day_usd:.4f} of ${summary.day_cap_usd:.2f}"
        out.append(("today by all runs (UTC), of a cap of", day))
    if waiting:
        pending = f"${summary.waiting_estimate_usd:.2f}"
        out.append(("estimated cost of pending records", pending))
    model = f"{summary.closed_model} (prices of {price_date()})"
    return [*out, (f"cost if all went to {model}", f"${summary.all_closed_usd:.2f}")]


def next_steps(summary: Summary, run_dir: Path) -> list[str]:
    """What its user may do about the records that are not done: a line for each kind, with the
    command as a shell takes it."""
    status, folder, steps = summary.status, shlex.quote(str(run_dir)), []
    if status.get(Status.WAITING):
        causes, how = summary.waits_for, f"surelocal escalate {folder}"
        before = f", with a key in {summary.key_env}" if "no_key" in causes else ""
        if "guarded" in causes:
            how += " --guard off"
            before += ", good or not"
        elif "budget" in causes:
            how += " --budget USD"
        elif "batch" in causes:
            how += " --wait"
        steps.append(f"next, to send pending records{before}: {how}")
    if status.get(Status.REVIEW):
        steps.append(f"next, for a person: surelocal review export {folder} queue.csv")
    if status.get(Status.ERROR):
        steps.append(
            "next, for what is in error: fix the records as `error` in the results says, and give "
            "the same `surelocal run` again"
        )
    return steps


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"
