"""What the server's ledger, budget, certificate and queues say at a moment, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from runner.ledger import Ledger
from runner.pipeline.certificate_monitor import CertificateMonitor
from runner.serve.metrics import Look
from runner.serve.serving import Serving

Key = tuple[str, str, str, str]
"""As `runner.serve.metrics.Metrics` takes them."""


def gauges(ledger: Ledger, serving: Serving, monitor: CertificateMonitor) -> Mapping[Key, Look]:
    """By name, help, label and its value."""
    audits = "Accepted answers that were checked by the closed model or a person."
    wrong = "Of these, those that were wrong."
    found: dict[Key, Look] = {
        _key("spent_usd", "Spent, or possibly spent, in this run directory, in US dollars."): (
            lambda: float(ledger.attempts.committed_usd())
        ),
        _key("audited", audits): lambda: float(ledger.audits.counts().checked),
        _key("audited_wrong", wrong): lambda: float(ledger.audits.counts().wrong),
        _key("audit_alarms", "Alarms of the running audit: the certified error no longer holds."): (
            lambda: monitor.alarms
        ),
        _key("shift_alarm", "1 once the records no longer look like the labelled ones."): (
            lambda: float(ledger.meta.shift_alarm)
        ),
        _key("local_window", "How many requests the local model takes at once."): (
            lambda: serving.window
        ),
    }
    queue = "Requests that wait for their turn, by the model that they wait for."
    for model in serving.queued:
        found["queue_length", queue, "model", model] = partial(serving.queued.__getitem__, model)
    if (budget := serving.budget) is not None:
        cap = "The spending cap of this run directory, in US dollars."
        left = "Of the cap, neither spent nor reserved for calls under way, in US dollars."
        sends = "1 while requests are sent to the closed model, 0 where something keeps them back."
        found[_key("budget_usd", cap)] = lambda: float(budget().cap)
        found[_key("budget_left_usd", left)] = lambda: float(budget().left)
        found[_key("escalation_on", sends)] = lambda: float(serving.stopped is None)
    return found


def _key(name: str, says: str) -> Key:
    return name, says, "", ""
