"""Further looks in runs: what they decide, what they save, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import scripted
from tests.jobs import NO_KEY, Ran, query, run, use_engine
from tests.scripted import Model, calibrate, case

CASES = scripted.cases(600, sure_wrong=0.06)
NOWHERE = "http://127.0.0.1:9"
WORDING = "Otherwise: name the intent."
ALL = {"p_true": True, "wordings": [WORDING, f"{WORDING} Again."], "samples": 3}


def job_of(folder: Path, looks: Mapping[str, Any], **rule: Any) -> Path:
    rule = {"target_error": 0.1, "looks": looks, "calibration": "../calibration.json", **rule}
    return scripted.job(folder, NOWHERE, CASES, rule)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model(CASES)
    use_engine(monkeypatch, model)
    return model


def calibrated(folder: Path, model: Model, looks: Mapping[str, Any]) -> None:
    job = job_of(folder, looks)
    calibrate(job, "--labels", scripted.labels(folder, CASES[:400]))
    model.asked.clear()


def decisions(ran: Ran) -> dict[str, tuple[Any, ...]]:
    keys = ("status", "decided_by", "reason", "value")
    return {name: tuple(row[key] for key in keys) for name, row in ran.rows.items()}


def test_looks_only_where_they_can_matter_decide_as_all_of_them_would(
    tmp_path: Path, model: Model
) -> None:
    calibrated(tmp_path / "made", model, {"p_true": True})
    always = run(job_of(tmp_path / "always", {"p_true": True, "take": "always"}), NO_KEY)
    assert model.asked == {"answer": 600, "p_true": 600}
    model.asked.clear()
    auto = run(job_of(tmp_path / "auto", {"p_true": True}), NO_KEY)
    assert decisions(auto) == decisions(always)
    reasons = {row["reason"] for row in auto.rows.values()}
    assert reasons == {"confident", "unsure"}
    looked = model.asked["p_true"]
    assert 0 < looked < 500
    [said] = [line for line in auto.summary.trust if "Further looks" in line]
    assert f"taken at {looked} answers" in said and " 0 decisions changed" not in said

    # A signal that tells right from wrong is worth its requests.
    found = {one.id: one for one in CASES}
    accepted = [name for name, row in auto.rows.items() if row["decided_by"] == "local"]
    assert len(accepted) > 300
    assert sum(found[name].wrong for name in accepted) <= 0.1 * len(accepted)


def test_every_look_is_a_signal_and_values_are_compared_not_texts(
    tmp_path: Path, model: Model
) -> None:
    calibrated(tmp_path / "made", model, ALL)
    ran = run(job_of(tmp_path / "job", {**ALL, "take": "always"}), NO_KEY)
    assert model.asked == {"answer": 600, "p_true": 600, "wording": 1200, "samples": 600}
    held = query(ran.run_dir, "SELECT o.record_id, h.answer FROM held h JOIN outcomes o USING "
                 "(position)")  # fmt: skip
    assert len(held) > 50
    known = {one.id: one for one in CASES}
    for name, answer in held:
        signals = json.loads(answer)["signals"]
        assert signals["agreement"] == signals["intent.agreement"] == 1.0
        assert signals["wording"] == pytest.approx(known[name].probability)
        assert signals["p_true"] == pytest.approx(known[name].p_true)


def test_a_look_that_is_too_long_is_left_out(tmp_path: Path, model: Model) -> None:
    looks = {**ALL, "take": "always"}
    model.too_long = lambda kind: kind != "answer"
    calibrated(tmp_path / "made", model, looks)
    ran = run(job_of(tmp_path / "job", looks), NO_KEY)
    assert {row["status"] for row in ran.rows.values()} <= {"done", "waiting"}
    [said] = [line for line in ran.summary.trust if "Further looks" in line]
    assert "taken at 600 answers" in said


def test_an_answer_that_is_no_good_gets_no_looks(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated(tmp_path / "made", model, ALL)
    bad = Model([case(one.id, None) for one in CASES])
    use_engine(monkeypatch, bad)
    ran = run(job_of(tmp_path / "job", {**ALL, "take": "always"}), NO_KEY)
    assert bad.asked == {"answer": 600}
    assert {row["reason"] for row in ran.rows.values()} == {"invalid_answer"}
    assert not [line for line in ran.summary.trust if "Further looks" in line]


def test_a_budget_is_divided_by_all_that_was_seen(tmp_path: Path, model: Model) -> None:
    calibrated(tmp_path / "made", model, {"p_true": True})
    rule = {"target_error": None, "policy": "budget"}
    ran = run(job_of(tmp_path / "job", {"p_true": True}, **rule), NO_KEY)
    assert model.asked == {"answer": 600, "p_true": 600}
    found = query(ran.run_dir, "SELECT o.record_id, o.confidence, h.expected_loss FROM held h "
                  "JOIN outcomes o USING (position)")  # fmt: skip
    assert all(loss == pytest.approx(1 - sure) for _, sure, loss in found)
    known = {one.id: one for one in CASES}
    right = [sure for name, sure, _ in found if not known[name].wrong]
    wrong = [sure for name, sure, _ in found if known[name].wrong]
    assert sum(right) / len(right) > sum(wrong) / len(wrong) + 0.2
