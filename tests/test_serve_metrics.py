"""/metrics, parsed as Prometheus does, beside the ledger of the same traffic."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests import jobs
from tests.jobs import query, spent_usd, wait_until
from tests.serving import Echo, Served, body, serving, write
from tests.stand_in import StandIn
from tests.test_engine_death import World

pytestmark = pytest.mark.process

Key = tuple[str, frozenset[tuple[str, str]]]
ROUTES = [
    {"when": "kind == 'greeting'", "to": "template", "answer": "Hello."},
    {"when": "kind == 'legal'", "to": "closed", "reason": "legal"},
    {"when": "kind == 'here'", "to": "local", "keep_local": True},
]


def families(served: Served) -> dict[str, Metric]:
    text = served.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(served: Served) -> dict[Key, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(served).values()
        for sample in family.samples
    }


def at(found: dict[Key, float], name: str, **labels: str) -> float:
    return found[f"surelocal_{name}", frozenset(labels.items())]


def by_label(found: dict[Key, float], name: str) -> dict[tuple[str, ...], float]:
    """Values by the labels' values, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): value
        for (metric, labels), value in found.items()
        if metric == f"surelocal_{name}"
    }


def of_kind(kind: str, text: str) -> dict[str, Any]:
    return body(text, metadata={"kind": kind})


@pytest.mark.usefixtures("key")
def test_the_figures_are_the_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: StandIn
) -> None:
    job = write(tmp_path, api.url, routes=ROUTES)
    with serving(monkeypatch, job, Echo()) as served:
        asked = [
            *[of_kind("any", f"where is card {n}") for n in range(7)],
            *[of_kind("any", f"unsure of {n}") for n in range(3)],
            *[of_kind("greeting", "hello") for _ in range(4)],
            *[of_kind("legal", f"sue {n}") for n in range(2)],
            *[of_kind("here", "unsure, to stay here") for _ in range(2)],
        ]
        with ThreadPoolExecutor(6) as many:
            replies = list(many.map(served.post, asked))
        replies += [served.post(b"no JSON"), served.post({"messages": 7})]
        found = samples(served)
        rows = query(
            served.run_dir,
            "SELECT COALESCE(decided_by, 'nobody'), COALESCE(words, reason), "
            "status, COUNT(*) FROM outcomes "
            "GROUP BY 1, 2, 3",
        )
        calls = query(served.run_dir, "SELECT usage FROM attempts WHERE usage IS NOT NULL")
        usage = [json.loads(one) for (one,) in calls]
        spent = float(spent_usd(served.run_dir))

    assert by_label(found, "requests_total") == {tuple(row[:3]): row[3] for row in rows}
    assert {row[:3] for row in rows} >= {("closed", "legal", "done"), ("closed", "unsure", "done")}
    statuses = [reply.status_code for reply in replies]
    assert by_label(found, "http_responses_total") == {
        (str(code),): statuses.count(code) for code in {200, 400, 503}
    }
    assert by_label(found, "refused_total") == {("400",): 2}
    for name, count in (("request", 18), ("local", 12), ("closed", 5)):
        assert at(found, f"{name}_seconds_count") == count
        assert at(found, f"{name}_seconds_bucket", le="+Inf") == count
        assert at(found, f"{name}_seconds_sum") > 0
    assert at(found, "request_seconds_sum") >= at(found, "local_seconds_sum")
    assert by_label(found, "tokens_total") == {
        ("local", "input"): 12 * 7,
        ("local", "output"): 12 * 3,
        ("closed", "input"): sum(
            one[name]
            for one in usage
            for name in ("input_tokens", "cache_write_5m", "cache_write_1h", "cache_read")
        ),
        ("closed", "output"): sum(one["output_tokens"] for one in usage),
    }
    assert len(usage) == 5 and at(found, "tokens_total", model="closed", type="output") > 0
    assert at(found, "spent_usd") == pytest.approx(spent) and spent > 0
    assert (at(found, "budget_usd"), at(found, "escalation_on")) == (5, 1)
    assert at(found, "budget_left_usd") == pytest.approx(5 - spent)
    assert at(found, "requests_in_flight") == 0
    assert by_label(found, "queue_length") == {("local",): 0, ("closed",): 0}
    assert (at(found, "audit_alarms"), at(found, "shift_alarm")) == (0, 0)
    assert found["process_resident_memory_bytes", frozenset()] > 1 << 20


def test_names_units_and_types_are_as_prometheus_wants_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, write(tmp_path), Echo()) as served:
        served.post(body())
        found = families(served)
    ours = {name: family for name, family in found.items() if name.startswith("surelocal_")}
    assert {family.type for family in ours.values()} == {"counter", "gauge", "histogram"}
    for name, family in ours.items():
        assert family.documentation.endswith("."), name
        assert (family.type == "histogram") == name.endswith("_seconds")
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created"))
            assert sample.labels.keys() <= {
                "status", "decided_by", "reason", "code", "model", "type", "le"
            }  # fmt: skip
    assert "surelocal_budget_usd" not in ours  # no closed model, no budget


def test_labels_are_few_whatever_clients_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, write(tmp_path, routes=ROUTES), Echo()) as served:
        for number in range(30):
            metadata = {"kind": f"kind {number}", "record_id": f"id {number}"}
            served.post(body(f"text {number}", model=f"model {number}", metadata=metadata))
        found = samples(served)
    assert by_label(found, "requests_total") == {("local", "confident", "done"): 30}
    assert len(found) < 120


def test_what_waits_for_its_turn_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Echo(pause_s=0.6, window=2)
    with serving(monkeypatch, write(tmp_path), engine) as served:
        with ThreadPoolExecutor(5) as many:
            for number in range(5):
                many.submit(served.post, body(f"number {number}"))
            wait_until(lambda: at(samples(served), "queue_length", model="local") == 3)
            found = samples(served)
        assert (at(found, "requests_in_flight"), at(found, "local_window")) == (5, 2)
        after = samples(served)
        assert (at(after, "requests_in_flight"), at(after, "queue_length", model="local")) == (0, 0)


def test_an_engine_that_dies_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(kills=(2, 4))
    answer = {"schema": jobs.SCHEMA}
    with serving(monkeypatch, write(tmp_path, answer=answer), world.engine()) as served:
        for number in range(6):
            assert served.post(body(f"<R-{number}> where is it")).status_code == 200
        found = samples(served)
        assert at(found, "engine_restarts_total") == 2
        assert at(samples(served), "engine_restarts_total") == 2  # looking again counts nothing
        assert (
            at(found, "requests_total", status="done", decided_by="local", reason="confident") == 6
        )
