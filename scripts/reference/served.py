"""serve.md: what a server's `/metrics` counts."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from reference.text import code, said, table
from runner.reasons import Status
from runner.serve.answered import Answered
from runner.serve.gauges import gauges
from runner.serve.metrics import Metrics
from runner.types import Outcome

_HEAD = """# The server's metrics

What `GET /metrics` of `surelocal serve` gives, for Prometheus; of the process itself it also gives
Prometheus' usual `process_…`. Those of money are there where the job has an `escalation`, and a
label where there was something to count.
"""


def page() -> str:
    return _HEAD + "\n" + table(("metric", "kind", "labels", "what it says"), _rows())


def _rows() -> Iterator[tuple[str, str, str, str]]:
    for family in text_string_to_metric_families(_metrics().text().decode()):
        if family.name.startswith("process_") or family.name.endswith("_created"):
            continue
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        told = said(family.documentation, name)
        yield code(name), family.type, ", ".join(map(code, labels)), told


def _metrics() -> Metrics:
    """Of a server that has a closed model and one request behind it."""
    # Nothing is looked at: only what there is to look at counts here.
    anything: Any = SimpleNamespace(queued={"local": 0}, budget=lambda: None)
    found = Metrics((), dict.fromkeys(gauges(anything, anything, anything), float), float)
    found.settled(Answered(Outcome(0, "1", Status.DONE)))
    found.replied(200, 0.0)
    found.refused(429)
    return found
