"""The closed side as a run meets it: the real SDK and courier against a stand-in's every fault."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from escalation.providers.anthropic import Anthropic
from runner.errors import RecordError, RunDirError, UsageError
from runner.job import Escalation
from runner.types import Completion, Constraint, Message, Prompt, Reason
from tests.jobs import (
    DEMO_MODEL,
    KEY,
    NO_KEY,
    Ran,
    Scripted,
    marked,
    query,
    records,
    run,
    unsure,
    use_engine,
    write_job,
)
from tests.stand_in import FAULTS, StandIn
from tests.stand_in.schema import check

RETRIED = ["408", "429", "429_bare", "503", "529"]
REFUSED = ["409", "413"]
LOST = [
    "500", "502", "504", "504_after", "rst_before", "rst_after", "fin_after", "cut", "cut_chunked",
    "cut_unsized", "malformed", "empty", "html", "slow", "drip",
]  # fmt: skip
INVALID = ["refusal", "refusal_late", "max_tokens", "pause_turn", "context_window", "off_enum"]
HALTS = ["400_usage_limits", "401", "402", "403", "429_spend"]
UNBILLED = {"500", "502", "504", "rst_before", "refusal"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


@dataclass(frozen=True, slots=True)
class End:
    """How the record of one fault ends: its row, its attempts, which of them are billed."""

    status: str
    reason: str
    states: list[str]
    billed: list[bool]


def end_of(name: str) -> End:
    if name in RETRIED:
        return End("done", "high_stakes", ["released", "settled"], [False, True])
    if name in REFUSED:
        return End("review", "rejected_by_provider", ["released"], [False])
    if name in LOST:
        return End("review", "reply_lost", ["unknown"], [name not in UNBILLED])
    if name == "no_usage":  # its answer is used, and it counts as spent in full
        return End("done", "high_stakes", ["unknown"], [True])
    if name in INVALID:
        return End("review", "closed_invalid", ["settled"], [name not in UNBILLED])
    return End("done", "high_stakes", ["settled"], [True])


def test_each_fault_of_a_single_call_has_its_end(tmp_path: Path, api: StandIn) -> None:
    names = [*RETRIED, *REFUSED, *LOST, *INVALID, "no_usage", "other_case", "sound"]
    assert set(FAULTS) | {"sound"} == {*names, *HALTS}
    for name in names[:-1]:
        changes: dict[str, Any] = {"seconds": 3.0} if name in ("slow", "drip") else {}
        changes |= {"retry_after": 0.05} if name in ("408", "429", "503") else {}
        api.faults.push(name, when=marked(name), **changes)
    settings = {"timeout_s": 1.8, "concurrency": 16}
    job = write_job(tmp_path / "job", api.url, records(names), settings)
    ran = run(job)
    api.wait_idle()
    assert api.faults.waiting() == 0
    requests, sure = api.bill.requests(), Decimal(0)
    for name in names:
        end, row = end_of(name), ran.rows[name]
        assert (row["status"], row["reason"]) == (end.status, end.reason), name
        assert bool(row["error"]) == (end.status == "review"), name
        billed = [request.usd for request in requests if marked(name)(request.text)]
        assert [usd > 0 for usd in billed] == end.billed, name
        sql = f"SELECT state, cost, reserved FROM attempts WHERE record_id='{name}' ORDER BY id"
        states, costs, reserved = zip(*query(ran.run_dir, sql), strict=True)
        assert list(states) == end.states, name
        if end.states == ["unknown"]:  # perhaps billed: all of the reservation is spent
            assert costs == reserved and costs[0] > 0, name
        sure += (
            sum(billed)
            if name not in (*LOST, "no_usage", "refusal")
            else Decimal(sum(costs)) / 10**12
        )
    assert ran.rows["other_case"]["value"] == {"intent": "lost_card"}
    assert ran.spent == sure >= api.bill.total_usd()


@pytest.mark.process
def test_what_no_later_call_can_fix_stops_the_sending(tmp_path: Path) -> None:
    def halted(name: str) -> tuple[Ran, int]:
        folder = tmp_path / name
        folder.mkdir()
        with StandIn(folder) as api:
            api.latency = 0.05
            api.faults.push(name)
            rows = [*records(f"R-{n}" for n in range(40)), *records(["T-1"], "template")]
            ran = run(write_job(folder / "job", api.url, rows, {"concurrency": 2}))
            assert ran.spent == api.bill.total_usd()
            return ran, len(api.bill.requests())

    with ThreadPoolExecutor(2) as pool:
        for name, (ran, requests) in zip(HALTS, pool.map(halted, HALTS), strict=True):
            problem = FAULTS[name].problem
            assert problem is not None and requests <= 3
            assert problem.message in (ran.summary.stopped or "") and str(problem.status) in (
                ran.summary.stopped or ""
            )
            assert ran.rows["T-1"]["status"] == "done"
            waiting = {i for i, row in ran.rows.items() if row["status"] == "waiting"}
            assert len(waiting) >= 38 and ran.summary.unfinished == len(waiting)
            assert ran.waits_for() == dict.fromkeys(waiting, "provider_halted")


@pytest.mark.process
def test_a_provider_that_stays_overloaded_is_left_alone(tmp_path: Path) -> None:
    def storm(retry_after: float) -> tuple[Ran, int]:
        folder = tmp_path / f"{retry_after:g}"
        folder.mkdir()
        with StandIn(folder) as api:
            api.faults.push("429", times=500, retry_after=retry_after)
            ran = run(write_job(folder, api.url, records(f"R-{n}" for n in range(30))))
            assert api.bill.total_usd() == ran.spent == 0
            return ran, len(api.bill.requests())

    # Second: longer than it is worth waiting for, so the first such word is the last call.
    with ThreadPoolExecutor(2) as pool:
        (soon, tries), (late, asked) = pool.map(storm, [0.1, 3600.0])
    assert tries <= 4 * 3 and asked <= 4
    for ran in (soon, late):
        assert set(ran.ends().values()) == {("waiting", "high_stakes")}
        assert set(ran.waits_for().values()) == {"provider_busy"}
        assert "rate limit" in (ran.summary.stopped or "")


def test_a_halt_wakes_those_that_wait_to_try_again(tmp_path: Path, api: StandIn) -> None:
    api.faults.push("429", when=marked("R-0"), retry_after=200)
    api.faults.push("401", when=marked("R-1"), seconds=0.0)
    ran = run(write_job(tmp_path / "job", api.url, records(["R-0", "R-1"])))
    assert ran.waits_for() == dict.fromkeys(["R-0", "R-1"], "provider_halted")
    assert len(api.bill.requests()) == 2


@pytest.mark.process
def test_nobody_there_costs_nothing(tmp_path: Path) -> None:
    with StandIn(tmp_path) as gone:
        url = gone.url
    ran = run(write_job(tmp_path / "job", url, records(["R-0", "R-1"]), {"max_attempts": 1}))
    assert ran.ends() == dict.fromkeys(["R-0", "R-1"], ("waiting", "high_stakes"))
    assert ran.spent == 0 and "connection failed" in (ran.summary.stopped or "")


def test_a_key_is_missed_only_where_something_waits(tmp_path: Path, api: StandIn) -> None:
    job = write_job(tmp_path / "job", api.url, records(["T-1", "T-2"], "template"))
    assert run(job, NO_KEY).said == []


def test_without_a_key_nothing_leaves_and_later_the_rows_are_the_same(
    tmp_path: Path, api: StandIn
) -> None:
    rows = [*records(["R-0", "R-1", "R-2"]), *records(["T-1"], "template")]
    without = write_job(tmp_path / "without", api.url, rows)
    ran = run(without, NO_KEY)
    assert api.bill.requests(None) == [] and api.connections == 0
    assert len(ran.said) == 1 and "nothing will be sent" in ran.said[0]
    assert ran.waits_for() == dict.fromkeys(["R-0", "R-1", "R-2"], "no_key")
    assert ran.summary.waiting_estimate_usd > 0 and ran.spent == 0
    with pytest.raises(RunDirError, match="NOBODY_HAS_THIS_KEY"):
        run(without, NO_KEY, again=True)
    later = run(without, again=True)
    at_once = run(write_job(tmp_path / "with", api.url, rows))
    assert later.rows == at_once.rows and later.summary.unfinished == 0
    assert len(api.bill.requests()) == 6
    assert later.spent + at_once.spent == api.bill.total_usd()


def test_calls_overlap_share_their_prefix_and_are_written_down_to_the_byte(
    tmp_path: Path, api: StandIn, capfd: pytest.CaptureFixture[str]
) -> None:
    api.latency = 0.1
    rows = records((f"R-{n}" for n in range(24)), note="größer 日本 \u2028 \"'\\ <&>")
    prompt = {"user": "{{ message }} {{ note }}", "system": "Rules without end. " * 300}
    ran = run(write_job(tmp_path / "job", api.url, rows, {"concurrency": 6}, prompt=prompt))
    assert ran.summary.unfinished == 0
    assert 1 < api.max_in_flight <= 6
    seen = api.bill.requests()
    assert sum(r.usage["cache_read_input_tokens"] > 0 for r in seen if r.usage) >= 18
    assert ran.spent == api.bill.total_usd() == sum(r.usd for r in seen)
    paid = sum(Decimal(str(row["cost_usd"])) for row in ran.rows.values())
    assert abs(paid - ran.spent) < Decimal("1e-12")

    sql = "SELECT sha256, bytes, url, model, request_id, state FROM attempts"
    left = {(r.sha256, len(r.raw.encode()), api.url, r.model, r.id, "settled") for r in seen}
    assert set(query(ran.run_dir, sql)) == left
    files = [path for path in ran.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 2 and not [path for path in files if KEY.encode() in path.read_bytes()]
    out = capfd.readouterr()
    assert KEY not in out.out + out.err + "".join(ran.said)
    assert all("authorization" not in r.raw.lower() for r in seen)


def test_what_must_stay_stays(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(text: str) -> Completion:
        return unsure()

    use_engine(monkeypatch, Scripted(answer))
    rows = [
        *records(["rule"], "secret", region="US"),
        *records(["closed-eu"], "closed", region="EU"),
        *records(["local-eu"], "local", region="EU"),
        *records(["no-region"], "local"),
        *records(["local-us"], "local", region="US"),
    ]
    routes = [
        {"when": "kind == 'secret'", "to": "local", "keep_local": True},
        {"when": "kind == 'closed'", "to": "closed"},
    ]
    job = write_job(
        tmp_path / "job", api.url, rows, routes=routes,
        local={"model": str(DEMO_MODEL)}, privacy={"keep_local": "region == 'EU'"},
    )  # fmt: skip
    ran = run(job)
    # Where the expression cannot be told, the record stays too.
    names = ["rule", "closed-eu", "local-eu", "no-region"]
    stayed = dict.fromkeys(names, ("review", "kept_local"))
    assert ran.ends() == stayed | {"local-us": ("done", "unsure")}
    run(job, again=True)
    (sent,) = api.bill.requests()
    assert "<local-us>" in sent.text


@pytest.mark.parametrize("where", [None, "error", "escalate", "review"])
@pytest.mark.parametrize("closed", [True, False])
def test_what_is_too_long_goes_where_the_job_says(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch, where: str | None, closed: bool
) -> None:
    def answer(text: str) -> Completion:
        raise RecordError("the prompt is 9 tokens", Reason.TOO_LONG)

    use_engine(monkeypatch, Scripted(answer))
    rows = [*records(["eu"], "local", region="EU"), *records(["us"], "local", region="US")]
    local = {"model": str(DEMO_MODEL)} | ({"too_long": where} if where else {})
    keys: dict[str, Any] = {"privacy": {"keep_local": "region == 'EU'"}, "local": local}
    job = write_job(tmp_path / "job", api.url, rows, **keys)
    overrides = [] if closed else ["escalation=null"]
    ends = run(job, *overrides).ends()
    away = "done" if closed else "review"
    status = {"escalate": ("review", away), "review": ("review", "review")}
    expected = status.get(where or "error", ("error", "error"))
    assert ends == {
        name: (end, "too_long") for name, end in zip(("eu", "us"), expected, strict=True)
    }
    sent = [request.text for request in api.bill.requests()]
    assert len(sent) == (where == "escalate" and closed)
    assert not any("<eu>" in text for text in sent)


ALIKE: list[dict[str, Any]] = [
    {"type": ["string", "null"], "description": "may be missing"},
    {"type": ["string", "null"], "enum": ["a", None]},
    {"type": "array", "items": {"type": ["integer", "null"]}},
    {"type": "object", "properties": {"type": {"type": ["string", "null"]}}},
    {"type": "integer", "minimum": 1, "maximum": 5},
]


@pytest.mark.parametrize("field", ALIKE)
def test_schemas_are_put_as_the_api_takes_them(field: dict[str, Any]) -> None:
    whole = {"type": "object", "properties": {"field": field}, "required": ["field"]}
    prompt = Prompt((Message("user", "x"),), Constraint(whole))
    wanted = Anthropic(Escalation()).request(prompt)["output_config"]["format"]["schema"]
    check(wanted)
    assert wanted["required"] == ["field"]


def test_a_schema_that_the_api_cannot_take_is_a_sentence() -> None:
    whole = {"type": "object", "properties": {"field": {"not": {"type": "string"}}}}
    with pytest.raises(UsageError, match=r"answer\.schema"):
        Anthropic(Escalation()).request(Prompt((Message("user", "x"),), Constraint(whole)))


@pytest.mark.parametrize(
    ("key", "ends"),
    [(f"{KEY}\n", "done"), (f"{KEY}\u2013", "waiting"), (f"{KEY}\x07", "waiting")],
)
def test_a_badly_pasted_key_is_used_or_refused_and_written_nowhere(
    api: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, ends: str
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    ran = run(write_job(tmp_path / "job", api.url, records(["R-1"])))
    assert ran.rows["R-1"]["status"] == ends
    for path in ran.run_dir.iterdir():
        assert KEY.encode() not in path.read_bytes()
