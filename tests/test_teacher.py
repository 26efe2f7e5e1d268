"""`calibrate --teacher`: the closed model's answers as labels, each paid for once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RunDirError
from tests import scripted
from tests.jobs import KEY, NO_KEY, ROOT, marked, query, run, spent_usd, use_engine, wait_until
from tests.scripted import Case, Model, calibrate, case
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")
TARGET = {"target_error": 0.12}
CASES = scripted.cases(200, sure_wrong=0.01)


@pytest.fixture
def oracle() -> Callable[[str], str]:
    return scripted.oracle(CASES)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model(CASES)
    use_engine(monkeypatch, model)
    return model


def sent(api: StandIn) -> list[str]:
    return [scripted.name_in(request.text) for request in api.bill.requests()]


def by_teacher(run_dir: Path) -> set[str]:
    sql = "SELECT record_id FROM outcomes WHERE reason='teacher' AND decided_by='closed'"
    return {name for (name,) in query(run_dir, sql)}


def test_the_teachers_answers_certify_and_are_results_of_the_run(
    tmp_path: Path, api: StandIn, model: Model
) -> None:
    job = scripted.job(tmp_path / "job", api.url, CASES, TARGET)
    said = calibrate(job, "--teacher", 80).stderr
    asked = set(sent(api))
    assert len(asked) == len(sent(api)) == 80 == len(by_teacher(job.parent / "run"))
    assert "80 of the closed model's answers of" in said
    assert "differ from the closed model's" in said
    ran = run(job)
    assert ran.summary.unfinished == 0
    assert len(sent(api)) == len(set(sent(api)))
    assert by_teacher(ran.run_dir) == asked
    for name in asked:
        row = ran.rows[name]
        assert (row["decided_by"], row["reason"]) == ("closed", "teacher")
        assert row["cost_usd"] > 0
    local = [row for row in ran.rows.values() if row["decided_by"] == "local"]
    assert 50 < len(local) < 120
    assert ran.spent == api.bill.total_usd()
    assert any("of the closed model's answers" in line for line in ran.summary.trust)
    # Every answer's estimate counts, the teacher's too: about 200 of one price.
    assert 150 < ran.summary.all_closed_usd / (ran.spent / len(sent(api))) < 250


def test_what_must_stay_is_in_no_sample_and_the_certificate_says_so(
    tmp_path: Path, api: StandIn, model: Model
) -> None:
    secret = {one.id for one in CASES[:60]}
    privacy = {"keep_local": "id[2:] | int < 60"}
    job = scripted.job(tmp_path / "job", api.url, CASES, TARGET, privacy=privacy)
    result = calibrate(job, "--teacher", 140)
    assert len(sent(api)) == 140 and not secret & set(sent(api))
    assert "the closed model's answers to records that may leave" in result.stderr
    assert "this batch" not in result.stderr  # of which it is no random sample
    too_many = calibrate(job, "--teacher", 141, status=2).stderr
    assert "only 140 records" in too_many

    # People may label what must stay, and it still is not sent.
    overall = {"target_error_overall": 0.2}
    job = scripted.job(tmp_path / "both", api.url, CASES, overall, privacy=privacy)
    calibrate(job, "--labels", scripted.labels(job.parent, CASES), "--teacher", 200, status=3)
    assert len(sent(api)) == 280 and not secret & set(sent(api))


def test_a_cap_that_is_too_small_keeps_what_was_paid(
    tmp_path: Path, api: StandIn, model: Model
) -> None:
    job = scripted.job(tmp_path / "job", api.url, CASES, TARGET, {"budget_usd": 0.01})
    said = calibrate(job, "--teacher", 80, status=2).stderr
    paid = set(sent(api))
    assert 0 < len(paid) < 80
    assert f"{len(paid)} of 80 records were answered" in said and "budget_usd" in said
    assert model.asked == {}
    calibrate(job, "--teacher", 80, "--set", "escalation.budget_usd=5")
    assert len(sent(api)) == 80 == len(set(sent(api))) and paid < set(sent(api))
    assert spent_usd(job.parent / "run") == api.bill.total_usd()

    said = calibrate(job, "--teacher", 80, "--set", "prompt.system=Other.", status=2).stderr
    assert "`prompt` differ" in said and len(sent(api)) == 80
    with pytest.raises(RunDirError, match=r"`escalation\.model` differ"):
        run(job, "escalation.model=claude-opus-5")


def test_without_a_key_and_into_a_begun_run_nothing_is_asked(
    tmp_path: Path, api: StandIn, model: Model
) -> None:
    job = scripted.job(tmp_path / "job", api.url, CASES, TARGET)
    said = calibrate(job, "--teacher", 80, "--set", NO_KEY, status=2).stderr
    assert "no API key" in said and "closed model to ask" in said
    calibrate(job, "--labels", scripted.labels(job.parent, CASES))
    run(job, NO_KEY, limit=4)
    said = calibrate(job, "--teacher", 80, status=2).stderr
    assert "has decided R-00" in said and "a sample must be drawn before the run" in said
    said = calibrate(job, "--teacher", 20, status=2).stderr  # of others than those four
    assert "has decided other records already" in said
    assert api.bill.requests(None) == []
    count = "SELECT COUNT(*) FROM outcomes"
    assert query(job.parent / "run", count) == [(4,)]  # and nothing was left there to be sent


def test_an_invalid_closed_answer_counts_as_wrong(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [case(f"R-{n:04}", 0.99) for n in range(100)]
    api.claude.oracle = scripted.oracle(known)
    use_engine(monkeypatch, Model(known))
    job = scripted.job(tmp_path / "job", api.url, known, TARGET)
    for name in ("R-0003", "R-0040", "R-0077"):
        api.faults.push("off_enum", when=marked(name))
    api.faults.push("rst_after", when=marked("R-0050"))
    found = json.loads(calibrate(job, "--teacher", 100, "--json").stdout)
    assert (found[0]["labels"], found[0]["accepted"], found[0]["errors"]) == (100, 100, 4)
    ran = run(job, NO_KEY)
    assert ran.rows["R-0003"]["reason"] == "closed_invalid"
    assert ran.rows["R-0050"]["reason"] == "reply_lost"
    assert len(sent(api)) == 100


def test_a_record_that_reaches_no_model_is_not_asked_about(
    tmp_path: Path, api: StandIn, model: Model
) -> None:
    rows: list[Case] = [*CASES[:100], CASES[0], CASES[1]]
    prompt = {"user": "{{ message }}{{ [0][n] }}"}
    for n, one in enumerate(rows):
        rows[n] = Case(one.id, one.truth, one.says, one.probability, fields={"n": int(n in (2, 3))})
    job = scripted.job(tmp_path / "job", api.url, rows, TARGET, prompt=prompt)
    said = calibrate(job, "--teacher", 99, status=2).stderr
    assert "only 98 records" in said
    calibrate(job, "--teacher", 98)
    assert len(set(sent(api))) == 98 == len(sent(api))
    ran = run(job, NO_KEY)
    ends: dict[Any, int] = {}
    for status, reason in query(ran.run_dir, "SELECT status, reason FROM outcomes"):
        ends[status, reason] = ends.get((status, reason), 0) + 1
    assert ends == {
        ("done", "teacher"): 98, ("error", "bad_prompt"): 2, ("error", "bad_record"): 2,
    }  # fmt: skip


def test_killed_while_the_teacher_answers_and_asked_again(
    tmp_path: Path, api: StandIn, model: Model
) -> None:
    api.latency = 0.1
    job = scripted.job(tmp_path / "job", api.url, CASES, TARGET, {"concurrency": 4})
    command = [sys.executable, "-m", "runner.cli.main", "calibrate", str(job), "--teacher", "80"]
    process = subprocess.Popen(
        [*command, "--run-dir", str(job.parent / "run")],
        cwd=ROOT, env=os.environ | {"ANTHROPIC_API_KEY": KEY}, start_new_session=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: len(sent(api)) > 20)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    api.latency = 0.0
    assert 20 < len(sent(api)) < 80
    calibrate(job, "--teacher", 80)
    api.wait_idle()
    assert len(sent(api)) == len(set(sent(api))) == 80
    assert api.bill.billed_twice() == {}
    run_dir = job.parent / "run"
    assert spent_usd(run_dir) == api.bill.total_usd() and len(by_teacher(run_dir)) == 80
