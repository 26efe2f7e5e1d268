"""Renders the facts as the report page, with a template that escapes all values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from escalation.certify.calibration import PEOPLE
from escalation.providers.prices import price_date
from runner.formats.amounts import duration, usd
from runner.plain import printable
from runner.report import plots
from runner.report.evidence import Labels
from runner.report.facts import Facts
from runner.status.summary import CAUSES
from runner.types import DecidedBy, Reason, Status

ENOUGH_CHECKS = 10
_REASONS: dict[str, str] = {
    Reason.TEMPLATE: "by a template rule",
    Reason.CONFIDENT: "sure enough",
    Reason.UNSURE: "below the threshold",
    Reason.INVALID: "the answer was not valid",
    Reason.NO_CONFIDENCE: "no confidence was to be had",
    Reason.UNCERTIFIED: "nothing is certified, so nothing is accepted",
    Reason.AUDIT: "accepted, and drawn to be audited",
    Reason.ALARM: "the audit's alarm stopped accepting",
    Reason.TEACHER: "asked for the calibration",
    Reason.EXPECTED_LOSS: "held until the budget is divided",
    Reason.BUDGET_ELSEWHERE: "the budget did more good elsewhere",
    Reason.RULE: "by a rule of the job",
    Reason.KEPT_LOCAL: "it may not leave the machine",
    Reason.RECORD_TOO_DEAR: "dearer than one record may be",
    Reason.REPLY_LOST: "sent, and the reply was lost",
    Reason.REJECTED: "rejected by the provider",
    Reason.CLOSED_INVALID: "the closed model's answer was not valid",
    Reason.REDACTION: "its redaction would not be complete",
    Reason.BAD_RECORD: "the record cannot be read",
    Reason.BAD_PROMPT: "no prompt can be made of it",
    Reason.TOO_LONG: "too long for the local model",
    Reason.ENGINE_DIED: "the local engine died of it",
    Reason.SERVER_FAILED: "the local server could not answer it",
}
_STATES = {
    "settled": "answered and paid",
    "released": "not billed",
    "unsent": "never left",
    "unknown": "fate unknown, counted as spent",
    "reserved": "under way, reserved",
}


def render(facts: Facts) -> str:
    """The whole page, in one string."""
    environment = Environment(
        loader=PackageLoader("runner.report", "."), autoescape=True, undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "usd": usd,
        "share": lambda value: f"{value:.1%}",
        "reason": in_words,
        "cause": lambda name: CAUSES.get(name, str(name).replace("_", " ")),
        "state": lambda name: _STATES.get(name, name),
        "duration": partial(duration, finely=True),
        "day": day,
        "coded": coded,
        "dated": dated,
        "basis": basis,
    }
    return environment.get_template("report.html.j2").render(
        facts=facts,
        summary=facts.summary,
        endings=_endings(facts),
        calibrated=calibrated(facts),
        called=called(facts),
        drawn={name: Markup(svg) for name, svg in _drawn(facts)},
        checks=sum(one.count for one in facts.evidence.checked),
        dearest=max((way.total_usd for way in facts.ways), default=Decimal(0)),
        price_date=price_date(),
    )


def in_words(reason: Reason | str) -> str:
    """Ours in words; a rule's own as it is."""
    return _REASONS[reason] if isinstance(reason, Reason) and reason in _REASONS else (
        str(reason).replace("_", " ")
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """What a customer wrote turns no direction, and ends no line, of the page."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def calibrated(facts: Facts) -> bool:
    return bool(facts.evidence.certificates) or facts.evidence.labels is not None


def called(facts: Facts) -> str:
    """A confidence is a probability, or is not called one."""
    return "confidence" if calibrated(facts) else "uncalibrated confidence"


def _endings(facts: Facts) -> list[dict[str, Any]]:
    """Each record once, in the order in which trust falls. ``key``: where `status --json` has
    the same number."""
    summary = facts.summary
    decided = [
        (DecidedBy.TEMPLATE, "Template", "no model at all"),
        (DecidedBy.LOCAL, "Local model", facts.job.local.model.rstrip("/").rpartition("/")[2]),
        (DecidedBy.CLOSED, "Closed model", summary.closed_model or "none in this job"),
        (DecidedBy.HUMAN, "Person", "by review"),
    ]
    left = [
        (Status.WAITING, "Waiting", "for the closed model"),
        (Status.REVIEW, "Review", "for a person"),
        (Status.ERROR, "Error", "no answer is possible"),
    ]
    counted: list[tuple[StrEnum, str, int, str, str]] = [
        *((who, "decided_by", summary.decided_by.get(who, 0), a, b) for who, a, b in decided),
        *((how, "status", summary.status.get(how, 0), a, b) for how, a, b in left),
    ]
    return [
        {
            "end": end.value,
            "key": f"{table}.{end.value}",
            "count": count,
            "share": count / max(1, summary.records),
            "title": title,
            "what": what,
        }
        for end, table, count, title, what in counted
    ]


def _drawn(facts: Facts) -> Iterable[tuple[str, str]]:
    known, name = facts.evidence, called(facts)
    enough = sum(one.count for one in known.checked) >= ENOUGH_CHECKS
    if (known.labels is not None and known.labels.bins) or enough:
        yield "reliability", plots.reliability(known, name)
    if known.labels is not None and known.labels.count:
        yield "risk", plots.risk_coverage(known.labels, facts.job.confidence.target_error)
    if facts.confidences.known:
        thresholds = sorted(set(known.thresholds.values()))
        yield "histogram", plots.histogram(facts.confidences, thresholds, name)
    if facts.calls.spend and facts.calls.spend[-1][1]:
        yield "spend", plots.spend(facts.calls, facts.summary.cap_usd)


def day(at: str) -> str:
    """2026-11-22T05:08:20Z → 2026-11-22 05:08 UTC."""
    return f"{at[:10]} {at[11:16]} UTC"


def dated(text: str) -> Markup:
    """Dates in a text are kept from being broken at their hyphens."""
    pieces = enumerate(re.split(r"(\d{4}-\d\d-\d\d)", printable(text)))
    span = Markup('<span class="nobreak">{}</span>')
    return Markup("").join(span.format(piece) if n % 2 else piece for n, piece in pieces)


def basis(labels: Labels) -> str:
    """As `runner.status.certificate_text` says it."""
    whose = labels.source if labels.source == PEOPLE else f"of {labels.source}"
    return f"{labels.count:,} {whose} of {labels.made}"


def coded(text: str) -> Markup:
    """Renders text between backticks as code."""
    pieces = enumerate(printable(text).split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else p for n, p in pieces)
