"""The courier's journal and the ledger tell one story, or nothing more is paid for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from escalation.providers.protocol import received
from escalation.providers.request_bytes import mark_of
from escalation.send.courier_journal import entry_of
from escalation.send.journal import check, close
from runner.errors import RunDirError
from runner.formats.foreign_json import MOST_DEPTH
from runner.ledger import Egress, open_ledger
from runner.types import Record
from tests.jobs import records, run, start, wait_until, write_job
from tests.stand_in import StandIn

REQUESTS = [{"model": "m", "messages": [{"content": f"é {n}"}]} for n in range(20)]


def calls(run_dir: Path, first: int, count: int) -> None:
    """So many paid calls, in the ledger and in the journal, as a killed run leaves them."""
    with open_ledger(run_dir) as ledger, (run_dir / "courier.jsonl").open("a") as journal:
        for n in range(first, first + count):
            egress = Egress("p", "m", "http://x", 1, mark_of(REQUESTS[n]))
            record = Record(n, f"R-{n}", {}, n)
            attempt = ledger.attempts.reserve(record, egress, Decimal("0.01"))
            sent = {"attempt": attempt, "sent": True, "sha256": mark_of(REQUESTS[n])}
            reply = {"attempt": attempt, "reply": {"verdict": "ok", "body": {"sent": '"sent"'}}}
            journal.write(json.dumps(sent) + "\n" + json.dumps(reply) + "\n")


def settled(run_dir: Path) -> None:
    with open_ledger(run_dir) as ledger:
        close(run_dir, ledger)


def checked(run_dir: Path) -> None:
    with open_ledger(run_dir) as ledger:
        check(run_dir, ledger)


def ledger_of(source: Path, target: Path) -> None:
    for path in target.glob("ledger.sqlite*"):
        path.unlink()
    for path in source.glob("ledger.sqlite*"):
        shutil.copy(path, target)


def older_ledger(run_dir: Path) -> None:
    calls(run_dir, 0, 2)
    shutil.copytree(run_dir, run_dir.with_name("backup"))
    calls(run_dir, 2, 5)
    ledger_of(run_dir.with_name("backup"), run_dir)


def older_ledger_after_the_end(run_dir: Path) -> None:
    calls(run_dir, 0, 2)
    settled(run_dir)
    shutil.copytree(run_dir, run_dir.with_name("backup"))
    calls(run_dir, 2, 5)
    settled(run_dir)
    ledger_of(run_dir.with_name("backup"), run_dir)


def no_ledger(run_dir: Path) -> None:
    calls(run_dir, 0, 3)
    (run_dir / "ledger.sqlite").unlink()


def no_ledger_after_the_end(run_dir: Path) -> None:
    calls(run_dir, 0, 3)
    settled(run_dir)
    (run_dir / "ledger.sqlite").unlink()


def another_runs_journal(run_dir: Path) -> None:
    other = run_dir.with_name("other")
    calls(other, 10, 3)
    calls(run_dir, 0, 5)
    shutil.copy(other / "courier.jsonl", run_dir)


def another_runs_ledger(run_dir: Path) -> None:
    other = run_dir.with_name("other")
    calls(other, 10, 8)
    settled(other)
    calls(run_dir, 0, 5)
    settled(run_dir)
    ledger_of(other, run_dir)


def a_copy_made_while_it_went_on(run_dir: Path) -> None:
    calls(run_dir, 0, 2)
    copy = run_dir.with_name("copy")
    copy.mkdir()
    shutil.copy(run_dir / "ledger.sqlite", copy)
    calls(run_dir, 2, 2)
    shutil.copy(run_dir / "courier.jsonl", copy)
    shutil.rmtree(run_dir)
    copy.rename(run_dir)


def a_former_versions_journal(run_dir: Path) -> None:
    calls(run_dir, 0, 2)
    with (run_dir / "courier.jsonl").open("a") as journal:
        journal.write('{"attempt": 3, "sent": true}\n')


CONTRADICT: dict[Callable[[Path], None], str] = {
    older_ledger: r"5 paid calls .* does not know \(call 3, call 4, call 5 and 2 more; its last is",
    older_ledger_after_the_end: "records 7 paid calls, and ledger.sqlite knows only 2",
    no_ledger: "courier.jsonl lists 3 paid calls that ledger.sqlite does not know",
    no_ledger_after_the_end: "records 3 paid calls in another ledger",
    another_runs_journal: r"other requests .* call 1 \(in the ledger: R-0\)",
    another_runs_ledger: "records 5 paid calls in another ledger",
    a_copy_made_while_it_went_on: "courier.jsonl lists 2 paid calls that",
    a_former_versions_journal: r"courier.jsonl lists 1 paid calls .*\(call 3; its last is 2",
}


@pytest.mark.parametrize("happened", CONTRADICT, ids=lambda happened: happened.__name__)
def test_a_contradiction_is_said_and_stays_one(
    tmp_path: Path, happened: Callable[[Path], None]
) -> None:
    run_dir = tmp_path / "run"
    happened(run_dir)
    for _ in range(2):
        with pytest.raises(RunDirError, match=CONTRADICT[happened]) as raised:
            checked(run_dir)
    assert "take a new --run-dir" in str(raised.value)


def moved(run_dir: Path) -> None:
    run_dir.rename(run_dir.with_name("elsewhere"))
    run_dir.with_name("elsewhere").rename(run_dir)


def restored_whole(run_dir: Path) -> None:
    shutil.copytree(run_dir, run_dir.with_name("backup"))
    calls(run_dir, 8, 2)
    shutil.rmtree(run_dir)
    run_dir.with_name("backup").rename(run_dir)


def odd_lines(run_dir: Path) -> None:
    with (run_dir / "courier.jsonl").open("ab") as journal:
        journal.write(b'\n[]\n7\n{"attempt": "x", "sent": true}\n{"sent": true}\n\xff"sent"\n')
        journal.write(b'{"attempt": 999, "reply": {"verdict": "halt"}}\n{"attempt": 998, "sent"')


def former_version(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "courier.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("sha256", None)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run_dir / "courier.jsonl").write_text(text)


def closed_and_cut(run_dir: Path) -> None:
    settled(run_dir)
    (run_dir / "paid.json").write_text('{"ledger":')


AGREE = (settled, moved, restored_whole, odd_lines, former_version, closed_and_cut)


@pytest.mark.parametrize("happened", AGREE, ids=lambda happened: happened.__name__)
@pytest.mark.parametrize("before", [lambda run_dir: None, settled], ids=["killed", "ended"])
def test_what_agrees_goes_on(
    tmp_path: Path, before: Callable[[Path], None], happened: Callable[[Path], None]
) -> None:
    run_dir = tmp_path / "run"
    calls(run_dir, 0, 3)
    before(run_dir)
    if not (run_dir / "courier.jsonl").exists():
        calls(run_dir, 3, 2)
    happened(run_dir)
    checked(run_dir)


def test_a_run_that_never_paid_leaves_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settled(run_dir)
    assert not (run_dir / "paid.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("key")
def test_a_killed_run_without_its_wal_pays_for_nothing_again(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(40)))
    run_dir = job.parent / "run"
    process = start(job)
    wait_until(lambda: len(api.bill.requests()) > 6, 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.copytree(run_dir, tmp_path / "whole")
    wal = run_dir / "ledger.sqlite-wal"
    assert wal.stat().st_size > 0
    wal.unlink()
    wait_until(lambda: api.in_flight == 0)
    paid = len(api.bill.requests())
    for _ in range(2):
        with pytest.raises(RunDirError, match=r"courier\.jsonl lists"):
            run(job)
    assert len(api.bill.requests()) == paid
    # With the whole ledger it goes on, and each is paid for once.
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):
        for path in run_dir.glob(f"{name}*"):
            path.unlink()
    for path in (tmp_path / "whole").glob("ledger.sqlite*"):
        shutil.copy(path, run_dir)
    assert run(job).summary.unfinished == 0
    assert len(api.bill.requests()) == 40 and api.bill.billed_twice() == {}


@pytest.mark.parametrize("deep", range(MOST_DEPTH - 3, MOST_DEPTH + 13))
def test_a_reply_is_read_from_the_journal_as_it_was_read_live(deep: int) -> None:
    body = '{"x": ' + "[" * (deep - 1) + "]" * (deep - 1) + "}"
    live = received(body.encode(), None, None)
    line = b'{"attempt": 7, "reply": {"verdict": "ok", "body": %s}}\n' % body.encode()
    attempt, kept = entry_of(line)
    assert attempt == 7 and kept is not None
    assert (kept.verdict, kept.body) == (live.verdict, live.body)
    assert live.verdict == ("ok" if deep <= MOST_DEPTH else "unknown")
