"""The cap per day over runs, and the cap per record: never passed, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.limits.daily_cap import Day, Room, SpendFile, day_of, spent_today
from runner.errors import UsageError
from runner.job import Job
from runner.ledger import Egress, open_ledger
from runner.ledger.money import to_pico
from runner.status.summary import lines
from runner.types import Record
from tests.fakes import JOB
from tests.jobs import (
    KEY,
    ROOT,
    marked,
    query,
    records,
    run,
    spent_usd,
    start,
    wait_until,
    write_job,
)
from tests.stand_in import StandIn

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0
CENT = to_pico(Decimal("0.01"))
EGRESS = Egress("anthropic", "m", "http://x", 9, "00")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path) as server:
        yield server


def daily(tmp_path: Path, usd: float, **keys: Any) -> dict[str, Any]:
    return {"daily_budget_usd": usd, "spend_file": str(tmp_path / "spend.sqlite"), **keys}


# --- the file -------------------------------------------------------------------------------------


def test_a_call_belongs_to_the_day_on_which_it_was_reserved(tmp_path: Path) -> None:
    file, late = SpendFile(tmp_path / "deep" / "spend.sqlite"), NOON + DAY_S / 2 - 1
    assert file.reserve("a", 1, CENT, CENT, late, 60) is Room.YES
    assert file.reserve("a", 2, CENT, CENT, late + 2, 60) is Room.YES  # a new day, all its money
    file.settle("a", 1, CENT // 2)  # long after midnight
    assert file.total("2026-11-20") == CENT // 2 and file.total("2026-11-21") == CENT


def test_room_is_awaited_of_calls_under_way_and_not_of_the_dead(tmp_path: Path) -> None:
    file = SpendFile(tmp_path / "spend.sqlite")
    assert file.reserve("a", 1, CENT, CENT, NOON, patience_s=60) is Room.YES
    assert file.reserve("b", 1, 1, CENT, NOON + 59, 60) is Room.LATER
    assert file.reserve("b", 1, 1, CENT, NOON + 61, 60) is Room.NO
    file.settle("a", 1, CENT - 1)
    assert file.reserve("b", 1, 1, CENT, NOON + 61, 60) is Room.YES
    assert file.reserve("b", 2, 1, CENT, NOON + 61, 60) is Room.LATER
    file.settle("b", 1, 1)
    assert file.reserve("b", 2, 1, CENT, NOON + 61, 60) is Room.NO


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 400))
def test_spent_and_reserved_never_pass_the_cap(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, cap: int
) -> None:
    file, open_, total = SpendFile(tmp_path_factory.mktemp("s") / "spend.sqlite"), {}, 0
    for attempt in range(12):
        run, amount = chance.choice("ab"), chance.randrange(150)
        fits = file.reserve(run, attempt, amount, cap, NOON, 60) is Room.YES
        assert fits == (total + sum(open_.values()) + amount <= cap)
        if fits:
            open_[(run, attempt)] = amount
        if open_ and chance.random() < 0.5:
            key = chance.choice(sorted(open_))
            cost = chance.randrange(open_.pop(key) + 1)
            file.settle(*key, cost)
            file.settle(*key, cost)  # a second time changes nothing
            total += cost
        assert file.total(day_of(NOON)) == total + sum(open_.values()) <= max(cap, 0)


WORKER = """
import random, sys, time
from pathlib import Path
from escalation.limits.daily_cap import Room, SpendFile
path, name, cap, now = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
file, chance, paid = SpendFile(path), random.Random(name), 0
for attempt in range(10_000):
    worst = chance.randrange(1, 1000)
    room = file.reserve(name, attempt, worst, cap, now, 1e9)
    if room is Room.NO and worst == 1:
        break
    if room is not Room.YES:
        if room is Room.NO and chance.random() < 0.05:
            break
        continue
    time.sleep(chance.random() / 500)
    cost = chance.randrange(worst + 1)
    print(cost, flush=True)
    file.settle(name, attempt, cost)
"""


@pytest.mark.process
def test_four_processes_at_once_do_not_pass_it_by_a_pico_dollar(tmp_path: Path) -> None:
    path, cap = tmp_path / "spend.sqlite", 60_000
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(path), name, str(cap), str(NOON)],
                         cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]  # fmt: skip
    most = 0
    while any(worker.poll() is None for worker in workers):
        if path.exists():
            with sqlite3.connect(path) as db:
                sums = "SELECT (SELECT SUM(spent) FROM days), (SELECT SUM(reserved) FROM open)"
                try:
                    spent, open_ = db.execute(sums).fetchone()
                except sqlite3.OperationalError:  # not made yet, or held for longer than we wait
                    continue
                most = max(most, (spent or 0) + (open_ or 0))
            db.close()
    paid = sum(int(line) for worker in workers for line in worker.communicate()[0].split())
    assert [worker.returncode for worker in workers] == [0] * 4
    assert SpendFile(path).total(day_of(NOON)) == paid
    assert cap - 1000 < paid <= cap and most <= cap


@pytest.mark.parametrize("what", ["a folder", "no database", "another database"])
def test_a_file_that_is_none_of_ours_is_a_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "spend.sqlite"
    if what == "a folder":
        path.mkdir()
    elif what == "no database":
        path.write_text("my diary, which is no database " * 40)
    else:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE diary (day TEXT)")
        db.close()
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UsageError, match=r"escalation\.spend_file"):
        SpendFile(path)
    assert not path.is_file() or path.read_bytes() == before


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path(**escalation: Any) -> Path:
        job = Job.model_validate({**JOB, "escalation": escalation})
        return job.model_copy(update={"folder": tmp_path / "job"}).spend_path()

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert path() == tmp_path / "state" / "surelocal" / "spend.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert path() == tmp_path / "me" / ".local" / "state" / "surelocal" / "spend.sqlite"
    assert path(spend_file="../team.sqlite") == tmp_path / "team.sqlite"
    assert path(spend_file="~/team.sqlite") == tmp_path / "me" / "team.sqlite"


def test_the_caps_are_exact_and_no_part_of_what_a_job_is() -> None:
    def job(**escalation: Any) -> Job:
        return Job.model_validate({**JOB, "escalation": escalation})

    with_caps = job(daily_budget_usd=0.1, max_usd_per_record=0.003, spend_file="x.sqlite",
                    requests_per_minute=50)  # fmt: skip
    assert with_caps.escalation is not None
    assert with_caps.escalation.daily_budget_usd == Decimal("0.1")
    assert with_caps.escalation.max_usd_per_record == Decimal("0.003")
    assert with_caps.identity() == job().identity()


# --- killed in between ----------------------------------------------------------------------------


@pytest.mark.process
def test_a_kill_between_file_and_ledger_reserves_too_much_until_the_next_start(
    tmp_path: Path,
) -> None:
    script = """
import asyncio, os, signal, sys
from decimal import Decimal
from pathlib import Path
from escalation.limits.daily_cap import Day, SpendFile
day = Day(SpendFile(Path(sys.argv[1])), "run", Decimal(1), 60.0)
print(asyncio.run(day.reserve(1, Decimal("0.25"))), flush=True)
os.kill(os.getpid(), signal.SIGKILL)  # before the ledger's own row
"""
    path = tmp_path / "spend.sqlite"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert spent_today(path) == Decimal("0.25")
    day = Day(SpendFile(path), "run", Decimal(1), 60.0)
    with open_ledger(tmp_path / "run") as ledger:
        day.reconcile(ledger)  # what the ledger does not know was never sent
        assert spent_today(path) == 0
        record = Record(0, "R", {}, 1)
        for cost, state in (("0.1", "settled"), ("0", "released"), ("0", "unknown"), (None, "")):
            attempt = ledger.attempts.next_id()
            assert asyncio.run(day.reserve(attempt, Decimal("0.25"))) is Room.YES
            assert ledger.attempts.reserve(record, EGRESS, Decimal("0.25")) == attempt
            if cost is not None:
                ledger.attempts.end_attempt(attempt, state, cost=Decimal(cost))
        day.reconcile(ledger)
        # Paid, free, perhaps paid, and still open: as the ledger has it.
        assert spent_today(path) == Decimal("0.6") == ledger.attempts.committed_usd()
        assert SpendFile(path).open_of("run") == [4]


def test_killed_runs_and_their_next_starts_agree_with_the_ledger_and_the_bill(
    tmp_path: Path, api: StandIn
) -> None:
    api.latency = 0.15
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(16)),
                    daily(tmp_path, 5, concurrency=3))  # fmt: skip
    run_dir, file = job.parent / "run", tmp_path / "spend.sqlite"
    for kills in range(2):
        process, before = start(job), len(api.bill.requests())
        wait_until(lambda before=before: len(api.bill.requests()) > before + 2)
        os.killpg(process.pid, signal.SIGKILL) if kills % 2 else process.kill()
        process.wait()
        assert spent_today(file) >= spent_usd(run_dir)  # open ones at their worst, in both
    api.latency = 0
    ran = run(job)
    assert ran.summary.unfinished == 0 and api.bill.billed_twice() == {}
    assert spent_today(file) == ran.spent == api.bill.total_usd()
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT COUNT(*) FROM open").fetchone() == (0,)
    db.close()


# --- in runs --------------------------------------------------------------------------------------


def test_runs_at_once_share_the_day_and_what_does_not_fit_waits(
    tmp_path: Path, api: StandIn
) -> None:
    api.latency = 0.03
    given = daily(tmp_path, 0.012, budget_usd=1, concurrency=4)
    jobs = [
        write_job(tmp_path / f"job-{n}", api.url, records(f"{n}-{m}" for m in range(80)), given)
        for n in range(2)
    ]
    processes = [start(job) for job in jobs]
    assert [process.wait(60) for process in processes] == [3] * 2
    spent = sum((spent_usd(job.parent / "run") for job in jobs), Decimal(0))
    assert spent == api.bill.total_usd() == spent_today(tmp_path / "spend.sqlite")
    assert Decimal("0.008") < spent <= Decimal("0.012")
    for job in jobs:
        found = query(job.parent / "run", "SELECT status, waits_for FROM outcomes")
        assert {cause for status, cause in found if status == "waiting"} == {"daily_budget"}

    ran = run(jobs[0])
    shown = dict(lines(ran.summary))
    assert shown["today by all runs (UTC), of a cap of"] == f"${spent:.4f} of $0.01"
    assert ran.summary.as_json()["day_cap_usd"] == 0.012
    assert any("the day's spending cap is reached" in what for what in shown)
    assert run(jobs[1], "escalation.daily_budget_usd=1").summary.unfinished == 0


def test_the_rows_add_up_to_the_ledger_the_day_and_the_caps_whatever_happens(
    tmp_path: Path, api: StandIn
) -> None:
    for name, fault in enumerate(["rst_after", "529", "429", "refusal_late", "413", "cut", "500"]):
        api.faults.push(fault, when=marked(f"R-{name}"), retry_after=0.05)
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(12)),
                    daily(tmp_path, 4))  # fmt: skip
    ran = run(job)
    rows = sum(Decimal(str(row["cost_usd"])) for row in ran.rows.values())
    costs = query(ran.run_dir, "SELECT SUM(cost) FROM attempts")[0][0]
    booked = query(ran.run_dir, "SELECT SUM(cost) FROM outcomes")[0][0]
    assert costs == booked == to_pico(ran.spent) and abs(rows - ran.spent) < Decimal("1e-12")
    assert spent_today(tmp_path / "spend.sqlite") == ran.spent >= api.bill.total_usd()
    assert {row["reason"] for row in ran.rows.values()} >= {"reply_lost", "closed_invalid"}


def test_a_spend_file_that_goes_missing_halts_the_sending_not_the_run(
    tmp_path: Path, api: StandIn
) -> None:
    api.latency = 0.2
    rows = [*records(f"R-{n}" for n in range(12)), *records(["T-1"], "template")]
    job = write_job(tmp_path / "job", api.url, rows, daily(tmp_path, 5, concurrency=2))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, job)
        wait_until(lambda: len(api.bill.requests()) >= 3)
        (tmp_path / "spend.sqlite").unlink()
        ran = running.result(30)
    assert ran.rows["T-1"]["status"] == "done" and ran.spent == api.bill.total_usd() > 0
    assert set(ran.waits_for().values()) == {"provider_halted"} and len(api.bill.requests()) < 8
    assert "spend.sqlite cannot be used" in (ran.summary.stopped or "")
    assert not (tmp_path / "spend.sqlite").exists()  # an empty one would forget


def test_a_spend_file_that_cannot_be_is_said_before_anything_is_sent(
    tmp_path: Path, api: StandIn
) -> None:
    (tmp_path / "file").write_text("")
    given = {"daily_budget_usd": 5, "spend_file": str(tmp_path / "file" / "spend.sqlite")}
    with pytest.raises(UsageError, match="spend file"):
        run(write_job(tmp_path / "job", api.url, records(["R-1"]), given))
    assert api.bill.requests(None) == []


def test_a_record_that_could_cost_too_much_goes_to_a_person(tmp_path: Path, api: StandIn) -> None:
    rows = [*records(["large"], note="long " * 4000), *records(["small"], note="")]
    job = write_job(tmp_path / "job", api.url, rows, {"max_usd_per_record": 0.01},
                    prompt={"user": "{{ message }} {{ note }}"})  # fmt: skip
    ran = run(job)
    assert ran.ends() == {
        "large": ("review", "record_too_dear"), "small": ("done", "high_stakes"),
    }  # fmt: skip
    (sent,) = api.bill.requests()
    assert "<small>" in sent.text
    problem = ran.rows["large"]["error"]
    assert "max_usd_per_record" in problem and "$0.01" in problem and "$0.05" in problem


def test_retries_count_towards_the_records_cap(tmp_path: Path, api: StandIn) -> None:
    """A call that may have been billed stays on the record's account."""
    job = write_job(tmp_path / "job", api.url, records(["R-1", "R-2"]),
                    {"max_usd_per_record": 0.006})  # fmt: skip
    with open_ledger(job.parent / "run") as ledger:
        attempt = ledger.attempts.reserve(Record(0, "R-1", {}, 1), EGRESS, Decimal("0.005"))
        ledger.attempts.end_attempt(attempt, "unknown")
    ran = run(job)
    assert ran.ends()["R-1"] == ("review", "record_too_dear")
    assert ran.ends()["R-2"] == ("done", "high_stakes")
