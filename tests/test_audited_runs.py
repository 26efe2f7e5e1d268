"""Runs that check a share of what they accept: what is sent, what stands, and the alarm."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from escalation.providers.protocol import Reply
from escalation.send.escalate import Escalator
from runner.job.file import load_job
from runner.ledger import open_ledger
from runner.pipeline import assemble
from runner.pipeline.loop import Pipeline, Progress
from runner.types import Completion, Event, Level, Notice, Outcome, Prompt, Sampling
from tests import scripted
from tests.jobs import NO_KEY, Ran, query, run, use_engine
from tests.scripted import Case, Model, calibrate, case
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")
CASES = scripted.cases(200, sure_wrong=0.05)
AUDITED = {"target_error": 0.25, "audit": {"rate": 0.5}}


@pytest.fixture
def oracle() -> Callable[[str], str]:
    return scripted.oracle(CASES)


@pytest.fixture
def job(tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calibrated by people; a quarter of its records must stay."""
    use_engine(monkeypatch, Model(CASES))
    privacy = {"keep_local": "id[2:] | int < 50"}
    job = scripted.job(tmp_path / "job", api.url, CASES, AUDITED, privacy=privacy)
    calibrate(job, "--labels", scripted.labels(job.parent, CASES[50:150]))
    return job


def audited(ran: Ran) -> dict[str, bool]:
    """Record → whether its local answer was found wrong."""
    found = query(ran.run_dir, "SELECT record_id, wrong FROM audits")
    return {name: bool(wrong) for name, wrong in found}


def test_what_is_audited_costs_and_only_a_wrong_answer_is_replaced(job: Path, api: StandIn) -> None:
    ran = run(job)
    known, verdicts = {one.id: one for one in CASES}, audited(ran)
    assert 40 < len(verdicts) < 100
    assert not [name for name in verdicts if int(name[2:]) < 50]
    assert verdicts == {name: known[name].wrong for name in verdicts}
    for name, wrong in verdicts.items():
        row = ran.rows[name]
        decided = ("closed", "audit") if wrong else ("local", "confident")
        assert (row["status"], row["decided_by"], row["reason"]) == ("done", *decided)
        assert row["cost_usd"] > 0 and row["value"]["intent"] == known[name].truth
    for name, row in ran.rows.items():
        assert name in verdicts or row["reason"] != "audit"
        assert row["decided_by"] != "local" or (row["cost_usd"] > 0) == (name in verdicts)
    assert ran.spent == api.bill.total_usd()
    replaced = sum(verdicts.values())
    said = f"Audited so far: {len(verdicts)} accepted answers, {replaced} of them wrong"
    assert any(said in line and "no alarm" in line for line in ran.summary.trust)


def test_without_a_key_nothing_is_audited_and_later_neither(job: Path, api: StandIn) -> None:
    ran = run(job, NO_KEY)
    assert audited(ran) == {} and api.bill.requests(None) == []
    assert {row["reason"] for row in ran.rows.values() if row["status"] == "done"} == {"confident"}
    later = run(job, again=True)
    assert audited(later) == {}
    for name, row in ran.rows.items():
        assert row["status"] != "done" or later.rows[name] == row


def test_where_the_money_ends_the_unchecked_answers_stand(job: Path, api: StandIn) -> None:
    ran = run(job, "escalation.budget_usd=0.004", "escalation.concurrency=2")
    verdicts = audited(ran)
    assert 0 < len(verdicts) < 30 and ran.spent == api.bill.total_usd() <= 0.004
    reasons = {row["reason"] for row in ran.rows.values() if row["status"] == "waiting"}
    assert reasons <= {"unsure", "invalid_answer"}
    assert all(ran.rows[name]["status"] == "done" for name in verdicts)


def test_an_audit_that_brings_no_usable_answer_changes_nothing(job: Path, api: StandIn) -> None:
    api.faults.mix(3, 1.0, ["off_enum", "rst_before", "413"])
    ran = run(job)
    assert audited(ran) == {}
    paid = [row for row in ran.rows.values() if row["cost_usd"] > 0 and row["status"] == "done"]
    assert paid and {(row["decided_by"], row["reason"]) for row in paid} == {("local", "confident")}


# --- the alarm, against a closed model in this process: hundreds of checks cost nothing ---


@dataclass
class Closed:
    """Answers with the truth at once; the courier's place."""

    known: Mapping[str, Case]
    sent: list[str] = field(default_factory=list)

    async def send(self, attempt: int, request: Mapping[str, Any]) -> Reply:
        await asyncio.sleep(0)
        name = scripted.name_in(json.dumps(request["messages"], ensure_ascii=False))
        self.sent.append(name)
        text = json.dumps({"intent": self.known[name].truth})
        usage = {"input_tokens": 50, "output_tokens": 9}
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
            "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        return Reply("ok", body=message)


class Slow(Model):
    """As slow as local models are beside a closed one, in turns of the event loop."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        for _ in range(40):
            await asyncio.sleep(0)
        return await super().generate(prompt, sampling)


@dataclass
class Watched:
    outcomes: list[Outcome]
    told: list[Notice]
    alarms: int
    closed: Closed

    def wrong_share(self, known: Mapping[str, Case]) -> float:
        """Of the local answers that were delivered."""
        local = [o for o in self.outcomes if o.decided_by == "local"]
        return sum(known[o.record_id].wrong for o in local) / len(local)


def watched(job_file: Path, known: Mapping[str, Case], run_dir: Path, limit: int) -> Watched:
    """A run of the first records."""
    job, told = load_job(job_file).job, list[Notice]()
    given, trusted, progress = assemble.closed_side(job), assemble.trust(job), Progress()
    assert given is not None
    sender = Closed(known)
    with open_ledger(run_dir) as ledger:
        monitor = assemble.monitor(job, trusted, ledger, told.append, audits=True)
        escalator = Escalator(ledger, given, progress.resettle, monitor.verdict)
        half = assemble.local_half(job, trusted.calibration)
        records = (r for r in assemble.records(job) if r.position < limit)
        rules = assemble.rules(job, given, monitor)
        pipeline = Pipeline(ledger, half, rules, progress)
        asyncio.run(pipeline.run(records, escalator, sender))
        return Watched(list(ledger.outcomes()), told, monitor.alarms, sender)


def traffic(n: int, wrong: float, seed: int, prefix: str) -> list[Case]:
    draw = random.Random(f"{seed}{prefix}")
    return [
        case(f"{prefix}-{i}", draw.uniform(0.9, 0.999), wrong=draw.random() < wrong)
        for i in range(n)
    ]


def audited_job(
    folder: Path, patch: pytest.MonkeyPatch, given: list[Case], **audit: Any
) -> tuple[Path, dict[str, Case]]:
    """Calibrated by 800 further records."""
    # Its import takes seconds, in which `Slow` answers everything: a real model would not.
    importlib.import_module("anthropic")
    sample = traffic(800, 0.005, 1, "L")
    everything = [*given, *sample]
    use_engine(patch, Slow(everything))
    confidence = {"target_error": 0.05, "audit": {"rate": 0.25, **audit}}
    job = scripted.job(folder, "http://127.0.0.1:9", everything, confidence)
    calibrate(job, "--labels", scripted.labels(folder, sample))
    return job, {one.id: one for one in everything}


@pytest.mark.slow
@pytest.mark.parametrize("on_alarm", ["stop", "tighten"])
def test_a_batch_that_turns_bad_half_way_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_alarm: str
) -> None:
    given = [*traffic(1000, 0.025, 2, "A"), *traffic(600, 0.4, 3, "B")]
    job, known = audited_job(tmp_path / "job", monkeypatch, given, on_alarm=on_alarm)
    first = watched(job, known, tmp_path / "run", 1500)
    assert first.alarms == len(first.told) == (1 if on_alarm == "stop" else 2)
    alarm = first.told[0]
    assert (alarm.event, alarm.level) == (Event.AUDIT_ALARM, Level.WARNING)
    facts = alarm.fields
    assert alarm.text.startswith(f"audit: {facts['wrong']} of {facts['audited']} audited answers")
    assert alarm.text.endswith(
        "the certified error no longer holds; accepting "
        + ("no more" if facts["accepting"] == "nothing" else "less")
    )
    assert facts["accepting"] == ("nothing" if on_alarm == "stop" else "less")
    assert 0.05 <= facts["error_at_least"] < 1 and facts["alarms"] == 1
    assert first.wrong_share(known) < 0.10
    ends = [(o.decided_by, o.reason) for o in first.outcomes]
    assert ("local", "confident") in ends[:100]
    assert set(ends[1400:]) == {("closed", "audit_alarm")}

    # The verdicts survive: what comes later is not accepted either, and nobody is told twice.
    later = watched(job, known, tmp_path / "run", 1600)
    assert (later.alarms, later.told) == (first.alarms, [])
    assert {o.reason for o in later.outcomes[1500:1600]} == {"audit_alarm"}
    assert later.outcomes[:1500] == first.outcomes and len(later.closed.sent) == 100


@pytest.mark.slow
def test_errors_within_the_certificate_raise_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, alarms, checks = 20, 0, 0
    given = [one for n in range(runs) for one in traffic(200, 0.025, n, f"N{n}")]
    job, known = audited_job(tmp_path / "job", monkeypatch, given, rate=0.4)
    rows = [json.dumps(one.row) for one in given]
    for n in range(runs):
        part: Iterable[str] = rows[200 * n : 200 * (n + 1)]
        (job.parent / "records.jsonl").write_text("\n".join(part) + "\n")
        found = watched(job, known, tmp_path / f"run{n}", 200)
        alarms += found.alarms > 0
        checks += len(found.closed.sent)
    assert checks > 1000
    assert alarms <= 0.1 * runs  # δ
