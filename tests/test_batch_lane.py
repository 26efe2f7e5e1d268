"""The batch lane through the real SDKs: what is sent, collected, sent again, lost and found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from escalation.redact import Redactor
from escalation.send.batch_submit import MOST_ASKED
from runner.errors import UsageError
from runner.job.file import load_job
from runner.ledger import read_ledger
from runner.pipeline.loop import Progress
from runner.pipeline.run import escalate_run
from runner.types import Notice
from tests.jobs import (
    KEY,
    Ran,
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
from tests.stand_in.faults import ROW_FAULTS

pytestmark = pytest.mark.usefixtures("key")

SOON: dict[str, Any] = {"poll_s": 0.05, "listed_within_s": 0.3}
NAMES = [f"R-{n}" for n in range(6)]


@dataclass(frozen=True, slots=True)
class Side:
    """One provider: its part of a job, and its names on the stand-in's bill and list of faults."""

    settings: Mapping[str, Any]
    path: str
    create: str
    look: str
    rows: str
    parts: str
    live: str


SIDES = {
    "anthropic": Side(
        {}, "", "batch_create", "batch_retrieve", "batch_results", "batch", "messages"
    ),
    "openai": Side(
        {"provider": "openai", "model": "gpt-6.1-sol", "api_key_env": "OPENAI_API_KEY"},
        "/v1", "chat_batch_create", "chat_batch_retrieve", "file_content", "chat_batch", "chat",
    ),
}  # fmt: skip


@pytest.fixture
def oracle() -> Any:
    return lambda text: "lost_card"


@pytest.fixture(params=list(SIDES))
def side(request: pytest.FixtureRequest) -> Side:
    return SIDES[request.param]


def job(
    folder: Path, api: StandIn, side: Side, rows: Any = None, lane: str = "batch", **keys: Any
) -> Path:
    batch = {**SOON, **keys.pop("batch", {})}
    settings = {**side.settings, "lane": lane, "batch": batch, **keys.pop("escalation", {})}
    return write_job(folder, api.url + side.path, rows or records(NAMES), settings, **keys)


def collect(path: Path, *, wait: bool = True, give_up: Sequence[str] = ()) -> Ran:
    """`surelocal escalate RUN_DIR`, in a process that knows only the run directory."""
    loaded, told, run_dir = load_job(path, ()).job, list[Notice](), path.parent / "run"
    output = run_dir / "results.jsonl"
    summary = escalate_run(
        run_dir, loaded, output, Progress(), told.append, wait=wait, give_up=give_up
    )
    return Ran(run_dir, summary, told, rows_of(run_dir))


def made(api: StandIn) -> int:
    """How many batches there are at the provider."""
    return sum(len(desk.batches) for desk in api.batches.desks)


def everything_is_done(ran: Ran, api: StandIn, names: list[str] = NAMES) -> None:
    assert {name: row["status"] for name, row in ran.rows.items()} == dict.fromkeys(names, "done")
    assert api.bill.billed_twice() == {}
    assert ran.spent == api.bill.total_usd() > 0
    assert query(ran.run_dir, "SELECT COUNT(*) FROM attempts WHERE state='reserved'") == [(0,)]
    with read_ledger(ran.run_dir) as ledger:
        assert ledger.prove().problem is None


def test_a_run_parks_what_it_sent_and_a_later_process_collects_it_at_half_the_price(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    api.batches.polls = 2
    path = job(tmp_path / "job", api, side)
    parked = run(path)
    assert parked.waits_for() == dict.fromkeys(NAMES, "batch")
    assert any("6 requests sent" in line for line in parked.said)
    not_yet = collect(path, wait=False)
    assert not_yet.waits_for() == dict.fromkeys(NAMES, "batch")
    ran = collect(path)
    everything_is_done(ran, api)
    assert made(api) == 1
    live = run(job(tmp_path / "live", api, side, lane="live"))
    assert ran.spent * 2 == live.spent
    assert list(ran.rows) == list(live.rows) == NAMES
    for name, row in ran.rows.items():
        assert {**row, "cost_usd": row["cost_usd"] * 2} == live.rows[name]


def test_what_left_is_written_down_to_the_byte(tmp_path: Path, api: StandIn, side: Side) -> None:
    path = job(tmp_path, api, side)
    run(path)
    sent = query(tmp_path / "run", "SELECT sha256, bytes FROM attempts ORDER BY id")
    parts = api.bill.requests(side.parts)
    assert sent == [(part.sha256, len(part.raw.encode())) for part in parts]
    assert len(parts) == len(NAMES)


def test_one_batch_has_no_more_than_it_may(tmp_path: Path, api: StandIn, side: Side) -> None:
    path = job(tmp_path, api, side, batch={"max_requests": 4})
    run(path)
    assert query(tmp_path / "run", "SELECT requests FROM batches ORDER BY id") == [(4,), (2,)]
    everything_is_done(collect(path), api)


@pytest.mark.parametrize("fate", ["errored_api", "errored_overloaded", "expired", "canceled"])
def test_what_a_batch_did_not_do_is_sent_again(
    tmp_path: Path, api: StandIn, side: Side, fate: str
) -> None:
    api.batch_parts.push(fate, text="<R-2>")
    path = job(tmp_path, api, side)
    run(path)
    ran = collect(path)
    everything_is_done(ran, api)
    assert made(api) == 2
    assert query(ran.run_dir, "SELECT requests FROM batches ORDER BY id") == [(6,), (1,)]


def test_what_is_never_done_goes_to_a_person(tmp_path: Path, api: StandIn, side: Side) -> None:
    api.batch_parts.push("expired", text="<R-2>", times=9)
    path = job(tmp_path, api, side)
    run(path)
    ran = collect(path)
    assert ran.ends()["R-2"] == ("review", "rejected_by_provider")
    assert "3 times" in ran.rows["R-2"]["error"]
    assert made(api) == 3  # `max_attempts`
    assert ran.spent == api.bill.total_usd()


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("errored_invalid", "rejected_by_provider"),
        ("refusal_late", "closed_invalid"),
        ("max_tokens", "closed_invalid"),
        ("no_usage", None),
    ],
)
def test_a_part_that_went_wrong_goes_to_a_person_but_an_answer_without_its_bill_is_used(
    tmp_path: Path, api: StandIn, side: Side, fate: str, reason: str | None
) -> None:
    api.batch_parts.push(fate, text="<R-2>")
    path = job(tmp_path, api, side)
    run(path)
    ran = collect(path)
    odd = {"R-2": ("review", reason)} if reason is not None else {}
    assert ran.ends() == dict.fromkeys(NAMES, ("done", "high_stakes")) | odd
    assert made(api) == 1
    if reason is not None:
        assert ran.spent == api.bill.total_usd()
    else:  # its reservation stays spent: nobody knows what it cost
        assert ran.spent > api.bill.total_usd()


@pytest.mark.parametrize("fault", [*ROW_FAULTS, "cut", "429", "500", "rst_after", "html"])
def test_results_that_do_not_come_whole_are_read_again(
    tmp_path: Path, api: StandIn, side: Side, fault: str
) -> None:
    api.faults.push(fault, endpoint=side.rows, times=2)
    path = job(tmp_path, api, side)
    run(path)
    everything_is_done(collect(path), api)
    assert made(api) == 1
    assert api.faults.fired[fault] >= 1


def test_results_that_stay_missing_count_as_paid_and_lost(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    api.faults.push("missing_row", endpoint=side.rows, times=2 * MOST_ASKED)
    path = job(tmp_path, api, side)
    run(path)
    ran = collect(path)
    ends = list(ran.ends().values())
    lost = ends.count(("review", "reply_lost"))
    assert lost >= 1
    assert ends.count(("done", "high_stakes")) == len(NAMES) - lost
    assert ran.spent > api.bill.total_usd()
    assert query(ran.run_dir, "SELECT state FROM batches") == [("collected",)]


@pytest.mark.parametrize("fault", ["429", "529", "503", "408"])
def test_a_batch_that_was_not_taken_is_offered_again(
    tmp_path: Path, api: StandIn, side: Side, fault: str
) -> None:
    api.faults.push(fault, endpoint=side.create)
    path = job(tmp_path, api, side)
    run(path)
    everything_is_done(collect(path), api)
    assert made(api) == 1


@pytest.mark.parametrize(
    "fault", ["rst_after", "fin_after", "cut", "malformed", "empty", "html", "504_after"]
)
def test_a_batch_whose_id_was_lost_is_found_and_not_made_twice(
    tmp_path: Path, api: StandIn, side: Side, fault: str
) -> None:
    api.faults.push(fault, endpoint=side.create)
    api.batches.polls = 3
    api.batches.list_lag_calls = 1
    path = job(tmp_path, api, side, batch={"listed_within_s": 5})
    lost = run(path)
    assert any("will be looked for" in line for line in lost.said)
    ran = collect(path)
    assert any("found again" in line for line in ran.said)
    everything_is_done(ran, api)
    assert made(api) == 1


@pytest.mark.parametrize("fault", ["rst_before", "500"])
def test_a_batch_that_was_never_made_is_made_once(
    tmp_path: Path, api: StandIn, side: Side, fault: str
) -> None:
    api.faults.push(fault, endpoint=side.create)
    path = job(tmp_path, api, side)
    run(path)
    everything_is_done(collect(path), api)
    assert made(api) == 1


def test_two_runs_that_lost_their_ids_find_each_their_own(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    other = [f"S-{n}" for n in range(6)]
    first = job(tmp_path / "first", api, side)
    second = job(tmp_path / "second", api, side, records(other))
    api.faults.push("rst_after", "rst_after", endpoint=side.create)
    run(first)
    run(second)
    one, two = collect(first), collect(second)
    assert made(api) == 2
    assert [set(one.ends().values()), set(two.ends().values())] == [{("done", "high_stakes")}] * 2
    assert one.spent + two.spent == api.bill.total_usd()


def test_a_refused_batch_leaves_its_records_and_their_money(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    api.faults.push("401", endpoint=side.create)
    path = job(tmp_path, api, side)
    ran = run(path)
    assert ran.waits_for() == dict.fromkeys(NAMES, "provider_halted")
    assert "401" in (ran.summary.stopped or "")
    assert ran.spent == 0
    run(path)
    everything_is_done(collect(path), api)


def test_a_batch_that_fails_as_a_whole_says_why(tmp_path: Path, api: StandIn) -> None:
    api.batches.push("fail")
    path = job(tmp_path, api, SIDES["openai"])
    run(path)
    ran = collect(path)
    assert ran.waits_for() == dict.fromkeys(NAMES, "provider_halted")
    assert ran.summary.stopped
    assert ran.spent == 0
    everything_is_done(collect(path), api)


def test_a_batch_that_expires_without_a_word_is_sent_again(tmp_path: Path, api: StandIn) -> None:
    api.chat_batches.tells_undone = False
    api.batches.push("expire")
    path = job(tmp_path, api, SIDES["openai"])
    run(path)
    everything_is_done(collect(path), api)
    assert made(api) == 2


def test_the_cap_holds_and_what_comes_back_is_spent_on_the_rest(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    free = run(job(tmp_path / "free", api, side))
    worst = max(row[0] for row in query(free.run_dir, "SELECT reserved FROM attempts"))
    cap = Decimal(worst * 5 // 2) * Decimal("1e-12")
    path = job(tmp_path / "job", api, side, escalation={"budget_usd": str(cap)})
    parked = run(path)
    assert sorted(parked.waits_for().values()) == ["batch"] * 2 + ["budget"] * 4
    assert parked.spent <= cap
    ran = collect(path)
    assert {row["status"] for row in ran.rows.values()} == {"done"}
    assert 0 < ran.spent <= cap


def test_the_days_cap_is_taken_at_once_and_given_back(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    daily = {"daily_budget_usd": 5, "spend_file": str(tmp_path / "spend.sqlite")}
    path = job(tmp_path, api, side, escalation=daily)
    parked = run(path)
    reserved = spent_usd(tmp_path / "run")
    assert parked.summary.day_usd == reserved > 0
    ran = collect(path)
    everything_is_done(ran, api)
    assert ran.summary.day_usd == ran.spent < reserved


def test_a_deadline_that_is_near_is_met_live(tmp_path: Path, api: StandIn, side: Side) -> None:
    near = {"deadline": "30m", "batch": {**SOON, "expect_s": 1800}}
    ran = run(job(tmp_path, api, side, lane="auto", escalation=near))
    everything_is_done(ran, api)
    assert made(api) == 0
    assert len(api.bill.requests(side.live)) == len(NAMES)


def test_what_a_batch_has_not_done_by_then_is_cancelled_and_asked_live(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    api.batch_seconds = 600
    parked = run(job(tmp_path, api, side, lane="auto", escalation={"deadline": "10h"}))
    assert parked.waits_for() == dict.fromkeys(NAMES, "batch")
    soon = {"deadline": "0.0001h", "batch": {**SOON, "expect_s": 0, "live_s": 0}}
    ran = collect(job(tmp_path, api, side, lane="auto", escalation=soon))
    assert any("cancelled" in line for line in ran.said)
    everything_is_done(ran, api)
    assert len(api.bill.requests(side.live)) == len(NAMES)


def test_without_a_deadline_the_cheaper_lane_is_taken(tmp_path: Path, api: StandIn) -> None:
    run(job(tmp_path, api, SIDES["anthropic"], lane="auto"))
    assert made(api) == 1


def test_nothing_kept_local_and_nothing_redacted_is_in_a_batch(
    tmp_path: Path, api: StandIn, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[str]()
    for name in ("placeholders", "redact"):
        at_work = getattr(Redactor, name)

        def noted(*given: Any, at_work: Callable[..., Any] = at_work) -> Any:
            threads.add(threading.current_thread().name)
            return at_work(*given)

        monkeypatch.setattr(Redactor, name, noted)
    rows = records(NAMES, name="Ada Lovelace")
    rows[3]["region"] = "EU"
    for row in rows:
        row.setdefault("region", "US")
        row["message"] += ", asks ada  LOVELACE"
    privacy = {"redact": ["name"], "keep_local": "region == 'EU'"}
    path = job(tmp_path, api, side, rows, privacy=privacy)
    run(path)
    parts = api.bill.requests(side.parts)
    assert len(parts) == len(NAMES) - 1
    assert not any("lovelace" in part.raw.lower() or "<R-3>" in part.raw for part in parts)
    ran = collect(path)
    assert ran.ends()["R-3"] == ("review", "kept_local")
    # A long text is redacted beside all else, which need not wait for it.
    assert len(threads) > 1 and threading.main_thread().name not in threads


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lane": "batch", "provider": "local", "base_url": "http://127.0.0.1:1/v1"}, "no batches"),
        ({"lane": "live", "deadline": "10h"}, "lane: auto"),
        ({"lane": "auto", "deadline": "soon"}, "deadline"),
        ({"lane": "auto", "deadline": 480}, "such as 10h"),
        ({"lane": "batch", "batch": {"max_requests": 0}}, "max_requests"),
    ],
)
def test_a_lane_that_cannot_be_is_refused(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    path = write_job(tmp_path, "http://127.0.0.1:1", records(NAMES), settings)
    with pytest.raises(UsageError, match=says):
        load_job(path, ())


def test_a_deadline_is_a_time_or_a_duration(tmp_path: Path) -> None:
    for given, then in [
        ("10h", "PT10H"),
        ("2026-11-23T08:00:00+01:00", "2026-11-23T08:00:00+01:00"),
    ]:
        path = write_job(tmp_path, "x", records(NAMES), {"lane": "auto", "deadline": given})
        settings = load_job(path, ()).job.escalation
        assert settings is not None
        assert settings.model_dump(mode="json")["deadline"] == then


def test_the_key_goes_nowhere_else_for_results(tmp_path: Path, api: StandIn) -> None:
    """Behind a gateway they are said to be at the provider's own host."""
    path = job(tmp_path, api, SIDES["anthropic"])
    run(path)
    with StandIn(tmp_path / "other.jsonl") as other:
        api.claude_batches.results_host = other.url.removeprefix("http://")
        everything_is_done(collect(path), api)
        assert other.bill.requests(None) == []


def test_killed_between_sending_a_batch_and_noting_its_id(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    api.faults.push("slow", endpoint=side.create, seconds=2.0)
    api.batches.list_lag_s = 0.2
    path = job(tmp_path, api, side, batch={"listed_within_s": 60})
    process = start(path, OPENAI_API_KEY=KEY)
    wait_until(lambda: bool(api.bill.requests(side.create)))
    process.kill()
    process.wait()
    assert query(tmp_path / "run", "SELECT state, remote_id FROM batches") == [("intent", None)]
    wait_until(lambda: made(api) == 1)
    ran = collect(path)
    assert any("found again" in line for line in ran.said)
    everything_is_done(ran, api)
    assert made(api) == 1


def test_killed_before_a_batch_left_it_is_sent_once(tmp_path: Path, api: StandIn) -> None:
    side = SIDES["anthropic"]
    api.faults.push("429", endpoint=side.create, times=99, retry_after=30)
    path = job(tmp_path, api, side)
    process = start(path)
    wait_until(lambda: bool(api.bill.requests(side.create)))
    process.kill()
    process.wait()
    api.faults.clear()
    everything_is_done(collect(path), api)
    assert made(api) == 1
