"""The guard: no money is spent on what a broken local model makes unsure, and a run says why."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.limits.local_guard import FIRST, MOST_BROKEN, WELL_AGAIN, WINDOW, Guard
from runner.engines.self_test import engine_problem
from runner.job.file import load_job
from runner.ledger import open_ledger
from runner.types import Completion, Constraint, Event, Level, Notice, Prompt, Sampling, Usage
from tests import jobs
from tests.fakes import completion, surelocal
from tests.jobs import NO_KEY
from tests.serving import Echo, body, serving, write
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")
LOCAL = {"model": str(jobs.DEMO_MODEL)}
GOOD = json.dumps({"intent": "lost_card"})
IN_FLIGHT = 2 * 4  # taken and under way when it trips; `jobs.write_job` has 4 at once


def said(text: str, probability: float | None = 0.3, finish: str = "stop") -> Completion:
    logprobs = None if probability is None else (math.log(probability),)
    return Completion(text, "small", finish, (text,), logprobs, Usage(9, 1))


BROKEN: dict[str, Completion] = {
    "cut off": said(GOOD[:8], finish="length"),
    "not valid": said("nothing of the kind"),
    "without a confidence": said(GOOD, None),
}


@pytest.fixture
def oracle() -> Callable[[str], str]:
    return lambda text: "card_arrival"


def number(text: str) -> int:
    return int(text.split("-", 1)[1].split(">", 1)[0])


def job_of(
    folder: Path, api: StandIn, patch: pytest.MonkeyPatch, answer: Callable[[int], Completion],
    records: int = 90, confidence: dict[str, Any] | None = None, **closed: Any,
) -> Path:  # fmt: skip
    """``answer``: the local model's, by the record's number; five more go by rule, at the end."""
    jobs.use_engine(patch, jobs.Scripted(lambda text: answer(number(text))))
    rows = jobs.records([f"L-{n}" for n in range(records)], "local")
    rows += jobs.records([f"C-{n}" for n in range(5)], "closed")
    closed = {"timeout_s": 60, "budget_usd": 50, **closed}
    given = confidence or {"threshold": 0.9}
    return jobs.write_job(folder, api.url, rows, closed, local=LOCAL, confidence=given)


def sent(api: StandIn, prefix: str = "<L-") -> int:
    kinds = (*api.bill.requests("messages"), *api.bill.requests("batch"))
    return sum(prefix in request.text for request in kinds)


def held(ran: jobs.Ran) -> list[str]:
    return [name for name, cause in ran.waits_for().items() if cause == "guarded"]


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("lane", ["live", "batch"])
def test_a_broken_local_model_stops_what_it_leaves_unsure(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch, fault: str, lane: str
) -> None:
    api.batches.seconds = 0
    batch = {"poll_s": 0.01}
    job = job_of(
        tmp_path / "job", api, monkeypatch, lambda n: BROKEN[fault], lane=lane, batch=batch
    )
    ran = jobs.run(job)
    assert sent(api) <= FIRST + IN_FLIGHT and len(held(ran)) >= 90 - FIRST - IN_FLIGHT
    [words] = [line for line in ran.said if "unusable" in line]
    assert fault in words and "escalation.guard: off" in words
    [tripped] = ran.of(Event.GUARD_TRIPPED)
    assert tripped.text == words and tripped.level is Level.WARNING
    assert words.startswith(f"{tripped.fields['broken']} of the local model's last ")
    assert tripped.fields["faults"] == {fault: tripped.fields["broken"]}
    for told in (ran.summary.stopped, surelocal("status", ran.run_dir).stdout):
        assert told is not None and "unusable" in told
    if lane == "batch":
        assert surelocal("escalate", ran.run_dir, "--wait").exit_code == 3
    assert sent(api, "<C-") == 5  # a rule sends all the same
    before = sent(api)

    # Nothing has changed: no later command spends a cent on them, and each says why.
    again = surelocal("escalate", ran.run_dir, "--wait")
    assert again.exit_code == 3 and "unusable" in again.stderr.replace("\n", " ")
    assert "surelocal escalate" in again.stderr and "--guard off" in again.stderr
    assert held(jobs.run(job)) and sent(api) == before

    done = surelocal("escalate", ran.run_dir, "--guard", "off", "--wait")
    assert done.exit_code == 0, done.stderr
    assert sent(api) == 90 and api.bill.billed_twice() == {}


@pytest.mark.parametrize("word", ["off", "false", "no", "'off'", "Off", "FALSE"])
def test_it_can_be_turned_off_however_yaml_reads_it(tmp_path: Path, word: str) -> None:
    job = jobs.write_job(tmp_path, "http://x", [])
    closed = load_job(job, [f"escalation.guard={word}"]).job.escalation
    assert closed is not None and closed.guard == "off"


def test_turned_off_it_holds_nothing_back(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path / "job", api, monkeypatch, lambda n: BROKEN["not valid"], 70)
    ran = jobs.run(job, "escalation.guard=off")
    assert ran.summary.unfinished == 0 and sent(api) == 70


@pytest.mark.parametrize(
    ("broken", "held_back"),
    [
        (lambda n: n < 25, False),  # of the first 50, no more than half
        (lambda n: n < 26, True),
        (lambda n: n % 2 == 0, False),
        (lambda n: n % 5 < 3, True),
        (lambda n: n >= 300, True),  # from a point on
        (lambda n: 300 <= n < 350, False),
    ],
)
def test_it_looks_at_the_share_in_the_window(
    tmp_path: Path, broken: Callable[[int], bool], held_back: bool
) -> None:
    job = jobs.write_job(tmp_path / "job", "http://x", [])
    closed = load_job(job).job.escalation
    assert closed is not None
    heard: list[Notice] = []
    with open_ledger(tmp_path / "run") as ledger:
        guard = Guard(ledger, closed, heard.append)
        tripped = False
        for n in range(500):
            guard.saw("cut off" if broken(n) else None)
            tripped = tripped or guard.tripped
            assert not (guard.tripped and n < FIRST - 1)
    assert tripped == held_back == bool(heard)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([None, "cut off", "not valid"]), max_size=400))
def test_it_trips_exactly_where_more_than_half_are_broken(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str | None]
) -> None:
    folder = tmp_path_factory.mktemp("guard")
    closed = load_job(jobs.write_job(folder, "http://x", [])).job.escalation
    assert closed is not None
    with open_ledger(folder / "run") as ledger:
        guard, seen = Guard(ledger, closed, lambda text: None), list[str | None]()
        for fault in faults:
            before = guard.tripped
            guard.saw(fault)
            seen.append(fault)
            last = seen[-WINDOW:] if len(seen) >= WINDOW else seen[-FIRST:]
            share = sum(each is not None for each in last) / len(last)
            known = len(last) >= FIRST
            assert guard.tripped == (known and share > (WELL_AGAIN if before else MOST_BROKEN))


def test_a_local_model_that_is_well_again_lets_go(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(n: int) -> Completion:
        return BROKEN["not valid"] if n < 100 else said(GOOD, 0.99)

    job = job_of(tmp_path / "job", api, monkeypatch, answer, 220)
    part = jobs.run(job, limit=100)
    assert held(part)
    ran = jobs.run(job)  # the window knows what the former run saw
    assert ran.summary.unfinished == 0
    assert any("usable again" in line for line in ran.said)
    assert sent(api) == 100 and api.bill.billed_twice() == {}


def test_what_is_only_unsure_is_no_fault(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path / "job", api, monkeypatch, lambda n: said(GOOD), 60)
    assert jobs.run(job).summary.unfinished == 0 and sent(api) == 60


def test_at_a_threshold_of_0_no_confidence_is_needed(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = BROKEN["without a confidence"]
    job = job_of(tmp_path / "job", api, monkeypatch, lambda n: missing, 60, {"threshold": 0})
    ran = jobs.run(job)
    assert ran.summary.unfinished == 0 and sent(api) == 0


def test_a_budget_is_not_divided_over_a_broken_half(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = BROKEN["without a confidence"]
    job = job_of(tmp_path / "job", api, monkeypatch, lambda n: missing, 80, {"policy": "budget"})
    ran = jobs.run(job)
    assert len(held(ran)) == 80 and sent(api) == 0
    done = surelocal("escalate", ran.run_dir, "--guard", "off")
    assert done.exit_code == 0 and sent(api) > 0


def test_the_summary_says_why_records_were_escalated(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path / "job", api, monkeypatch, lambda n: said(GOOD), 3)
    ran = jobs.run(job, NO_KEY)
    assert json.loads(surelocal("status", ran.run_dir, "--json").stdout)["escalated"] == {
        "high_stakes": {"records": 5, "least_sure_field": {}},
        "unsure": {"records": 3, "least_sure_field": {"intent": 3}},
    }
    shown = " ".join(surelocal("status", ran.run_dir).stdout.split())
    assert "escalated: unsure, least sure of: intent 3" in shown
    done = jobs.run(job)  # and they still do once they are answered
    assert {why: one.records for why, one in done.summary.escalated.items()} == {
        "high_stakes": 5, "unsure": 3,
    }  # fmt: skip


@pytest.mark.process
def test_a_server_holds_it_back_and_says_so_to_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Echo(says=lambda text: "" if text.startswith("broken") else f"echo of {text}")
    routes = [{"when": "'lawyer' in message", "to": "closed", "reason": "legal"}]
    with StandIn(tmp_path, oracle=lambda text: f"bought for {text}") as api:
        job = write(tmp_path, api.url, routes=routes, escalation={"timeout_s": 60})
        with serving(monkeypatch, job, model) as served:
            for n in range(FIRST - 1):  # as many as are no ground yet, each under its own name
                assert served.post(body(f"sure {n}" if n < 20 else f"broken {n}")).is_success
            bought = len(api.bill.requests())
            assert bought == FIRST - 1 - 20
            reply = served.post(body("broken at last"))
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "local_model_broken")
            assert served.post(body("broken again")).status_code == 503
            assert served.post(body("my lawyer")).is_success  # by rule
            assert len(api.bill.requests()) == bought + 1
            assert any("unusable" in line for line in served.said)
            for n in range(40):
                assert served.post(body(f"sure {n} more")).is_success
            assert served.post(body("broken once more")).is_success
            assert any("usable again" in line for line in served.said)
        events = [(one.event, one.level) for one in served.notices if "guard" in one.event]
        assert events == [
            (Event.GUARD_TRIPPED, Level.WARNING), (Event.GUARD_RELEASED, Level.INFO),
        ]  # fmt: skip


# -- the self-test of a server ------------------------------------------------------------------


class Server:
    """Answers as it is made to."""

    window = 1

    def __init__(self, answer: Callable[[Constraint], Completion]) -> None:
        self._answer = answer

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return self._answer(prompt.constraint)

    async def aclose(self) -> None:
        return None


def held_to(constraint: Constraint, logprobs: list[float] | None) -> Completion:
    return completion(constraint.labels[0] if constraint.labels else "Hello!", logprobs)


@pytest.mark.parametrize(
    ("answer", "labels", "confidence", "problem"),
    [
        (lambda c: completion("Hello!", [-0.1]), True, True, "does not hold its answers to labels"),
        (lambda c: completion("Hello!", [-0.1]), False, True, None),
        (lambda c: held_to(c, None), True, True, "gives no logprobs"),
        (lambda c: held_to(c, None), False, True, "gives no logprobs"),
        (lambda c: held_to(c, None), True, False, None),
        (lambda c: completion("", None), True, True, None),  # it may still be thinking
    ],
)
def test_a_server_that_lacks_what_the_job_needs_is_found(
    answer: Callable[[Constraint], Completion], labels: bool, confidence: bool, problem: str | None
) -> None:
    found = asyncio.run(engine_problem(Server(answer), labels=labels, confidence=confidence))
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)
