"""`kill -9` at any moment, then the same command: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import (
    KEY,
    ROOT,
    query,
    records,
    rows_of,
    run,
    spent_usd,
    start,
    wait_until,
    write_job,
)
from tests.stand_in import StandIn
from tests.stand_in.answers import Oracle

KILLS = 5


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    def oracle(text: str) -> str:
        odd = hashlib.sha256(text.encode()).digest()[0] % 2
        return "lost_card" if odd else "card_arrival"

    with StandIn(tmp_path, oracle=oracle, latency=0.1) as server:
        yield server


def kill(process: subprocess.Popen[str], *, group: bool) -> None:
    if group:  # as supervisors do
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def ended(process: subprocess.Popen[str], within: float) -> bool:
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def no_courier(run_dir: Path) -> bool:
    """Whoever makes paid calls for this run directory holds this lock."""
    with (run_dir / "courier.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def more_than(api: StandIn, count: int) -> bool:
    return len(api.bill.requests()) > count


def sent_once(api: StandIn, run_dir: Path, count: int) -> None:
    requests = api.bill.requests()
    assert len({request.text for request in requests}) == len(requests) == count
    assert api.bill.billed_twice() == {}
    assert spent_usd(run_dir) == api.bill.total_usd() > 0
    assert query(run_dir, "SELECT COUNT(*) FROM attempts WHERE state = 'reserved'") == [(0,)]
    wait_until(lambda: no_courier(run_dir), 5)


def undisturbed(folder: Path, rows: list[dict[str, Any]], oracle: Oracle) -> bytes:
    """The results of a run that nobody kills."""
    with StandIn(folder / "calm.jsonl", oracle=oracle) as api:
        ran = run(write_job(folder / "calm", api.url, rows, {"concurrency": 16}))
    return (ran.run_dir / "results.jsonl").read_bytes()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as opened:
        yield opened


def test_killed_at_any_moment_and_run_again(
    tmp_path: Path, api: StandIn, pool: ThreadPoolExecutor
) -> None:
    chance = random.Random(11)
    rows: list[dict[str, Any]] = []
    for n in range(15):
        rows += records(f"R-{n}-{m}" for m in range(9))
        rows += records([f"T-{n}"], "template")
    job = write_job(tmp_path / "job", api.url, rows, {"concurrency": 3})
    run_dir, under_way = job.parent / "run", 0
    calm = pool.submit(undisturbed, tmp_path, rows, api.claude.oracle)
    for kills in range(KILLS):
        process, before = start(job), len(api.bill.requests())
        if kills % 2:
            wait_until(partial(more_than, api, before + 3))
            pause = chance.uniform(0.0, 0.2)
        else:
            pause = chance.uniform(0.0, 1.8)
        assert not ended(process, pause), "the job was over too soon for this test"
        under_way += api.in_flight > 0
        kill(process, group=kills % 4 < 2)
    assert start(job).wait(60) == 0
    assert under_way
    assert "Traceback" not in (job.parent / "stderr.txt").read_text()
    sent_once(api, run_dir, 135)
    assert not list(run_dir.glob(".*part"))

    assert (run_dir / "results.jsonl").read_bytes() == calm.result()


def counts(run_dir: Path) -> Counter[str]:
    if not (run_dir / "ledger.sqlite").exists():
        return Counter()
    found = query(run_dir, "SELECT COALESCE(decided_by, status), COUNT(*) FROM outcomes GROUP BY 1")
    return Counter(dict(found))


@pytest.mark.slow
def test_the_demo_killed_while_loading_and_while_generating(tmp_path: Path, api: StandIn) -> None:
    api.claude.oracle = lambda text: None
    job = tmp_path / "job" / "job.yaml"
    run_dir = job.parent / "run"
    demo = ROOT / "configs" / "demo"
    text = (demo / "job.yaml").read_text("utf-8")
    job.parent.mkdir()
    job.write_text(text.replace("path: records.csv", f'path: "{demo / "records.csv"}"'))
    options = ["--limit", "300", "--set", "local.engine=transformers"]
    options += ["--set", f"local.model={demo / 'model'}", "--set", f"escalation.base_url={api.url}"]

    loading = start(job, *options)
    wait_until((run_dir / "ledger.sqlite").exists)
    assert not ended(loading, 2.5)
    kill(loading, group=False)
    assert not counts(run_dir)
    generating = start(job, *options)
    wait_until(lambda: counts(run_dir)["local"] > 20 or generating.poll() is not None, 50)
    kill(generating, group=True)
    before = outcomes(run_dir)
    assert 20 < len(before) < 300

    process = start(job, *options)
    assert process.wait(50) in (0, 3)
    assert "Traceback" not in (job.parent / "stderr.txt").read_text()
    after = outcomes(run_dir)
    assert [after[at] for at in before if before[at][1] == "done"] == [
        row for row in before.values() if row[1] == "done"
    ]
    rows = rows_of(run_dir)
    assert list(rows) == [f"T-{n:04}" for n in range(1, 301)]
    assert {row["status"] for row in rows.values()} == {"done"}
    by = Counter(row["decided_by"] for row in rows.values())
    assert by["template"] and by["local"] > 20 and by["closed"]
    sent_once(api, run_dir, by["closed"])


def outcomes(run_dir: Path) -> dict[int, tuple[str, ...]]:
    sql = "SELECT position, record_id, status, decided_by, value, cost FROM outcomes"
    return {position: tuple(rest) for position, *rest in query(run_dir, sql)}
