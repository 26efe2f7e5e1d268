"""Batches whose contents are odd in every place: none stops another, is paid twice, or is waited
for without end.

Each run has many batches, and each of them another oddity; the stand-in itself is sound, and what
it sends is made odd on its way.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.job_file import load_job
from tests.jobs import Ran, query, records, run
from tests.stand_in import StandIn
from tests.stand_in.wire import Call, Reply
from tests.test_batch_lane import SIDES, Side, collect, job, made

pytestmark = pytest.mark.usefixtures("key")

FAST = {"poll_s": 0.02, "listed_within_s": 0.3}
ODD: list[Any] = [
    None, "", "x", 0, -1, 10**13, 1.5, True, [], {}, [None], [[]], {"a": None}, "\u2028\u0085",
    "x" * 5000, "\x1b[2J",
]  # fmt: skip
Change = Callable[[Reply], Reply]


@pytest.fixture
def oracle() -> Any:
    return lambda text: "lost_card"


@pytest.fixture(params=list(SIDES))
def side(request: pytest.FixtureRequest) -> Side:
    return SIDES[request.param]


def with_body(change: Callable[[dict[str, Any]], Any]) -> Change:
    """The reply with its JSON changed."""

    def changed(reply: Reply) -> Reply:
        body = json.loads(reply.body)
        return replace(reply, body=json.dumps(change(body)).encode())

    return changed


def put(name: str, value: Any) -> Change:
    return with_body(lambda body: body | {name: value})


def without(name: str) -> Change:
    return with_body(lambda body: {key: body[key] for key in body if key != name})


def bytes_of(content: bytes, **headers: str) -> Change:
    return lambda reply: Reply(200, content, headers or reply.headers)


def status(code: int, body: Any = None, **headers: str) -> Change:
    return lambda reply: Reply(code, json.dumps(body).encode(), headers)


def moved(code: int, to: str) -> Change:
    return lambda reply: Reply(code, b"", {"location": to})


WHOLE: dict[str, Change] = {
    **{f"body {odd!r:.20}": with_body(lambda body, odd=odd: odd) for odd in ODD},
    "deep": bytes_of(b'{"id":' + b"[" * 100_000),
    "not UTF-8": bytes_of(b'{"id": "\xff"}'),
    "half a body": lambda reply: replace(reply, body=reply.body[: len(reply.body) // 2]),
    "a page": bytes_of(b"<html>sign in</html>", **{"content-type": "text/html"}),
    "nothing": bytes_of(b""),
    "says gzip and is not": lambda reply: replace(
        reply, headers=reply.headers | {"content-encoding": "gzip"}
    ),
}
STATUSES: dict[str, Change] = {
    f"{code} {body!r:.20}": status(code, body, **headers)
    for code, body, headers in [
        (404, {"error": {"type": "not_found_error", "message": "No batch found."}}, {}),
        (404, None, {}),
        (410, [[[]]], {}),
        (403, {"error": "no"}, {}),
        (400, {"error": {"code": "model_not_found"}}, {}),
        (409, 5, {}),
        (500, "x", {}),
        (503, {}, {"retry-after": "inf"}),
        (429, {}, {"retry-after": "99999999999999999999"}),
        (429, {"error": None}, {"retry-after": "nan"}),
        (529, {}, {"retry-after": "-5"}),
    ]
}


class Oddly:
    """Changes what the stand-in sends at one endpoint: of the n-th batch by the n-th change, the
    first ``times`` times."""

    def __init__(self, api: StandIn, endpoint: str, changes: list[Change], times: float) -> None:
        self.api = api
        self.endpoint = endpoint
        self.changes = changes
        self.times = times
        self.met: dict[str, int] = {}
        self.order: list[str] = []
        api.twist = self

    def __call__(self, endpoint: str, call: Call, reply: Reply) -> Reply:
        if endpoint != self.endpoint:
            return reply
        mark = call.path if call.method == "GET" else str(len(self.order))
        if mark not in self.met:
            self.order.append(mark)
        self.met[mark] = self.met.get(mark, 0) + 1
        at = self.order.index(mark)
        if at >= len(self.changes) or self.met[mark] > self.times:
            return reply
        return self.changes[at](reply)


def names(count: int) -> list[str]:
    return [f"R-{n:03}" for n in range(count)]


def sent(folder: Path, api: StandIn, side: Side, batches: int, each: int = 2, **keys: Any) -> Path:
    """A run that has sent so many batches."""
    batch = FAST | {"max_requests": each}
    path = job(folder, api, side, records(names(batches * each)), batch=batch, **keys)
    run(path)
    return path


def sound_books(ran: Ran, api: StandIn) -> None:
    """Nothing was paid twice, and the ledger has at least what was billed."""
    assert api.errors == []
    assert api.bill.billed_twice() == {}
    assert ran.spent >= api.bill.total_usd()
    for (position,) in query(ran.run_dir, "SELECT position FROM outcomes WHERE status='done'"):
        paid = f"SELECT COUNT(*) FROM attempts WHERE position={position} AND state!='released'"
        assert query(ran.run_dir, paid) == [(1,)]


def all_done(ran: Ran, api: StandIn) -> None:
    assert set(ran.ends().values()) == {("done", "high_stakes")}
    sound_books(ran, api)
    assert ran.spent == api.bill.total_usd()


def looks(side: Side) -> dict[str, Change]:
    claude = side is SIDES["anthropic"]
    state, where = ("processing_status", "results_url") if claude else ("status", "output_file_id")
    odd = {f"{state} {v!r:.20}": put(state, v) for v in [*ODD, "paused", "archived"]}
    late = {f"{where} {v!r:.20}": put(where, v) for v in (None, "", 0, [], {})}
    if not claude:  # an id that is none leads to no file
        late |= {f"{where} {v!r:.20}": put(where, v) for v in ("../x", "no-such-file", "\x1b[2J")}
    counts = {f"counts {v!r:.20}": put("request_counts", v) for v in ODD}
    gone = {f"no {name}": without(name) for name in (state, where, "request_counts", "created_at")}
    return WHOLE | STATUSES | odd | late | counts | gone


def test_a_look_that_is_odd_for_a_moment_loses_nothing(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    changes = list(looks(side).values())
    path = sent(tmp_path, api, side, len(changes) + 1, each=1)
    Oddly(api, side.look, changes, times=4)
    all_done(collect(path), api)
    assert made(api) == len(changes) + 1


def test_a_look_that_stays_odd_keeps_nobody_and_can_be_given_up(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    changes = list((WHOLE | STATUSES).values())
    path = sent(tmp_path, api, side, len(changes) + 2, each=1)
    Oddly(api, side.look, changes, times=float("inf"))
    ran = collect(path)
    ends = list(ran.ends().values())
    assert ends[len(changes) :] == [("done", "high_stakes")] * 2
    assert set(ends[: len(changes)]) == {("waiting", "high_stakes")}
    assert ran.waits_for() == dict.fromkeys(names(len(changes)), "batch")
    sound_books(ran, api)
    assert sum("--give-up" in line for line in ran.said) == len(changes)
    again = collect(path, wait=False)
    assert made(api) == len(changes) + 2
    opened = query(again.run_dir, "SELECT id FROM batches WHERE state NOT IN ('collected')")
    api.twist = None
    given_up = collect(path, wait=False, give_up=[str(number) for (number,) in opened])
    ends = list(given_up.ends().values())
    assert set(ends[: len(changes)]) == {("review", "reply_lost")}
    assert given_up.spent == ran.spent
    sound_books(given_up, api)
