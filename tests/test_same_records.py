"""A record is its id and what it holds: one run directory takes an export as it changes."""

from __future__ import annotations

import asyncio
import csv
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runner.types import Completion, Prompt, Sampling, Usage
from tests.fakes import read_rows, surelocal, write_job
from tests.jobs import DEMO_MODEL, Scripted, query, spent_usd, use_engine
from tests.stand_in import StandIn

pytestmark = pytest.mark.process

Row = tuple[str, str]
MOST_OTHERS = "add --new-records, else take a new --run-dir: nothing was sent"


class Counting(Scripted):
    """A local model that answers with the text it is asked about, and counts."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        super().__init__(self._count)

    def _count(self, text: str) -> Completion:
        self.asked[text] += 1
        return Completion(f"re {text}", "small", "stop", ("x",), (-0.01,), Usage(1, 1))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting()
    use_engine(monkeypatch, found)
    return found


def local_job(folder: Path, **keys: Any) -> Path:
    whole = {
        "routes": [],
        "answer": "text",
        "local": {"model": str(DEMO_MODEL)},
        "confidence": {"threshold": 0.5},
        **keys,
    }
    return write_job(folder, "id,message\n", **whole)


def write(job: Path, rows: list[Row]) -> None:
    with (job.parent / "records.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "message"), *rows])


def give(job: Path, rows: list[Row], *options: str, status: int = 0) -> list[dict[str, Any]]:
    """Runs the job over these rows; its results."""
    write(job, rows)
    ran = surelocal("run", job, "--run-dir", job.parent / "run", *options)
    assert ran.exit_code == status, ran.stderr
    return read_rows(job.parent / "run" / "results.jsonl") if status != 2 else []


def edited(rows: list[Row], chance: random.Random, number: int) -> list[Row]:
    """With some rows deleted, inserted, moved and changed."""
    made = [row for row in rows if chance.random() > 0.1]
    for n in range(chance.randrange(4)):
        made.insert(chance.randrange(len(made) + 1), (f"N{number}-{n}", f"new {number} {n}"))
    for _ in range(chance.randrange(3)):
        made.insert(chance.randrange(len(made)), made.pop(chance.randrange(len(made))))
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(made))
        made[at] = (made[at][0], f"changed {number} {made[at][0]}")
    return made


@pytest.mark.parametrize("seed", range(3))
def test_thirty_edits_of_an_export(tmp_path: Path, engine: Counting, seed: int) -> None:
    chance, job = random.Random(seed), local_job(tmp_path)
    rows = [(f"R-{n}", f"message {n}") for n in range(40)]
    ever = set[Row]()
    former: list[list[Row]] = [rows]
    for number in range(30):
        results = give(job, rows, "--new-records")
        assert [(row["id"], row["value"]) for row in results] == [(i, f"re {m}") for i, m in rows]
        ever.update(rows)
        assert engine.asked == Counter(message for _, message in ever)
        back = chance.random() < 0.2  # an export of before once more
        rows = chance.choice(former) if back else edited(rows, chance, number)
        former.append(rows)
    run_dir = tmp_path / "run"
    assert surelocal("status", run_dir, "--verify").exit_code == 0
    with sqlite3.connect(run_dir / "ledger.sqlite") as database:
        database.execute("UPDATE outcomes SET value='\"forged\"' WHERE record_id='R-7'")
    told = surelocal("status", run_dir, "--verify")
    assert told.exit_code == 1 and "R-7" in told.stderr + told.stdout


def test_thirty_nights_cost_what_the_last_one_does(tmp_path: Path, engine: Counting) -> None:
    job, rows = local_job(tmp_path), list[Row]()
    for night in range(30):
        rows = [(f"{night}-{n}", f"{night} {n}") for n in range(5)] + rows
        assert [row["id"] for row in give(job, rows)] == [name for name, _ in rows]
    assert sum(engine.asked.values()) == len(rows) == 150
    # Each night is one more stretch: no row of before was written anew.
    assert len(query(tmp_path / "run", "SELECT * FROM places")) == 30


def test_a_doubled_row_that_is_deleted(tmp_path: Path, engine: Counting) -> None:
    job = local_job(tmp_path)
    one, two, again, three = ("1", "one"), ("2", "two"), ("2", "two again"), ("3", "three")
    results = give(job, [one, two, again, three], status=3)
    assert [row["status"] for row in results] == ["done", "done", "error", "done"]
    assert "line 4: the id 2 is already another record's" in results[2]["error"]
    for rows in ([one, two, three], [one, two, again, three], [again, three, two, one]):
        results = give(job, rows, status=3 if again in rows else 0)
        assert {row["value"] for row in results} == {"re one", "re two", "re three"} | (
            {None} if again in rows else set()
        )
    assert engine.asked == {"one": 1, "two": 1, "three": 1}
    # The first of the two is deleted: only now is the other one a record of its own.
    assert [row["value"] for row in give(job, [one, again, three])] == [
        "re one", "re two again", "re three",
    ]  # fmt: skip
    assert engine.asked["two again"] == 1


class Holding(Counting):
    """Answers the first text only once it is asked about the last."""

    def __init__(self, first: str, last: str) -> None:
        super().__init__()
        self._first, self._last = first, last
        self._asked = asyncio.Event()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        text = prompt.messages[-1].content
        if text == self._last:
            self._asked.set()
        if text == self._first:
            await self._asked.wait()
        return await super().generate(prompt, sampling)


def test_two_of_one_id_are_not_under_way_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Holding("one", "three")
    use_engine(monkeypatch, engine)
    rows = [("1", "one"), ("1", "two"), ("2", "three")]
    results = give(local_job(tmp_path), rows, status=3)
    assert [row["status"] for row in results] == ["done", "error", "done"]
    assert "line 3: the id 1 is already another record's" in results[1]["error"]
    assert engine.asked == {"one": 1, "three": 1}


def test_rows_that_are_equal_in_all(tmp_path: Path, engine: Counting) -> None:
    job, one, two = local_job(tmp_path), ("1", "one"), ("2", "two")
    assert [r["status"] for r in give(job, [one, one, two], status=3)] == ["done", "error", "done"]
    assert [r["status"] for r in give(job, [two, one])] == ["done", "done"]
    assert [r["status"] for r in give(job, [one, two, one], status=3)] == ["done", "done", "error"]
    assert engine.asked == {"one": 1, "two": 1}


def test_what_is_known_is_said_and_a_wrong_file_is_refused(
    tmp_path: Path, engine: Counting
) -> None:
    job = local_job(tmp_path)
    rows = [(str(n), f"message {n}") for n in range(10)]
    give(job, rows)
    others = [(str(n), f"other {n}") for n in range(6)] + rows[6:] + [("11", "new")]
    write(job, others)
    refused = surelocal("run", job, "--run-dir", tmp_path / "run")
    assert refused.exit_code == 2 and MOST_OTHERS in refused.stderr
    assert "4 records are known, 1 are new, 6 have changed, 0 are gone" in refused.stderr
    assert sum(engine.asked.values()) == 10
    assert len(give(job, rows)) == 10, "it has changed nothing"
    assert len(give(job, others, "--new-records")) == 11
    assert sum(engine.asked.values()) == 17
    status = surelocal("status", tmp_path / "run").output
    assert "kept of records that are no longer given" in status


def test_a_limit_makes_nothing_gone(tmp_path: Path, engine: Counting) -> None:
    job = local_job(tmp_path)
    rows = [(str(n), f"message {n}") for n in range(10)]
    assert len(give(job, rows, "--limit", "3")) == 3
    assert len(give(job, rows)) == 10
    assert len(give(job, [("x", "on top"), *rows], "--limit", "4")) == 11
    assert sum(engine.asked.values()) == 11


def test_an_empty_file_is_no_run(tmp_path: Path, engine: Counting) -> None:
    job = local_job(tmp_path)
    give(job, [("1", "one")])
    give(job, [], status=2)
    assert give(job, [], "--new-records") == []
    assert [row["value"] for row in give(job, [("1", "one")])] == ["re one"]
    assert engine.asked == {"one": 1}


@pytest.mark.usefixtures("key")
def test_what_was_paid_is_paid_once_however_the_file_changes(tmp_path: Path, api: StandIn) -> None:
    escalation = {"model": "claude-sonnet-5-5", "budget_usd": 5, "base_url": api.url}
    routes = [{"when": "true", "to": "closed"}]
    job = local_job(tmp_path, routes=routes, escalation=escalation)
    rows = [(str(n), f"message {n}") for n in range(5)]
    give(job, [*rows[:2], ("1", "twice"), *rows[2:]], status=3)
    assert len(api.bill.requests()) == 5
    for now in (rows, [("top", "new"), *rows], rows[::-1][:4], rows):
        results = give(job, now)
        assert [row["id"] for row in results] == [name for name, _ in now]
        assert all(row["cost_usd"] > 0 and row["decided_by"] == "closed" for row in results)
    assert len(api.bill.requests()) == 6
    assert spent_usd(tmp_path / "run") == api.bill.total_usd()


@pytest.mark.usefixtures("key")
def test_a_record_that_waits_and_is_no_longer_given_is_not_sent(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    escalation = {"model": "claude-sonnet-5-5", "budget_usd": 5, "base_url": api.url}
    routes = [{"when": "true", "to": "closed"}]
    job = local_job(tmp_path, routes=routes, escalation=escalation)
    rows = [(str(n), f"message {n}") for n in range(6)]
    with monkeypatch.context() as without:
        without.delenv("ANTHROPIC_API_KEY")
        give(job, rows, status=3)
        assert [row["id"] for row in give(job, rows[2:], status=3)] == ["2", "3", "4", "5"]
    assert surelocal("escalate", tmp_path / "run").exit_code == 0
    assert len(api.bill.requests()) == 4
    assert [row["status"] for row in give(job, rows)] == ["done"] * 6
    assert len(api.bill.requests()) == 6


def test_a_sample_names_the_same_records_in_a_file_of_another_order(
    tmp_path: Path, engine: Counting
) -> None:
    job = local_job(tmp_path)
    rows = [(str(n), f"message {n}") for n in range(30)]
    give(job, rows)
    run_dir = tmp_path / "run"

    def sampled(name: str) -> list[tuple[str, str]]:
        path = tmp_path / name
        assert surelocal("review", "export", run_dir, path, "--sample", "8").exit_code == 0
        text = path.read_text("utf-8-sig")
        return [(row["id"], row["message"]) for row in csv.DictReader(text.splitlines())]

    before = sampled("one.csv")
    give(job, [("top", "new"), *rows[::-1]])
    assert [row for row in sampled("two.csv") if row[0] != "top"][:7] == before[:7]
