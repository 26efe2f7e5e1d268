"""`policy: budget`: the money goes where it prevents most expected loss, and never past the cap."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.send.local_fallback import Division
from runner.ledger import CHOOSING, open_ledger
from runner.types import Outcome, Record, Status
from tests import scripted
from tests.fakes import surelocal
from tests.jobs import KEY, NO_KEY, ROOT, Ran, run, spent_usd, use_engine, wait_until
from tests.scripted import Case, Model, case
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")
CAP = Decimal("0.008")
RULE = {"policy": "budget", "stakes": "amount"}


def staked(n: int) -> list[Case]:
    draw = random.Random(5)
    return [
        case(f"R-{i:03}", draw.uniform(0.4, 0.99), wrong=draw.random() < 0.3,
             amount=draw.choice([1, 10, 100, 1000]))
        for i in range(n)
    ]  # fmt: skip


CASES = staked(60)
LOSS = {
    one.id: (1 - one.probability) * one.fields["amount"]
    for one in CASES
    if one.probability is not None
}


@pytest.fixture
def oracle() -> Callable[[str], str]:
    return scripted.oracle(CASES)


def job_of(
    folder: Path, api: StandIn, patch: pytest.MonkeyPatch, known: list[Case], **closed: Any
) -> Path:
    use_engine(patch, Model(known))
    return scripted.job(folder / "job", api.url, known, RULE, {"budget_usd": 0.008, **closed})


def ends(ran: Ran, *ids: str) -> set[tuple[Any, ...]]:
    rows = [ran.rows[name] for name in ids or ran.rows]
    return {(row["status"], row["decided_by"], row["reason"]) for row in rows}


def divided(ran: Ran) -> tuple[set[str], set[str]]:
    """(by the closed model, by the local one), with all that holds of any division."""
    closed = {name for name, row in ran.rows.items() if row["decided_by"] == "closed"}
    local = set(ran.rows) - closed
    assert ends(ran, *closed) == {("done", "closed", "expected_loss")}
    assert ends(ran, *local) == {("done", "local", "budget_elsewhere")}
    return closed, local


def test_the_greatest_expected_losses_are_sent_and_all_others_stand(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run(job_of(tmp_path, api, monkeypatch, CASES))
    closed, local = divided(ran)
    assert 10 < len(closed) < 50
    # All records cost the same, so the order of the losses is all there is to it.
    assert min(LOSS[name] for name in closed) >= max(LOSS[name] for name in local)
    assert api.bill.total_usd() == ran.spent <= CAP
    assert ran.spent > CAP / 2  # and is used, but for what a reservation needs
    assert any("nothing is certified" in line for line in ran.summary.trust)


def test_without_a_key_they_wait_and_are_divided_when_there_is_one(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, api, monkeypatch, CASES)
    ran = run(job, NO_KEY)
    assert ends(ran) == {("waiting", None, "expected_loss")}
    assert set(ran.waits_for().values()) == {"no_key"} and api.bill.requests(None) == []
    ran = run(job, again=True)
    closed, local = divided(ran)
    assert min(LOSS[name] for name in closed) >= max(LOSS[name] for name in local)
    assert api.bill.total_usd() == ran.spent <= CAP


def test_killed_while_the_budget_is_spent_and_sent_again(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, api, monkeypatch, CASES, concurrency=2)
    run_dir = job.parent / "run"
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    run(job)
    run(job)  # a resumed run changes nothing of what waits
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    api.latency = 0.1
    command = [sys.executable, "-m", "runner.cli.main", "escalate", str(run_dir)]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, env=os.environ | {"ANTHROPIC_API_KEY": KEY},
    )  # fmt: skip
    wait_until(lambda: len(api.bill.requests()) > 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    api.latency = 0.0
    divided(run(job, again=True))
    api.wait_idle()
    sent = [scripted.name_in(request.text) for request in api.bill.requests()]
    assert len(sent) == len(set(sent)) > 10
    assert spent_usd(run_dir) == api.bill.total_usd() <= CAP


def test_a_provider_that_refuses_leaves_the_choice_for_later(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, api, monkeypatch, CASES)
    api.faults.push("401")
    ran = run(job, "escalation.concurrency=1")
    assert ends(ran) == {("waiting", None, "expected_loss")}
    assert set(ran.waits_for().values()) == {"provider_halted"}
    divided(run(job, again=True))


def test_what_has_no_usable_answer_comes_first(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [case(f"X-{n:03}", None, amount=0) for n in range(12)]
    known = [*CASES[:20], *bad]
    api.claude.oracle = scripted.oracle(known)
    job = job_of(tmp_path, api, monkeypatch, known, budget_usd=0.007, concurrency=2)
    ran = run(job)
    sent = [scripted.name_in(request.text) for request in api.bill.requests()]
    assert sent[:12] == sorted(one.id for one in bad) and 12 < len(sent) < 32
    assert ends(ran, *(one.id for one in bad)) == {("done", "closed", "invalid_answer")}
    assert ran.summary.unfinished == 0 and ran.spent <= Decimal("0.007")


def test_what_has_no_usable_answer_waits_where_the_money_does_not_reach_for_it(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [case(f"X-{n:03}", None, amount=0) for n in range(30)]
    known = [*CASES[:20], *bad]
    api.claude.oracle = scripted.oracle(known)
    job = job_of(tmp_path, api, monkeypatch, known, budget_usd=0.0034, guard="off")
    ran = run(job)
    waiting = {name for name, row in ran.rows.items() if row["status"] == "waiting"}
    assert waiting and waiting < {one.id for one in bad}
    assert ran.waits_for() == dict.fromkeys(waiting, "budget")
    assert ends(ran, *(one.id for one in CASES[:20])) == {("done", "local", "budget_elsewhere")}


def test_stakes_that_are_no_amount_spoil_one_record(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    amounts = ["much", None, [1], -1, "nan", "inf", "12.5", 0, True]
    known = [case(f"R-{n}", 0.5, amount=amount) for n, amount in enumerate(amounts)]
    ran = run(job_of(tmp_path, api, monkeypatch, known), NO_KEY)
    for name in (f"R-{n}" for n in range(6)):
        row = ran.rows[name]
        assert (row["status"], row["reason"]) == ("error", "bad_prompt")
        assert "confidence.stakes gives" in row["error"] and "no number from 0 up" in row["error"]
    assert {ran.rows[f"R-{n}"]["status"] for n in (6, 7, 8)} == {"waiting"}


# --- what can be said of a job before any run ---


def test_mistakes_of_a_rule_are_named_with_their_lines(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, api, monkeypatch, CASES[:2])
    looks = {"p_true": True, "wordings": ["Fine.", "{{ nope }"]}
    rules: list[tuple[dict[str, Any], str, str]] = [
        ({"policy": "budget", "stakes": "amount *"}, "stakes:", "`confidence.stakes` is not a"),
        ({"target_error": 0.1, "strata": "(plan"}, "strata:", "`confidence.strata` is not a"),
        ({"target_error": 0.1, "looks": looks}, "- '{{ nope }'", "`confidence.looks.wordings[1]`"),
        ({"target_error": 0.1, "fields": {"amount": 0.1}}, "amount:", "it has: intent"),
        ({"threshold": 0.9, "looks": {"p_true": True}}, "looks:", "need a `target_error`"),
    ]
    for rule, key, said in rules:
        job = scripted.job(tmp_path / "job", api.url, CASES[:2], rule)
        result = surelocal("validate", job)
        [line] = [line for line in result.stderr.splitlines() if said in line]
        lines = job.read_text().splitlines()
        at = next(n for n, text in enumerate(lines, 1) if text.strip().startswith(key))
        assert result.exit_code == 2 and line.startswith(f"  line {at}: ")


def test_a_budget_needs_something_to_spend_it_on(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, api, monkeypatch, CASES[:2])
    result = surelocal("validate", job, "--set", "escalation=null")
    assert result.exit_code == 2
    assert "`policy: budget` divides the budget of an `escalation`" in result.stderr
    audit = ["--set", "confidence={target_error_overall: 0.1, audit: {rate: 0.1}}"]
    assert "it needs a `target_error`" in surelocal("validate", job, *audit).stderr


# --- the choice itself ---

items = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(items, st.integers(0, 120))
def test_no_other_set_prevents_more_loss_by_over_one_records_worth(
    given_items: list[tuple[int, int]], cents: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder)) as ledger:
        for n, (loss, cost) in enumerate(given_items):
            record = Record(n, f"R-{n}", {}, n + 1)
            outcome = Outcome(
                n, record.id, Status.WAITING, reason="expected_loss",
                closed_estimate=Decimal(cost) / 100,
            )  # fmt: skip
            ledger.put(outcome, "", held=record, waits_for=CHOOSING, expected_loss=loss)
        division, left, chosen = Division(ledger), Decimal(cents) / 100, list[int]()
        while count := division.choose(left):
            part = ledger.take_waiting(99)
            assert len(part) == count
            chosen += [held.record.position for held in part]
            left -= sum(held.closed_estimate for held in part)
    losses = [loss for loss, _ in given_items]
    costs = [cost for _, cost in given_items]
    assert sum(costs[n] for n in chosen) <= cents
    assert all(losses[n] > 0 for n in chosen)
    everyone = range(len(given_items))
    best = max(
        sum(losses[n] for n in some)
        for size in range(len(given_items) + 1)
        for some in combinations(everyone, size)
        if sum(costs[n] for n in some) <= cents
    )
    worth = max((losses[n] for n in everyone if costs[n] <= cents), default=0)
    assert best - sum(losses[n] for n in chosen) <= worth
