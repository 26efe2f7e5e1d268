"""The process that makes the paid calls: killed, left behind, interrupted, or without a disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import EngineError, RunDirError, RunFailed
from runner.job.providers import PROVIDERS
from runner.types import Completion, Prompt, Sampling
from tests.jobs import (
    DEMO_MODEL,
    KEY,
    ROOT,
    marked,
    query,
    records,
    rows_of,
    run,
    spent_usd,
    start,
    use_engine,
    wait_until,
    write_job,
)
from tests.stand_in import StandIn


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, true_processes: None) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path) as server:
        yield server


def states(run_dir: Path) -> dict[str, int]:
    return dict(query(run_dir, "SELECT state, COUNT(*) FROM attempts GROUP BY state"))


@pytest.mark.process
def test_a_killed_courier_loses_only_what_was_under_way(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.latency = 0.2
        api.faults.push("slow", when=marked("R-0"), seconds=60)
        job = write_job(
            tmp_path / "job", api.url, records(f"R-{n}" for n in range(30)), {"concurrency": 2}
        )
        run_dir = job.parent / "run"
        process = start(job)
        wait_until(lambda: api.in_flight == 2 and len(api.bill.requests()) > 3)
        os.kill(int((run_dir / "courier.lock").read_text()), signal.SIGKILL)
        assert process.wait(60) == 3
        words = (job.parent / "stderr.txt").read_text()
        assert "Traceback" not in words and "a new one takes over" in words
        rows = rows_of(run_dir)
        lost = {name for name, row in rows.items() if row["status"] != "done"}
        assert "R-0" in lost and len(lost) <= 2
        assert {rows[name]["reason"] for name in lost} == {"reply_lost"}
        assert states(run_dir)["unknown"] == len(lost)
        assert len(api.bill.requests()) == 30
    assert api.bill.billed_twice() == {}
    assert spent_usd(run_dir) >= api.bill.total_usd()  # with what is billed after the courier died


@pytest.mark.process
@pytest.mark.parametrize("torn", ['{"att', '{"attempt": 1, "se', '{"attempt": 1, "reply": {"ver'])
def test_a_line_that_a_killed_courier_left_half_written_hides_no_call_of_the_next(
    tmp_path: Path, api: StandIn, torn: str
) -> None:
    api.latency = 3.0
    job = write_job(
        tmp_path / "job", api.url, records(f"R-{n}" for n in range(6)), {"concurrency": 2}
    )
    lock, journal = (job.parent / "run" / name for name in ("courier.lock", "courier.jsonl"))
    process = start(job)
    wait_until(lambda: api.in_flight == 2)
    process.send_signal(signal.SIGSTOP)  # until the first courier's end is made
    first = lock.read_text()
    os.kill(int(first), signal.SIGKILL)
    wait_until(lambda: api.in_flight == 0)
    with journal.open("a") as file:
        file.write(torn)
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: api.in_flight == 2 and lock.read_text() != first)
    process.kill()
    os.kill(int(lock.read_text()), signal.SIGKILL)
    process.wait(10)
    api.latency = 0
    ran = run(job)
    # Four were sent, and nobody heard of their end: none of them may be sent again.
    assert states(job.parent / "run") == {"unknown": 4, "settled": 2}
    assert [row["status"] for row in ran.rows.values()] == ["review"] * 4 + ["done"] * 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_books_the_calls_under_way(
    tmp_path: Path, api: StandIn, stop: signal.Signals
) -> None:
    api.latency = 0.7
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(12)))
    process = start(job)
    wait_until(lambda: api.in_flight == 4)
    os.killpg(process.pid, stop)  # as a terminal does: to all of its group
    assert process.wait(60) == 130
    words = (job.parent / "stderr.txt").read_text()
    assert "Traceback" not in words and "run the same command again" in words
    assert "the paid calls under way (4) are booked" in words
    assert states(job.parent / "run") == {"settled": 4}
    assert spent_usd(job.parent / "run") == api.bill.total_usd() > 0
    assert all(request.answered for request in api.bill.requests())
    api.latency = 0
    ran = run(job)
    assert ran.summary.unfinished == 0 and len(api.bill.requests()) == 12
    assert ran.spent == api.bill.total_usd()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_waits_for_nothing_and_the_next_run_books_the_calls(
    tmp_path: Path, api: StandIn, stop: signal.Signals
) -> None:
    api.latency = 4.0
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(6)))
    process, stderr = start(job), job.parent / "stderr.txt"
    wait_until(lambda: api.in_flight == 4)
    process.send_signal(stop)
    wait_until(lambda: "a second Ctrl-C stops at once" in stderr.read_text())
    process.send_signal(stop)
    began = time.monotonic()
    assert process.wait(60) == 128 + stop
    assert time.monotonic() - began < 2
    assert "stopping; Ctrl-C again" in stderr.read_text()
    assert "ended at once; what is done is kept" in stderr.read_text()
    assert states(job.parent / "run") == {"reserved": 4}
    ran = run(job)
    assert ran.summary.unfinished == 0 and len(api.bill.requests()) == 6
    assert ran.spent == api.bill.total_usd()


class FailsWhenCallsAreUnderWay:
    window = 2

    def __init__(self, api: StandIn) -> None:
        self._api = api

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        while self._api.in_flight < 3:
            await asyncio.sleep(0.005)
        raise EngineError("the engine died")

    async def aclose(self) -> None:
        return None


def test_a_failing_engine_leaves_the_books_in_order(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(monkeypatch, FailsWhenCallsAreUnderWay(api))
    api.latency = 0.5
    rows = [*records(["R-0", "R-1", "R-2"]), *records(["L-1"], "local")]
    job = write_job(tmp_path / "job", api.url, rows, local={"model": str(DEMO_MODEL)})
    with pytest.raises(EngineError, match="the engine died"):
        run(job)
    run_dir = job.parent / "run"
    assert states(run_dir) == {"settled": 3}
    assert spent_usd(run_dir) == api.bill.total_usd() > 0
    done = query(run_dir, "SELECT record_id FROM outcomes WHERE status = 'done'")
    assert sorted(done) == [("R-0",), ("R-1",), ("R-2",)]
    assert not (run_dir / "courier.jsonl").exists()


def test_one_run_at_a_time_and_the_next_waits_for_the_calls_of_a_killed_one(
    tmp_path: Path, api: StandIn
) -> None:
    api.latency = 1.0
    job = write_job(tmp_path / "job", api.url, records(["R-0", "R-1"]))
    process = start(job)
    wait_until(lambda: api.in_flight == 2)
    with pytest.raises(RunDirError, match="another surelocal is at work"):
        run(job)
    process.kill()
    process.wait()
    assert api.in_flight == 2
    ran = run(job)
    assert ran.summary.unfinished == 0
    assert len(api.bill.requests()) == 2
    assert ran.spent == api.bill.total_usd()


def test_a_courier_that_cannot_start_is_a_sentence(tmp_path: Path, api: StandIn) -> None:
    job = write_job(tmp_path / "job", api.url, records(["R-0"]))
    (job.parent / "run" / "courier.lock").mkdir(parents=True)
    with pytest.raises(RunFailed, match=r"did not start.*courier\.lock"):
        run(job)
    assert api.connections == 0


def courier(run_dir: Path, *lines: str) -> list[dict[str, object]]:
    """A courier under our own hand: what it answers to these lines."""
    command = [sys.executable, "-m", "escalation.send.courier", str(run_dir)]
    ran = subprocess.run(
        command, input="".join(lines), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_what_cannot_be_written_down_or_was_cut_off_is_not_sent(
    tmp_path: Path, api: StandIn
) -> None:
    settings = json.dumps(
        {"wire": PROVIDERS["anthropic"].wire, "address": api.url, "key_env": "ANTHROPIC_API_KEY",
         "timeout_s": 5, "concurrency": 2}
    )  # fmt: skip
    request = {
        "model": "claude-haiku-4-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
    }
    order = json.dumps({"attempt": 7, "request": request})
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device here that is always full")
    (tmp_path / "courier.jsonl").symlink_to(full)
    ready, said = courier(tmp_path, f"{settings}\n{order}\n{order[:-1]}")
    assert ready == {"ready": True}
    assert said["attempt"] == 7
    reply = said["reply"]
    assert isinstance(reply, dict)
    assert reply["verdict"] == "halt" and "No space left" in reply["problem"]
    assert api.bill.requests() == []
