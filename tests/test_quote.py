"""`surelocal quote`: what it says is what a run then does, and it sends and leaves nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.job.file import load_job
from runner.quote.drawing import draw
from tests import jobs, scripted
from tests.fakes import surelocal
from tests.jobs import NO_KEY, run, use_engine
from tests.scripted import Model, calibrate
from tests.stand_in import StandIn

CASES = scripted.cases(300, sure_wrong=0.01)
NOWHERE = "http://127.0.0.1:9"
OTHERS = jobs.records(["T-1", "T-2"], "template") + jobs.records(["C-1", "C-2", "C-3"])
BROKEN = [*jobs.records(["R-0001"], "local"), *jobs.records([""], "local")]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model(CASES)
    use_engine(monkeypatch, model)
    return model


def job_of(folder: Path, rule: Mapping[str, Any], url: str = NOWHERE, **keys: Any) -> Path:
    """Three hundred records for the local model, some for others, and two broken ones."""
    rows = [*(one.row for one in CASES), *OTHERS, *BROKEN]
    usual = {"local": scripted.LOCAL, "confidence": {"reference": 0, **rule}}
    return jobs.write_job(folder / "job", url, rows, **usual | keys)


def quoted(job: Path, *options: object) -> dict[str, Any]:
    result = surelocal("quote", job, "--json", *options)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def exactly(found: Mapping[str, float]) -> float:
    """The estimate, where the pilot was the whole."""
    assert found["low"] == pytest.approx(found["estimate"]) == pytest.approx(found["high"])
    return found["estimate"]


def test_a_pilot_on_all_says_what_the_run_then_comes_to(tmp_path: Path, model: Model) -> None:
    job = job_of(tmp_path, {"threshold": 0.9})
    found = quoted(job, "--pilot", 1000)
    assert (found["records"], found["pilot"]) == (307, 307)
    summary = run(job, NO_KEY).summary
    counts = {kind: exactly(one) for kind, one in found["counts"].items()}
    assert counts["local"] == summary.decided_by["local"]
    assert counts["template"] == 2 and counts["error"] == 2 and counts["rule"] == 3
    assert counts["escalated"] == summary.status["waiting"] == counts["confidence"] + 3
    costs = found["cost_usd"]
    plain = {name: exactly(way["nothing_cached"]) for name, way in costs.items()}
    assert plain["Hybrid, live"] == pytest.approx(float(summary.waiting_estimate_usd))
    assert plain["All closed, live"] == pytest.approx(float(summary.all_closed_usd))
    assert plain["Hybrid, batch"] == pytest.approx(plain["Hybrid, live"] / 2)
    # Its answer's format and system message are too short for the cache.
    assert found["shared_tokens"] is None and costs["Hybrid, live"]["cached"] is None


@pytest.mark.usefixtures("key")
def test_nothing_is_sent_though_there_is_a_key_and_nothing_is_left(
    tmp_path: Path, scratch: Path, api: StandIn, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(scratch.parent)
    closed = {"budget_usd": 5, "base_url": api.url, "daily_budget_usd": 1, "lane": "batch"}
    job = job_of(tmp_path, {"threshold": 0.9}, escalation=closed)
    before = sorted(tmp_path.rglob("*"))
    assert "Nothing was sent" in surelocal("quote", job, "--pilot", 50).stdout
    assert api.bill.requests(None) == []
    assert sorted(tmp_path.rglob("*")) == before
    assert model.asked["answer"] < 60


def test_an_engine_that_gives_out_leaves_nothing_either(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, {"threshold": 0.9}, local={"model": "./no-model"})
    refused = surelocal("quote", job)
    assert refused.exit_code == 2 and "no-model" in refused.stderr
    assert list(scratch.iterdir()) == []


def test_the_sample_is_random_the_same_each_time_and_knows_doubled_ids(tmp_path: Path) -> None:
    rows = jobs.records([f"R-{n}" for n in range(400)]) + jobs.records([f"R-{n}" for n in range(9)])
    job = load_job(jobs.write_job(tmp_path / "job", NOWHERE, rows)).job
    first, again = draw(job, 60), draw(job, 60)
    assert first == again and first.size == 409
    places = [record.position for record in first.records]
    assert places == sorted(set(places)) and len(places) == 60
    assert 150 < sum(places) / 60 < 260 and places != list(range(60))
    doubled = [r for r in draw(job, 409).records if r.problem is not None]
    assert [r.position for r in doubled] == list(range(400, 409))
    # Also where the record that has the id already was not drawn.
    for number in range(10, 400, 10):
        drawn = draw(job, number).records
        assert all((r.problem is not None) == (r.position >= 400) for r in drawn)


@pytest.mark.slow
def test_with_labels_it_certifies_what_a_run_then_accepts(tmp_path: Path, model: Model) -> None:
    job = job_of(tmp_path, {"threshold": 0.9})
    labels = scripted.labels(job.parent, CASES[:200])
    found = quoted(job, "--pilot", 1000, "--labels", labels)["curve"]
    assert found["calibrated"] and found["labels"] == 200 and found["answered"] == 300
    points = {one["target_error"]: one for one in found["points"]}
    assert list(points) == [0.005, 0.01, 0.02, 0.05, 0.1]
    accepted = [exactly(one["accepted"]) for one in found["points"]]
    assert accepted == sorted(accepted) and accepted[-1] > 200
    assert not points[0.005]["certified"] and points[0.005]["labels_needed"] > 200
    assert not (job.parent / "calibration.json").exists()
    certain = job_of(tmp_path, {"target_error": 0.1})
    calibrate(certain, "--labels", labels)
    summary = run(certain, NO_KEY).summary
    assert summary.decided_by["local"] == accepted[-1]
    assert summary.status["waiting"] == exactly(points[0.1]["escalated"])
    assert float(summary.waiting_estimate_usd) == pytest.approx(exactly(points[0.1]["usd"]))
    # With the calibration there, the job's own quote is by it.
    found = quoted(certain, "--pilot", 1000)
    assert exactly(found["counts"]["local"]) == accepted[-1]
    assert "By 200 of people's labels" in surelocal("quote", certain).stdout


def test_too_few_labels_are_no_mistake_but_an_answer(tmp_path: Path, model: Model) -> None:
    job = job_of(tmp_path, {"target_error": 0.01})
    labels = scripted.labels(job.parent, CASES[:40])
    said = " ".join(surelocal("quote", job, "--labels", labels).stdout.split())
    assert "To certify" in said and "(there are 40)" in said


def test_without_labels_it_says_that_nothing_is_certified(tmp_path: Path, model: Model) -> None:
    found = quoted(job_of(tmp_path, {"target_error": 0.05}), "--pilot", 1000)
    assert exactly(found["counts"]["local"]) == 0
    assert exactly(found["counts"]["confidence"]) == 300
    points = found["curve"]["points"]
    assert not any(one["certified"] for one in points) and not found["curve"]["calibrated"]
    assert points[-1]["labels_needed"] >= 22  # ln 0.1 / ln 0.9
    said = " ".join(surelocal("quote", job_of(tmp_path, {"target_error": 0.05})).stdout.split())
    assert "Nothing can be certified without labels" in said and "an indication only" in said
    assert "has no calibration yet: so far it accepts nothing" in said


def test_what_must_stay_is_never_counted_as_escalated(tmp_path: Path, model: Model) -> None:
    privacy = {"keep_local": "kind == 'local'"}
    job = job_of(tmp_path, {"threshold": 0.9}, privacy=privacy)
    found = quoted(job, "--pilot", 1000)
    assert exactly(found["counts"]["escalated"]) == exactly(found["counts"]["rule"]) == 3
    assert exactly(found["counts"]["review"]) == run(job, NO_KEY).summary.status["review"]
    assert {exactly(one["escalated"]) for one in found["curve"]["points"]} == {3}


def test_audits_cost_too(tmp_path: Path, model: Model) -> None:
    job = job_of(tmp_path, {"target_error": 0.1, "audit": {"rate": 0.3}})
    calibrate(job, "--labels", scripted.labels(job.parent, CASES[:200]))
    counts = quoted(job, "--pilot", 1000)["counts"]
    assert 0.15 < exactly(counts["audit"]) / exactly(counts["local"]) < 0.45
    assert exactly(counts["escalated"]) == sum(
        exactly(counts[kind]) for kind in ("rule", "confidence", "audit")
    )


def test_a_budget_is_divided_over_the_pilot_as_over_the_whole(tmp_path: Path, model: Model) -> None:
    closed = {"model": "claude-sonnet-5-5", "budget_usd": 0.05, "base_url": NOWHERE}
    job = job_of(tmp_path, {"policy": "budget"}, escalation=closed)
    found = quoted(job, "--pilot", 150)
    hybrid = found["cost_usd"]["Hybrid, live"]["nothing_cached"]
    assert 0.03 < hybrid["estimate"] <= 0.05
    assert 0 < found["counts"]["confidence"]["estimate"] < 300
    assert found["counts"]["escalated"]["low"] > 0


def test_a_job_without_a_closed_model_costs_nothing(tmp_path: Path, model: Model) -> None:
    job, none = job_of(tmp_path, {"threshold": 0.9}), ("--set", "escalation=null")
    found = quoted(job, *none)
    assert found["cost_usd"] == {} and found["closed_model"] is None
    assert found["counts"]["escalated"]["in_pilot"] == 0
    assert "nothing would be paid" in surelocal("quote", job, *none).stdout


def test_time_and_what_the_machine_costs_meanwhile(tmp_path: Path, model: Model) -> None:
    local = {**scripted.LOCAL, "gpu_usd_per_hour": 3.6}
    time = quoted(job_of(tmp_path, {"threshold": 0.9}, local=local))["time"]
    assert 0 < time["low_s"] < time["high_s"]
    assert time["gpu_usd"][1] == pytest.approx((time["loading_s"] + time["high_s"]) / 1000)


def test_a_shared_prefix_that_is_long_enough_is_priced_as_cached(
    tmp_path: Path, model: Model
) -> None:
    prompt = {"user": "{{ message }}", "system": "Answer with the intent. " * 120}
    found = quoted(job_of(tmp_path, {"threshold": 0.9}, prompt=prompt))
    assert found["shared_tokens"] > 700
    for way in found["cost_usd"].values():
        assert way["cached"]["estimate"] < way["nothing_cached"]["estimate"]
    live = found["cost_usd"]["All closed, live"]
    assert live["cached"]["high"] < 0.5 * live["nothing_cached"]["low"]


def test_it_becomes_a_file_to_send(tmp_path: Path, model: Model) -> None:
    job, file = job_of(tmp_path, {"threshold": 0.9}), tmp_path / "quote.md"
    assert surelocal("quote", job, "-o", file).exit_code == 0
    text = file.read_text("utf-8")
    assert text.startswith("# Quote for small: 307 records") and "## Cost" in text
    assert "| Hybrid, live | $" in text and "Nothing was sent" in text
    refused = surelocal("quote", job, "-o", tmp_path / "nowhere" / "quote.md")
    assert refused.exit_code == 2 and "cannot write the quote" in refused.stderr


def test_mistakes_are_a_sentence(tmp_path: Path, model: Model) -> None:
    job = job_of(tmp_path, {"threshold": 0.9})
    assert surelocal("quote", job, "--pilot", 1).exit_code == 2
    empty = jobs.write_job(tmp_path / "empty", NOWHERE, [], local=scripted.LOCAL)
    (empty.parent / "records.jsonl").write_text("", encoding="utf-8")
    result = surelocal("quote", empty)
    assert result.exit_code == 2 and "records.jsonl" in result.stderr
    overall = job_of(tmp_path, {"target_error_overall": 0.1})
    result = surelocal("quote", overall, "--labels", scripted.labels(job.parent, CASES[:9]))
    assert result.exit_code == 2 and "--teacher" in result.stderr


def test_text_has_no_curve_and_no_local_records_need_no_model(tmp_path: Path, model: Model) -> None:
    job = job_of(tmp_path, {"threshold": 0.0}, answer={"text": True}, local=scripted.LOCAL)
    assert quoted(job)["curve"] is None
    rules = jobs.write_job(tmp_path / "rules", NOWHERE, OTHERS, local=scripted.LOCAL)
    found = quoted(rules)
    assert found["curve"] is None and found["time"]["records_a_second"] is None
    assert exactly(found["counts"]["rule"]) == 3
    assert "none was loaded" in surelocal("quote", rules).stdout


@pytest.mark.slow
def test_the_demo_model_as_it_is(tmp_path: Path) -> None:
    demo = jobs.ROOT / "configs" / "demo" / "job.yaml"
    found = quoted(demo, "--pilot", 60, "--set", NO_KEY)
    assert found["pilot"] == 60 and found["shared_tokens"] > 512
    assert found["counts"]["local"]["in_pilot"] > 30
