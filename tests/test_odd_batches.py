"""Batches whose contents are odd in every place: none stops another, is paid twice, or is waited
for without end.

Each run has many batches, and each of them another oddity; the stand-in itself is sound, and what
it sends is made odd on its way.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from escalation.providers import batch_calls, batch_listing
from escalation.providers.batch_protocol import CallFailed, Found, Lost, Remote
from escalation.providers.chosen import batches_of as build_batches
from runner.cli.main import main
from runner.job import Escalation
from runner.job.file import load_job
from runner.ledger import open_ledger
from tests.jobs import Ran, query, records, rows_of, run
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
    **{f"body {odd!r:.20}": bytes_of(json.dumps(odd).encode()) for odd in ODD},
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
    counts = {f"counts {v!r:.20}": put("request_counts", v) for v in ODD[::3]}
    gone = {f"no {name}": without(name) for name in (state, where, "request_counts", "created_at")}
    some = {name: WHOLE[name] for name in ("body []", "deep", "half a body")}
    return some | {"404 None": STATUSES["404 None"]} | odd | late | counts | gone


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


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    return lambda reply: replace(reply, body=b"".join(change(reply.body.splitlines(keepends=True))))


def noted(text: str) -> Change:
    """A text, unescaped, in each row."""
    raw = b'{"note": "' + text.encode() + b'", '
    return lines(lambda rows: [raw + row[1:] for row in rows])


SOUND_FILES: dict[str, Change] = {
    **{
        f"a raw {ord(c):#06x}": noted(f"a{c}b")
        for c in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\t\x00"
    },
    "a BOM": lambda reply: replace(reply, body=b"\xef\xbb\xbf" + reply.body),
    "a BOM alone": lambda reply: replace(reply, body=b"\xef\xbb\xbf\n" + reply.body),
    "CRLF": lambda reply: replace(reply, body=reply.body.replace(b"\n", b"\r\n")),
    "empty lines": lines(lambda rows: [line for row in rows for line in (b"\n", b" \t\r\n", row)]),
    "no last end": lambda reply: replace(reply, body=reply.body.rstrip(b"\n")),
    "gzip": lambda reply: replace(
        reply, body=gzip.compress(reply.body),
        headers=reply.headers | {"content-encoding": "gzip"},
    ),
    "gzip, unsaid": lambda reply: replace(
        reply, body=gzip.compress(reply.body), headers={"content-type": "application/gzip"}
    ),
    "JSON": lambda reply: replace(reply, headers={"content-type": "application/json"}),
    "no type": lambda reply: replace(reply, headers={"content-type": ""}),
    "rows between": lines(
        lambda rows: [
            b"null\n", b"[]\n", b'"x"\n', b"1e999\n", b"{}\n", b"{\n", b'{"custom_id": null}\n',
            b'{"custom_id": "nobody"}\n', b'{"custom_id": 5, "result": {}}\n', b"[" * 5000 + b"\n",
            b"\xff\xfe\n", *rows,
        ]
    ),
    "a long line": lines(lambda rows: [b'{"x": "' + b"x" * (33 << 20) + b'"}\n', *rows]),
    "twice": lambda reply: replace(reply, body=reply.body * 2),
}  # fmt: skip
BAD_FILES = WHOLE | STATUSES | {
    "half a row": lambda reply: replace(reply, body=reply.body[:-20]),
    "all but a row": lines(lambda rows: rows[1:]),
}  # fmt: skip


def test_what_is_no_line_end_and_no_row_is_taken_for_none(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    changes = list(SOUND_FILES.values())
    path = sent(tmp_path, api, side, len(changes) + 1)
    odd = Oddly(api, side.rows, changes, times=1)
    all_done(collect(path), api)
    assert list(odd.met.values()) == [1] * (len(changes) + 1)  # nothing was read again


def test_results_that_are_odd_for_a_moment_are_read_again(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    changes = list(BAD_FILES.values())
    path = sent(tmp_path, api, side, len(changes) + 1)
    Oddly(api, side.rows, changes, times=3)
    all_done(collect(path), api)
    assert made(api) == len(changes) + 1


Spoil = Callable[[dict[str, Any]], Any]


def at(place: str, value: Any) -> Spoil:
    """Puts a value into a row."""
    *way, last = place.split(".")

    def change(row: dict[str, Any]) -> dict[str, Any]:
        inner: Any = row
        for name in way:
            inner = inner[name]
        inner[last] = value
        return row

    return change


def instead(**parts: Any) -> Spoil:
    return lambda row: row | parts


def row_changes(side: Side) -> list[Spoil]:
    """What may become of a row, so that it is none or its answer cannot be told."""
    claude = side is SIDES["anthropic"]
    places = (
        ["result", "result.type", "result.message", "result.message.content"]
        if claude
        else ["response", "response.body", "response.body.choices"]
    )
    changes = [at(place, value) for place in places for value in ODD]
    changes += [lambda row, value=value: value for value in ODD]  # type: ignore[misc]
    changes += [instead(custom_id=value) for value in ODD if not isinstance(value, str)]
    if claude:
        changes += [at("result.type", kind) for kind in ("expired", "canceled", "errored", "new")]
        return changes + [instead(result={"type": "errored", "error": each}) for each in ODD]
    none = [{"status_code": code, "request_id": 5, "body": None} for code in (400, 401, 404, 500)]
    errors = ["text", [], 5, {}, {"code": None}, {"code": 5, "message": []}]
    changes += [instead(response=each) for each in none]
    return changes + [instead(error=each, response=None) for each in errors]


def test_an_odd_row_is_its_own_records_review(tmp_path: Path, api: StandIn, side: Side) -> None:
    changes = row_changes(side)
    path = sent(tmp_path, api, side, 2, each=len(changes) + 1)

    def change(row: bytes) -> bytes:
        whole = json.loads(row)
        at = int(whole["custom_id"].split("-")[-1]) - 1
        return row if at >= len(changes) else json.dumps(changes[at](whole)).encode() + b"\n"

    Oddly(api, side.rows, [lines(lambda rows: [change(row) for row in rows])], times=float("inf"))
    ran = collect(path)
    ends = list(ran.ends().values())
    assert set(ends[: len(changes)]) <= {
        ("review", "reply_lost"), ("review", "closed_invalid"), ("review", "rejected_by_provider"),
    }  # fmt: skip
    assert set(ends[len(changes) :]) == {("done", "high_stakes")}
    sound_books(ran, api)
    assert made(api) == 2
    collect(path, wait=False)
    assert made(api) == 2


def others(side: Side, row: dict[str, Any]) -> list[dict[str, Any]]:
    """What else may be said of a request that is answered, by whether it was done or not."""
    name = {"custom_id": row["custom_id"]}
    if side is SIDES["anthropic"]:
        error = {"type": "error", "error": {"type": "api_error", "message": "x"}}
        refused = {"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}
        kinds = [{"type": "expired"}, {"type": "canceled"}, {"type": "errored", "error": error},
                 {"type": "errored", "error": refused}, {"type": "new"}, None]  # fmt: skip
        return [name | {"result": kind} for kind in kinds]
    body = {"error": {"message": "x", "code": "invalid"}}
    codes = [name | {"response": None, "error": {"code": c}} for c in ("batch_expired", "x", 5)]
    statuses = [{"status_code": code, "body": body} for code in (400, 429, 500)]
    return codes + [name | {"response": each, "error": None} for each in statuses]


def test_a_request_that_is_answered_is_not_sent_again_whatever_else_is_said_of_it(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    """In any order: each row stands beside another one of the same request, or among several."""
    chance, told = random.Random(0), len(others(side, {"custom_id": ""}))

    def contradicted(rows: list[bytes]) -> list[bytes]:
        given = []
        for at, row in enumerate(rows):
            more = others(side, json.loads(row))
            more = [more[at % told]] if at < 2 * told else chance.sample(more, 3)
            both = [row, *(json.dumps(each).encode() + b"\n" for each in more)]
            given += both if at % told % 2 == at // told % 2 else both[::-1]
        return given

    path = sent(tmp_path, api, side, 2, each=3 * told)
    Oddly(api, side.rows, [lines(contradicted)] * 2, times=float("inf"))
    all_done(collect(path), api)
    assert made(api) == 2


@pytest.mark.parametrize("status", ["200", 201, "201", 299, None, "x", [], 500])
def test_a_full_answer_is_one_whatever_status_is_beside_it(
    tmp_path: Path, api: StandIn, status: Any
) -> None:
    def change(row: bytes) -> bytes:
        whole = json.loads(row)
        whole["response"]["status_code"] = status
        return json.dumps(whole).encode() + b"\n"

    path = sent(tmp_path, api, SIDES["openai"], 1)
    spoil = lines(lambda rows: [change(row) for row in rows])
    Oddly(api, "file_content", [spoil], times=float("inf"))
    all_done(collect(path), api)


def test_a_batch_whose_creation_is_told_oddly_is_found_and_not_made_twice(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    changes = [
        *WHOLE.values(), *(put("id", v) for v in ODD if not isinstance(v, str) or not v),
        status(500), status(504, "x"), moved(303, "/elsewhere"),
    ]  # fmt: skip
    rows = records(names(len(changes) + 1))
    batch = FAST | {"max_requests": 1, "listed_within_s": 60}
    path = job(tmp_path, api, side, rows, batch=batch)
    Oddly(api, side.create, changes[:-1], times=1)
    run(path)
    all_done(collect(path), api)
    assert made(api) == len(rows)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(tmp_path: Path, api: StandIn, side: Side, code: int) -> None:
    with StandIn(tmp_path / "other.jsonl") as other:
        path = sent(tmp_path / "sent", api, side, 2)
        here = Oddly(api, side.look, [moved(code, f"{other.url}/v1/x")] * 9, times=2)
        all_done(collect(path), api)
        assert here.met
        fresh = job(tmp_path / "new", api, side, records(names(2)), batch=FAST)
        Oddly(api, side.create, [moved(code, f"{other.url}/v1/x")], times=1)
        ran = run(fresh)
        assert "redirects" in (ran.summary.stopped or "")
        assert other.bill.requests(None) == []


@pytest.mark.parametrize("pause", ["inf", "1e300", "99999999", "nan", "-1"])
def test_no_pause_that_is_asked_for_is_longer_than_we_try(
    tmp_path: Path, api: StandIn, side: Side, pause: str
) -> None:
    api.twist = lambda endpoint, call, reply: (
        Reply(429, b"{}", {"retry-after": pause}) if endpoint == side.create else reply
    )
    path = job(tmp_path, api, side, batch=FAST, escalation={"retry_for_s": 1})
    ran = run(path)
    assert set(ran.waits_for().values()) == {"provider_busy"}
    assert ran.spent == 0


class Listing:
    """Two entries to a page, out of order where it likes, and every fault of a trial in it."""

    def __init__(self, side: Side, chance: random.Random) -> None:
        self.claude = side is SIDES["anthropic"]
        self.chance = chance
        self.faults = set(chance.sample(FAULTS, chance.randint(1, 4)))
        self.calls = 0

    def __call__(self, shown: list[dict[str, Any]], after: str | None) -> Any:
        self.calls += 1
        entries = [self.spoiled(dict(entry)) for entry in shown]
        if "older first" in self.faults:
            entries.reverse()
        if "foreign" in self.faults:
            nulls = dict.fromkeys(entries[0]) if entries else {}
            entries[len(entries) // 2 : 0] = [nulls | {"id": "foreign_1"}, nulls]  # type: ignore[list-item]
        ids = [entry["id"] for entry in entries]
        start = ids.index(after) + 1 if after and after in ids else 0
        page, more = entries[start : start + 2], start + 2 < len(entries)
        if "empty" in self.faults and self.chance.random() < 0.5:
            page, more = [], True
        if "endless" in self.faults and self.calls > 3:
            page, more = entries[:2], True
        last = page[-1]["id"] if page else None
        body = {"data": page, "has_more": more, "first_id": None, "last_id": last}
        if "no cursor" in self.faults:
            body |= {"last_id": None}
        if "lies about the end" in self.faults and page:
            body |= {"has_more": False}
        if "says nothing of the end" in self.faults:
            del body["has_more"]
        if "no list" in self.faults and self.chance.random() < 0.3:
            body["data"] = None
        return body

    def spoiled(self, entry: dict[str, Any]) -> dict[str, Any]:
        if "counts" in self.faults:
            counts = entry["request_counts"]
            entry["request_counts"] = self.chance.choice([dict.fromkeys(counts, 0), None, counts])
        if "metadata" in self.faults:
            entry["metadata"] = None
        if "times" in self.faults:
            entry["created_at"] = None
        if "status" in self.faults:
            entry["processing_status" if self.claude else "status"] = None
        return entry


FAULTS = [
    "older first", "foreign", "empty", "endless", "no cursor", "lies about the end",
    "says nothing of the end", "no list", "counts", "metadata", "times", "status",
]  # fmt: skip


def test_a_lost_batch_is_never_sent_again_however_odd_the_list_is(
    tmp_path: Path, api: StandIn, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 trials over both: of each search, the lost batch is the outcome, or that it cannot be
    told; never that it was not made."""
    monkeypatch.setattr(batch_listing, "MOST_PAGES", 30)
    path = sent(tmp_path, api, side, 7, each=5)
    settings = load_job(path, ()).job.escalation
    assert settings is not None
    (mark,) = query(path.parent / "run", "SELECT value FROM meta WHERE key='batches'")[0]
    shown: list[dict[str, Any]] = []
    api.twist = lambda endpoint, call, reply: (
        replace(reply, body=json.dumps(trial(shown, cursor_of(call))).encode())
        if endpoint == lists and shown
        else reply
    )
    lists = side.look.replace("retrieve", "list")

    def cursor_of(call: Call) -> str | None:
        return call.query.get("after_id", call.query.get("after"))

    async def search(lost: Lost) -> Found | None:
        try:
            return await client.find(lost)
        except CallFailed:
            return None

    async def trials() -> Iterator[tuple[str, Found | None]]:
        nonlocal client, trial
        client = build_batches(settings)
        every = await client._calls.ask(lambda: client._raw.list(limit=100))
        shown.extend(every["data"])
        found = []
        for n in range(100):
            trial = Listing(side, random.Random(n))
            number = n % 7 + 1
            lost = Lost(f"{mark}-{number}-", time.time(), frozenset())
            found.append((shown[7 - number]["id"], await search(lost)))
        await client.aclose()
        return iter(found)

    client: Any = None
    trial: Any = None
    seen = Counter[str]()
    for own, found in asyncio.run(trials()):
        if found is None or found.undecided or found.running:
            seen["undecided"] += found is None or found.id is None
        else:
            assert found.id == own
            seen["found"] += 1
    assert seen["found"] > 40


@pytest.mark.parametrize("fate", ["lost", "late", "gone", "poisoned"])
def test_of_two_batches_one_goes_wrong_and_the_other_is_collected(
    tmp_path: Path, api: StandIn, side: Side, fate: str
) -> None:
    """And all that can be read of the first, by one `escalate --wait` that ends."""
    if fate == "lost":
        api.faults.push("rst_after", endpoint=side.create)
    path = sent(tmp_path, api, side, 2, each=15)
    if fate == "late":
        where = "results_url" if side is SIDES["anthropic"] else "output_file_id"
        Oddly(api, side.look, [put(where, None)], times=6)
    elif fate == "gone":
        Oddly(api, side.look, [STATUSES["404 None"]], times=float("inf"))
    elif fate == "poisoned":
        spoil = lines(lambda rows: [b'{"custom_id":' + b"[" * 600 + b"\n", *rows[1:]])
        Oddly(api, side.rows, [spoil], times=float("inf"))
    run_dir = path.parent / "run"
    done = CliRunner().invoke(main, ["escalate", str(run_dir), "--wait"])
    assert done.exit_code == (0 if fate in ("lost", "late") else 3), done.output
    ran = Ran(run_dir, None, [], rows_of(run_dir))  # type: ignore[arg-type]
    ends = Counter(ran.ends().values())
    gone = {"gone": 15, "poisoned": 1}.get(fate, 0)
    assert ends[("done", "high_stakes")] == 30 - gone
    sound_books(ran, api)
    assert len(api.bill.requests(side.parts)) == 30
    assert gone or ran.spent == api.bill.total_usd()
    if fate != "gone":
        return
    assert "--give-up" in done.output
    ((name,),) = query(run_dir, "SELECT remote_id FROM batches WHERE state='sent'")
    wrong = CliRunner().invoke(main, ["escalate", str(run_dir), "--give-up", "nobody's"])
    assert wrong.exit_code == 2
    assert name in wrong.output
    given_up = CliRunner().invoke(main, ["escalate", str(run_dir), "--wait", "--give-up", name])
    assert given_up.exit_code == 3
    ran = replace(ran, rows=rows_of(run_dir))
    assert Counter(ran.ends().values()) == ends - Counter(
        {("waiting", "high_stakes"): 15}
    ) + Counter({("review", "reply_lost"): 15})
    sound_books(ran, api)
    assert len(api.bill.requests(side.parts)) == 30


def test_giving_up_takes_no_key(
    tmp_path: Path, api: StandIn, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sent(tmp_path, api, side, 1)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    ran = collect(path, wait=False, give_up=["1"])
    assert set(ran.ends().values()) == {("review", "reply_lost")}
    assert ran.spent > 0


@pytest.mark.parametrize("fault", ["older first", "metadata", "empty", "counts", "foreign"])
def test_a_batch_whose_id_was_lost_is_found_in_an_odd_list(
    tmp_path: Path, api: StandIn, side: Side, fault: str
) -> None:
    api.faults.push("rst_after", endpoint=side.create)
    path = sent(tmp_path, api, side, 3, each=10)
    trial = Listing(side, random.Random(1))
    trial.faults = {fault}
    shown: list[dict[str, Any]] = []

    def twist(endpoint: str, call: Call, reply: Reply) -> Reply:
        if endpoint != side.look.replace("retrieve", "list"):
            return reply
        after = call.query.get("after_id", call.query.get("after"))
        if after is None:
            shown[:] = json.loads(reply.body)["data"]
        return Reply(200, json.dumps(trial(shown, after)).encode(), reply.headers)

    api.twist = twist
    all_done(collect(path), api)
    assert made(api) == 3


@pytest.mark.process
@pytest.mark.parametrize("drops", ["\n", " ", "x", '{"custom_id": "nobody"}\n'])
def test_a_stream_that_drips_for_ever_has_an_end(
    tmp_path: Path, side: Side, drops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_calls, "UPLOAD_S", 1.0)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        with suppress(OSError, asyncio.CancelledError):
            while True:
                writer.write(drops.encode())
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    async def read() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = dict(side.settings) | {"model": "m", "base_url": url, "timeout_s": 0.5}
        api = build_batches(Escalation.model_validate(settings))
        remote = Remote("b", ended=True, files=(f"{url}/r",))
        try:
            with pytest.raises(CallFailed, match="no whole reply"):
                _ = [row async for row in api.results(replace(remote, files=("r",)))]
        finally:
            await api.aclose()
            server.close()
            await asyncio.sleep(0.1)  # the server's side of it ends, too

    asyncio.run(asyncio.wait_for(read(), 20))


@pytest.mark.slow
def test_a_cancellation_that_fails_is_tried_again(tmp_path: Path, api: StandIn, side: Side) -> None:
    api.batches.seconds = 600
    soon = {"deadline": "0.0001h", "batch": FAST | {"expect_s": 0, "live_s": 0}}
    path = job(tmp_path, api, side, lane="batch", batch=FAST)
    run(path)
    tries: list[str] = []

    def twist(endpoint: str, call: Call, reply: Reply) -> Reply:
        if endpoint == side.look.replace("retrieve", "cancel"):
            tries.append(endpoint)
            return STATUSES["404 None"](reply) if len(tries) == 1 else reply
        return reply

    api.twist = twist
    late = job(tmp_path, api, side, lane="auto", escalation=soon)
    ran = collect(late)
    assert tries
    sound_books(ran, api)
    assert set(ran.ends().values()) == {("done", "high_stakes")}


def test_what_a_former_version_poisoned_goes_to_a_person(
    tmp_path: Path, api: StandIn, side: Side
) -> None:
    """It ended a call, failed over the answer, and left the record waiting for its batch."""
    path = sent(tmp_path, api, side, 2)
    with open_ledger(path.parent / "run") as ledger:
        ((attempt, _, _), *_) = ledger.attempts.open_in(1)
        ledger.attempts.end_attempt(attempt, "settled", cost=Decimal("0.0002"))
    ran = collect(path)
    assert Counter(ran.ends().values()) == {
        ("done", "high_stakes"): 3, ("review", "reply_lost"): 1,
    }  # fmt: skip
    sound_books(ran, api)
