"""What a provider sends, at its oddest: other hosts, bodies without end, pauses without end, bills
that cannot be, and what a former version left in its journal."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.providers.anthropic import Anthropic, AnthropicWire
from escalation.providers.bodies import MOST_REPLY_BYTES
from escalation.providers.openai import OpenAI, OpenAIWire
from escalation.providers.protocol import Reply, seconds
from escalation.providers.rate_headers import anthropic_limits, openai_limits
from escalation.send.courier_journal import journaled
from runner.answering.check import MOST_TEXT, Checker
from runner.formats.foreign_json import Unreadable, one_line
from runner.job import Escalation
from runner.ledger import Egress, open_ledger
from runner.types import Constraint, Message, Prompt
from tests import serving
from tests.fakes import completion, surelocal
from tests.jobs import KEY, Ran, query, records, run, write_job
from tests.mutants import sound
from tests.odd_api import Odd, OddApi
from tests.odd_batches import Batches
from tests.odd_replies import COOKIES
from tests.stand_in.wire import Call

PROVIDERS = ("anthropic", "openai")
MODELS = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol"}
PROMPT = Prompt((Message("user", "where is my card"),))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)


def url_of(provider: str, api: OddApi) -> str:
    return api.url if provider == "anthropic" else f"{api.url}/v1"


def odd_job(folder: Path, provider: str, api: OddApi, names: Iterable[str], **more: Any) -> Path:
    parts = {"provider": provider, "model": MODELS[provider], "api_key_env": "A_KEY", **more}
    return write_job(folder / "job", url_of(provider, api), records(names), parts)


def replying(*odd: Odd | bytes) -> Callable[[Call], Odd]:
    """These in turn, the last again and again."""
    left = [each if isinstance(each, Odd) else Odd(each) for each in odd]
    return lambda call: left.pop(0) if len(left) > 1 else left[0]


def sent(provider: str, api: OddApi, timeout_s: float = 20.0) -> Reply:
    """The reply to one request, through the real SDK in this process."""

    async def main() -> Reply:
        wire: AnthropicWire | OpenAIWire
        given = {"provider": provider, "model": MODELS[provider], "api_key_env": "A_KEY"}
        escalation = Escalation.model_validate(given)
        url = url_of(provider, api)
        if provider == "anthropic":
            request = Anthropic(escalation).request(PROMPT)
            wire = AnthropicWire(url, "A_KEY", timeout_s, 2)
        else:
            request, wire = (
                OpenAI(escalation).request(PROMPT),
                OpenAIWire(url, "A_KEY", timeout_s, 2),
            )
        try:
            return await wire.send(request)
        finally:
            await wire.aclose()

    return asyncio.run(main())


# --- where it goes --------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_no_text_goes_where_a_redirect_points(provider: str, status: int) -> None:
    with OddApi(replying(b"{}")) as other:
        for place in (f"{other.url}/v1", "http://[", "\x7f", "/here", ""):
            location = (("location", place.encode()),)
            with OddApi(replying(Odd(b"", status, location))) as api:
                reply = sent(provider, api)
            assert (reply.verdict, reply.body) == ("halt", None)
            assert "`escalation.base_url` redirects to" in (reply.problem or "")
            assert reply.problem is not None and reply.problem.isprintable()
        assert not other.seen


@pytest.mark.process
@pytest.mark.parametrize("lane", ["live", "batch"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_cookie_of_one_reply_goes_out_with_the_next(
    provider: str, lane: str, tmp_path: Path
) -> None:
    sent_back: list[str] = []
    batches = Batches(provider, lambda number: json.dumps(sound(provider, number)).encode())
    cookies = itertools.cycle(("set-cookie", cookie.encode()) for cookie in COOKIES)

    def reply(call: Call) -> Odd:
        sent_back.extend([call.headers["cookie"]] if "cookie" in call.headers else [])
        answer = Odd(json.dumps(sound(provider, 0)).encode())
        odd = answer if lane == "live" else batches.reply(call)
        return replace(odd, headers=(*odd.headers, next(cookies)))

    names = [f"R-{number}" for number in range(2 * len(COOKIES))]
    batch = {"poll_s": 0.02, "max_requests": 4}
    more = {"concurrency": 1, "lane": lane, "batch": batch}
    with OddApi(reply) as api:
        job = odd_job(tmp_path, provider, api, names, **more)
        ran = run(job) if lane == "live" else (run(job), run(job, again=True))[1]
    assert sent_back == []
    assert set(ran.ends().values()) == {("done", "high_stakes")}


# --- how much, and for how long -------------------------------------------------------------------


def endless(head: bytes, piece: bytes) -> Callable[[Call], Iterable[bytes]]:
    def pieces() -> Iterator[bytes]:
        yield b"HTTP/1.1 " + head + b"\r\nconnection: close\r\n\r\n"
        while True:
            yield piece

    return lambda call: pieces()


@pytest.mark.process
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("head", "piece", "verdict"),
    [
        (b"200 OK", b" " * 1_000_000, "unknown"),
        (b"400 Odd", b"[" * 1_000_000, "reject"),
        (b"200 OK\r\ncontent-encoding: gzip", gzip.compress(b" " * 50_000_000), "unknown"),
        (b"429 Odd\r\ncontent-encoding: gzip", gzip.compress(b" " * 50_000_000), "retry"),
        (b"200 OK\r\ncontent-encoding: br", b"x" * 1000, "unknown"),
    ],
)
def test_a_body_without_end_is_not_read_to_its_end(
    provider: str, head: bytes, piece: bytes, verdict: str
) -> None:
    with OddApi(endless(head, piece)) as api:
        reply = sent(provider, api)
    assert reply.verdict == verdict, reply
    if verdict == "unknown":
        assert f"over {MOST_REPLY_BYTES:,} bytes" in str(reply.problem) or "packed" in str(
            reply.problem
        )


@pytest.mark.process
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "words", ["x" * 10_000, "\x1b[31m\n\u2028\ud800\x00 no", 5, ["a"], {}, None]
)
def test_an_error_is_one_short_line(provider: str, words: object) -> None:
    body = json.dumps(
        {"type": "error", "error": {"type": words, "message": words}, "detail": words}
    )
    for content in (body.encode(), b"[" * 500 + b"]" * 500, b"[" * 50_000, b"\xff\xfe"):
        utf_16 = (("content-type", b"application/json; charset=utf-16"),)
        with OddApi(replying(Odd(content, 400, utf_16))) as api:
            reply = sent(provider, api)
        assert reply.verdict == "reject" and reply.problem is not None
        assert reply.problem.startswith("400") and reply.problem.isprintable()
        assert len(reply.problem) < 600


@given(st.one_of(st.text(), st.floats(), st.integers(), st.sampled_from(["inf", "-1", "nan"])))
def test_a_pause_is_a_number_of_seconds_or_nothing(header: object) -> None:
    pause = seconds(header)
    assert pause is None or (math.isfinite(pause) and pause >= 0)


NUMBERS = st.sampled_from(
    ["inf", "nan", "-1", "1e308", "9" * 400, "0", "5", "5s", "0001-01-01", ""]
)
LIMITS = ["requests", "tokens", "input-tokens", "output-tokens"]


@given(st.data())
def test_whatever_the_rate_limit_headers_say_is_finite(data: st.DataObject) -> None:
    value = st.one_of(st.text(), NUMBERS, st.sampled_from(["0001-01-01T00:00:00+23:59", "9d"]))
    names = [
        f"anthropic-ratelimit-{n}-{p}" for n in LIMITS for p in ("limit", "remaining", "reset")
    ]
    names += [f"x-ratelimit-{p}-{n}" for n in LIMITS for p in ("limit", "remaining", "reset")]
    headers = {name: data.draw(value) for name in [*names, "date"]}
    for found in (anthropic_limits(headers), openai_limits(headers)):
        assert all(math.isfinite(each) for row in found.values() for each in row)


@pytest.mark.process
def test_no_pause_blocks_a_server_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for_ever = (
        ("retry-after", b"inf"),
        ("anthropic-ratelimit-requests-limit", b"5"),
        ("anthropic-ratelimit-requests-remaining", b"0"),
        ("anthropic-ratelimit-requests-reset", b"9999-01-01T00:00:00Z"),
    )
    whole = json.dumps(sound("anthropic", 1)).encode()
    monkeypatch.setattr("runner.serve.serving.COOL_DOWN_S", 0.0)
    with OddApi(replying(Odd(b"{}", 429, for_ever), Odd(whole, 200, for_ever), whole)) as api:
        job = serving.write(tmp_path, api.url, escalation={"api_key_env": "A_KEY"})
        with serving.serving(monkeypatch, job, serving.Echo()) as served:
            assert served.post(serving.body("unsure 1")).status_code == 503
            codes = [served.post(serving.body(f"unsure {n}")).status_code for n in (2, 3, 4)]
            assert codes.count(200) >= 2, codes
            assert codes[-1] == 200


# --- what it costs --------------------------------------------------------------------------------


def bill(number: int, **usage: Any) -> bytes:
    body = sound("anthropic", number)
    body["usage"] |= usage
    return json.dumps(body).encode()


@pytest.mark.process
def test_what_is_served_elsewhere_or_otherwise_is_never_booked_too_low(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {}, {"inference_geo": "us"}, {"inference_geo": "mars"}, {"service_tier": "priority"},
        {"speed": "fast", "output_tokens": 10_000}, {"output_tokens": 10**9}, {"output_tokens": -5},
        {"cache_creation_input_tokens": 0, "cache_creation": {"ephemeral_1h_input_tokens": 100}},
        {"cache_read_input_tokens": None, "cache_creation": None}, {"inference_geo": ["us"]},
    ]  # fmt: skip
    with OddApi(lambda call: Odd(bill(1, **given[int(marker(call))]))) as api:
        job = odd_job(tmp_path, "anthropic", api, map(str, range(len(given))), budget_usd=99_999)
        ran = run(job)
    assert {row["status"] for row in ran.rows.values()} == {"done"}
    sql = "SELECT record_id, cost, reserved, state FROM attempts"
    rows = {
        int(n): (Decimal(c) / 10**12, Decimal(r) / 10**12, s)
        for n, c, r, s in query(ran.run_dir, sql)
    }
    usual = (21 * 2 + 9 * 10 + 10 * Decimal("2.5") + 5 * Decimal("0.1")) / 10**6
    reserved = rows[0][1]
    wanted = [
        usual, usual * Decimal("1.1"), reserved, reserved,
        max(reserved, usual + Decimal(9991 * 10) / 10**6), usual + Decimal(10**9 - 9) / 10**5,
        reserved, (21 * 2 + 90 + 400 + Decimal("0.5")) / 10**6, usual - Decimal("0.0000005"),
        reserved,
    ]  # fmt: skip
    for number, usd in enumerate(wanted):
        cost, _, state = rows[number]
        assert abs(cost - usd) <= Decimal("1e-12"), (given[number], cost, usd)
        assert state == ("unknown" if number == 6 else "settled")
    assert ran.spent == sum(cost for cost, _, _ in rows.values())


def marker(call: Call) -> str:
    return str(json.loads(call.body)["messages"][0]["content"]).split(">")[0].removeprefix("<")


@given(JSON)
def test_a_reply_of_another_version_is_one_or_unreadable(value: object) -> None:
    for given_ in (value, {"verdict": "ok", "body": value, "limits": value, "problem": value}):
        try:
            reply = Reply.from_json(given_)
        except Unreadable as error:
            assert one_line(str(error)).isprintable()
        else:
            assert reply.problem is None or reply.problem.isprintable()
            again = Reply.from_json(json.loads(json.dumps(reply.as_json())))
            assert json.dumps(again.body) == json.dumps(reply.body)  # NaN is not equal to itself


# --- what a former version left -------------------------------------------------------------------

_REPLY = b'{"attempt": %d, "reply": '
LEFT: list[tuple[bytes, str]] = [
    (b'{"attempt": %d, "sent": true}', "unknown"),
    (_REPLY + b'{"verdict": "ok", "body": {"usage": {"input_tokens": [1]}}}}', "unknown"),
    (_REPLY + b'{"verdict": "ok", "body": ' + b'{"a":' * 500 + b"1" + b"}" * 502, "unknown"),
    (_REPLY + b'{"verdict": "ok", "body": [1]}}', "unknown"),
    (_REPLY + b'{"verdict": ["ok"], "body": {}}}', "unknown"),
    (_REPLY + b'{"verdict": "ok"}}', "unknown"),
    (_REPLY + b"null}", "unknown"),
    (_REPLY + b'{"verdict": "unknown", "problem": "\\ud800\\u001b[31m"}}', "unknown"),
    (_REPLY + b'{"verdict": "reject", "problem": {"a": 1}, "more": 7}}', "released"),
    (_REPLY + b'{"verdict": "ok", "body": {"usage": NaN, "content": "x"}}}', "unknown"),
    (_REPLY + b'{"verdict": "ok", "retry_after_s": Infinity, "body": \xff}}', "unknown"),
]
STRAY = [
    b"[]",
    b"null",
    b'{"attempt": "1", "sent": true}',
    b'{"sent": true}',
    b"",
    b"\xff\xfe",
    b"{" * 9,
]


def poisoned(folder: Path, api: OddApi, lines: list[bytes], patch: pytest.MonkeyPatch) -> Path:
    """A run directory whose run was killed with every call open, and these lines in its journal."""
    names = [f"R-{n}" for n in range(len(lines))]
    job = odd_job(folder, "anthropic", api, names)
    with patch.context() as without:
        without.delenv("A_KEY")
        run_dir = run(job).run_dir
    egress = Egress("anthropic", MODELS["anthropic"], "http://somewhere", 9, "0" * 64)
    with open_ledger(run_dir) as ledger:
        for number in range(len(lines)):
            held = ledger.held(number)
            assert held is not None
            ledger.attempts.reserve(held.record, egress, Decimal("0.01"))
    (run_dir / "courier.jsonl").write_bytes(b"\n".join([*lines, b""]))
    return job


@pytest.mark.process
def test_a_poisoned_run_directory_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OddApi(replying(json.dumps(sound("anthropic", 1)).encode())) as api:
        lines = [line.replace(b"%d", b"%d" % n) for n, (line, _) in enumerate(LEFT, start=1)]
        job = poisoned(tmp_path, api, lines, monkeypatch)
        ran = run(job)
        assert not api.seen
        for number, (_, state) in enumerate(LEFT):
            sql = f"SELECT state, cost FROM attempts WHERE record_id = 'R-{number}'"
            cost = 10**10 if state == "unknown" else 0
            assert query(ran.run_dir, sql) == [(state, cost)], LEFT[number]
            assert ran.rows[f"R-{number}"]["status"] == "review"
            assert str(ran.rows[f"R-{number}"]["error"]).isprintable()
        assert run(job).rows == ran.rows and not api.seen
        shown(ran)


@pytest.mark.parametrize("stray", STRAY)
def test_a_line_that_does_not_say_whose_it_is_may_be_anybody_s(
    tmp_path: Path, stray: bytes
) -> None:
    sent_1 = b'{"attempt": 1, "sent": true}'
    for lines, doubtful in (([sent_1, stray], True), ([sent_1], False)):
        (tmp_path / "courier.jsonl").write_bytes(b"\n".join([*lines, b'{"attempt": 2, "se']))
        replies, doubt = journaled(tmp_path)
        assert ([*replies], doubt) == ([1], doubtful)
        assert replies[1].verdict == "unknown"


def shown(ran: Ran) -> None:
    """Whatever is made of a run's results can be made."""
    for command in (["status"], ["report"], ["export", "-o", ran.run_dir / "out.csv"],
                    ["export", "-o", ran.run_dir / "out.parquet"]):  # fmt: skip
        name, *options = command
        result = surelocal(name, ran.run_dir, *options)
        assert result.exit_code in (0, 3), result.stderr


# --- the answer itself ----------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "multipleOf": 3},
        "list": {"type": "array", "uniqueItems": True},
        "deep": {"$ref": "#/$defs/deep"},
    },
    "$defs": {
        "deep": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/deep"}}]}
    },
}  # fmt: skip
CHECKERS = [
    Checker(Constraint(SCHEMA)),
    Checker(Constraint(labels=("a", "b"))),
    Checker(Constraint()),
]
TEXTS = [
    "[" * 1000, "(" * 1000 + "[" * 1000, '{"a":' * 100_000, "[" * 99 + "]" * 99, "NaN", "-Infinity",
    "9" * 5000, '{"n": ' + "9" * 4000 + "}", '{"n": 1e308}', '{"n": 1e999}', "\ud800",
    "\x00\x1b[31m", '{"\\ud800": "\\udfff"}', '{"deep": ' + "[" * 98 + "]" * 98 + "}",
    "a" * (MOST_TEXT + 1),
    '{"list": [' + ",".join(f'{{"a": {n}}}' for n in range(60_000)) + "]}",
    '{"list": [' + ",".join("[" * 50 + f"{n}" + "]" * 50 for n in range(5000)) + "]}",
]  # fmt: skip


@pytest.mark.parametrize(
    "text", TEXTS, ids=lambda text: text[:12].encode("unicode_escape").decode()
)
def test_no_answer_is_too_odd_to_be_checked_and_stored(text: str) -> None:
    for checker in CHECKERS:
        answer = checker.check(completion(text, [-0.1]))
        whole = [answer.value, answer.problem, dict(answer.signals)]
        json.dumps(whole, ensure_ascii=False, allow_nan=False).encode()
        assert answer.problem is None or answer.problem.isprintable()


@pytest.mark.parametrize(
    ("items", "differ"),
    [("1, 1.0", False), ("1, true", True), ('{"a": 1, "b": 2}, {"b": 2, "a": 1.0}', False),
     ('"1", 1', True), ("[], {}", True), ("null, null", False), ("0, false", True)],
)  # fmt: skip
def test_items_differ_as_json_schema_has_it(items: str, differ: bool) -> None:
    answer = CHECKERS[0].check(completion(f'{{"list": [{items}]}}'))
    assert answer.valid == differ, answer


@settings(max_examples=30)
@given(st.text())
def test_a_line_of_somebody_else_s_words_is_printable(text: str) -> None:
    assert one_line(text).isprintable() and len(one_line(text, 50)) <= 51
