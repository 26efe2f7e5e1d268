"""Compares the cost of the run with the estimated cost of other ways."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from escalation.providers.prices import price_of
from runner.errors import UsageError
from runner.job import Job
from runner.ledger import Ledger
from runner.ledger.meta import Pace
from runner.report.evidence import Labels
from runner.status.summary import ENOUGH_BILLS, Summary


@dataclass(frozen=True, slots=True)
class Way:
    """``api_usd`` is an estimate but for what was spent. ``wrong``: share of the answers that the
    local model gave or could have given, wrong by its doing in the labelled sample; None where
    nobody knows."""

    name: str
    what: str
    api_usd: Decimal
    gpu_usd: Decimal | None
    wrong: float | None
    ours: bool = False

    @property
    def total_usd(self) -> Decimal:
        return self.api_usd + (self.gpu_usd or 0)


def ways(
    ledger: Ledger, job: Job, summary: Summary, labels: Labels | None, pace: Pace | None
) -> list[Way]:
    """Ours first; none where the job has no closed model to compare with."""
    if job.escalation is None or not summary.all_closed_usd:
        return []
    per_hour = job.local.gpu_usd_per_hour
    gpu = pace.gpu_usd(per_hour) if pace is not None and per_hour is not None else None
    nothing = None if gpu is None else Decimal(0)
    local, share, by_rule = _local_part(ledger, summary)
    wrong = _Wrong(labels)
    ours = summary.spent_usd + summary.waiting_estimate_usd
    waits = ", and what waits" if summary.waiting_estimate_usd else ""
    audits = ", audits included" if ledger.audits.counts().checked else ""
    found = [
        Way("This run", f"spent{waits}{audits}", ours, gpu, wrong.ours, ours=True),
        *_all_closed(ledger, job, summary, nothing, wrong.none),
        Way("All local", "nothing is sent", Decimal(0), gpu, wrong.all),
        Way(
            "At random",
            f"{share:.1%} of the local answers are sent, drawn blindly",
            local * Decimal(str(share)) + by_rule,
            gpu,
            wrong.at_random,
        ),
    ]
    if wrong.all is not None:
        perfect = local * Decimal(str(wrong.all)) + by_rule
        found.append(Way("Oracle", "exactly the local mistakes are sent", perfect, gpu, wrong.none))
    return found


class _Wrong:
    """The shares of the labelled sample that the local model got wrong."""

    def __init__(self, labels: Labels | None) -> None:
        known = labels is not None and labels.count > 0
        self.none = 0.0 if known else None
        self.all = self.ours = self.at_random = None
        if labels is not None and known:
            kept = labels.accepted / labels.count
            self.all = labels.wrong / labels.count
            self.ours = labels.wrong_accepted / labels.count
            self.at_random = self.all * kept


def _all_closed(
    ledger: Ledger, job: Job, summary: Summary, gpu: Decimal | None, wrong: float | None
) -> list[Way]:
    """By live requests, and in the provider's batches where these are cheaper."""
    assert job.escalation is not None
    try:
        share = price_of(job.escalation).batch
    except UsageError:
        share = Decimal(1)
    usd = summary.all_closed_usd * _live_over_paid(ledger, share)
    live = Way("All closed", f"{summary.closed_model} answers all", usd, gpu, wrong)
    if share == 1:
        return [live]
    what = f"the same in the provider's batches, at {share:.0%} of the price"
    return [live, Way("All closed, batch", what, usd * share, gpu, wrong)]


def _live_over_paid(ledger: Ledger, batch: Decimal) -> Decimal:
    """What the bills, from which the summary learns its estimates, would have been live."""
    lanes = ledger.bills.by_lane()
    paid = sum((lane.usd for lane in lanes), Decimal(0))
    if sum(lane.calls for lane in lanes) < ENOUGH_BILLS or not paid or not batch:
        return Decimal(1)
    live = sum((lane.usd / (batch if lane.batched else 1) for lane in lanes), Decimal(0))
    return live / paid


def _local_part(ledger: Ledger, summary: Summary) -> tuple[Decimal, float, Decimal]:
    """What the closed model would cost for all that was answered locally, which share of these was
    sent or waits to be, and what it costs for the rest that goes to it (by rule)."""
    parts = ledger.answers.parts()
    total = sum((part.estimated_usd for part in parts), Decimal(0))
    learned = summary.all_closed_usd / total if total else Decimal(1)
    count = sum(part.records for part in parts if part.local)
    sent = sum(part.records for part in parts if part.local and part.sent)
    money = {(part.local, part.sent): part.estimated_usd * learned for part in parts}
    local = money.get((True, True), Decimal(0)) + money.get((True, False), Decimal(0))
    return local, sent / count if count else 0.0, money.get((False, True), Decimal(0))
