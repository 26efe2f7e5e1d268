"""Mutated replies by the thousand, through whole runs: `python -m tests.reply_fuzz --bodies 10000`.

Each record of a run gets an odd reply of its own. However odd: no traceback, no hang, and every
record has its end. What a reply says that it costs is booked to the cent where it can be read, and
else its reservation; a readable answer is used, whatever its bill; any other odd reply is that one
record's, in review. The same run directory, run again, sends nothing for them.

`WAYS` are the ways that a reply comes in by.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import Egress, open_ledger, read_ledger
from tests import local_fuzz, serving
from tests.jobs import KEY, SCHEMA, query, records, run, write_job
from tests.mutants import LOST, REFUSED, RETRIED, Reading, mutate, read, sound
from tests.odd_api import Odd, OddApi
from tests.odd_batches import Batches
from tests.stand_in.wire import Call

PROVIDERS = ("anthropic", "openai")
MODELS = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol"}
HALTS = (301, 302, 307, 308, 401, 402, 403)
HALT_EVERY = 250
MOST_RUNS = 30
_MARK = re.compile(rb"<R-(\d+)>")


class Failed(AssertionError):
    """What a reply did that it must not."""


@dataclass
class Trial:
    """Some records, and the reply that each of them gets."""

    provider: str
    kind: str
    seed: int
    odd: dict[int, Odd]
    folder: Path
    asked: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, call: Call) -> Odd:
        """The record's own, and where it was asked to come again, a sound one."""
        found = _MARK.search(call.body)
        if found is None:
            return Odd(b"{}", 404)
        number = int(found[1])
        with self.lock:
            again = number in self.asked
            self.asked.append(number)
        odd = self.odd[number]
        return self.sound(number) if again and _comes_again(odd) else odd

    def sound(self, number: int) -> Odd:
        return Odd(json.dumps(sound(self.provider, number)).encode())

    @property
    def answer(self) -> dict[str, Any] | str:
        return {"schema": SCHEMA} if self.kind == "schema" else "text"


def trial(provider: str, kind: str, seed: int, bodies: int, folder: Path, *, http: bool) -> Trial:
    chance = random.Random(f"{seed}:{provider}:{kind}:{http}")
    odd = {n: mutate(chance, sound(provider, n), http=http) for n in range(bodies)}
    for number in odd:
        if http and odd[number].status in RETRIED:
            # Not bare: then it would be the provider that is in trouble, and left alone a while.
            odd[number] = replace(odd[number], headers=(("retry-after", b"0"),), ends="whole")
        if http and number % HALT_EVERY == HALT_EVERY // 2:
            odd[number] = _halting(chance, odd[number])
    return Trial(provider, kind, seed, odd, folder)


def _halting(chance: random.Random, odd: Odd) -> Odd:
    """One after which nothing more is sent by that run."""
    forever = (("retry-after", chance.choice([b"inf", b"1e300", b"9" * 50])),)
    if chance.random() < 0.3:
        return Odd(odd.body, 429, forever)
    elsewhere = (("location", b"http://127.0.0.1:9/v1/messages"),)
    return Odd(odd.body, chance.choice(HALTS), elsewhere)


def _comes_again(odd: Odd) -> bool:
    return odd.status in (*HALTS, *RETRIED)


# --- the ways -------------------------------------------------------------------------------------


def live(trial: Trial) -> Path:
    """One by one, in a run."""
    with OddApi(trial.reply) as api:
        job = write_job(
            trial.folder, _url(trial, api), records(f"R-{n}" for n in trial.odd),
            _settings(trial), answer=trial.answer, prompt={"user": "{{ message }}"},
        )  # fmt: skip
        _until_done(job)
        sent = len(trial.asked)
        before = (job.parent / "run" / "results.jsonl").read_bytes()
        run(job)
        _hold(len(trial.asked) == sent, "run again, it sent something again")
        after = (job.parent / "run" / "results.jsonl").read_bytes()
        _hold(before == after, "run again, it gave other rows")
    return job.parent / "run"


def batch(trial: Trial) -> Path:
    """In the provider's batches."""
    made = Batches(trial.provider, lambda number: trial.odd[number].body)
    with OddApi(made.reply) as api:
        settings = _settings(trial) | {
            "lane": "batch",
            "batch": {"poll_s": 0.02, "listed_within_s": 0.0},
        }
        job = write_job(
            trial.folder, _url(trial, api), records(f"R-{n}" for n in trial.odd),
            settings, answer=trial.answer, prompt={"user": "{{ message }}"},
        )  # fmt: skip
        _until_done(job, wait=True)
        sent = made.created
        run(job)
        _hold(made.created == sent, "run again, it sent something again")
    return job.parent / "run"


def serve(trial: Trial) -> Path:
    """Through a server, asked by many clients at once."""
    patch = pytest.MonkeyPatch()
    said = '{"intent": "card_arrival"}' if trial.kind == "schema" else "hello"
    with OddApi(trial.reply) as api, ThreadPoolExecutor(16) as pool:
        settings = _settings(trial) | {"max_attempts": 3}
        job = serving.write(
            trial.folder, _url(trial, api), answer=trial.answer, escalation=settings
        )
        patch.setattr("runner.serve.serving.COOL_DOWN_S", 0.0)
        try:
            with serving.serving(patch, job, serving.Echo(says=lambda text: said)) as served:

                def ask(number: int) -> None:
                    asked = serving.body(
                        f"unsure <R-{number}>", metadata={"record_id": f"R-{number}"}
                    )
                    for _ in range(MOST_RUNS):
                        reply = served.post(asked)
                        _hold(reply.status_code in (200, 503), f"R-{number}: {reply.text[:300]}")
                        error = {} if reply.status_code == 200 else reply.json()["error"]
                        if error.get("code") not in ("provider_unavailable", "busy"):
                            return

                list(pool.map(ask, trial.odd))
        finally:
            patch.undo()
    return job.parent / "run"


def journal(trial: Trial) -> Path:
    """Out of the journal of a run that was killed, as a former version wrote it."""
    with OddApi(trial.reply) as api:
        job = write_job(
            trial.folder, _url(trial, api), records(f"R-{n}" for n in trial.odd),
            _settings(trial), answer=trial.answer, prompt={"user": "{{ message }}"},
        )  # fmt: skip
        del os.environ["A_FUZZ_KEY"]
        run_dir = run(job).run_dir
        os.environ["A_FUZZ_KEY"] = KEY
        _write_journal(trial, run_dir)
        _until_done(job)
        _hold(not trial.asked, "it sent again what was sent")
    return run_dir


def _write_journal(trial: Trial, run_dir: Path) -> None:
    egress = Egress(trial.provider, MODELS[trial.provider], "http://somewhere", 9, "0" * 64)
    lines = []
    with open_ledger(run_dir) as ledger:
        for number, odd in list(trial.odd.items()):
            held = ledger.held(number)
            assert held is not None
            attempt = ledger.attempts.reserve(held.record, egress, Decimal("0.005"))
            lines.append(json.dumps({"attempt": attempt, "sent": True}))
            with suppress(ValueError, RecursionError):  # of what could not be read it wrote so
                body = json.loads(odd.body.decode("utf-8-sig"), strict=False)
                reply = {"verdict": "ok", "body": body, "request_id": "r", "problem": None}
                if isinstance(body, dict):
                    lines.append(json.dumps({"attempt": attempt, "reply": reply}))
                    # Of what the body said twice that version had the last, and no more.
                    trial.odd[number] = replace(odd, body=json.dumps(body).encode())
    (run_dir / "courier.jsonl").write_text("\n".join([*lines, '{"attempt": 7, "re']))


WAYS: dict[str, Callable[[Trial], Path]] = {
    "live": live, "serve": serve, "batch": batch, "journal": journal,
}  # fmt: skip
LOCAL = "local"
"""And by a local server: `tests.local_fuzz`."""


def _url(trial: Trial, api: OddApi) -> str:
    return api.url if trial.provider == "anthropic" else f"{api.url}/v1"


def _settings(trial: Trial) -> dict[str, Any]:
    return {
        "provider": trial.provider, "model": MODELS[trial.provider],
        "api_key_env": "A_FUZZ_KEY", "budget_usd": 10**6, "concurrency": 16, "timeout_s": 20,
    }  # fmt: skip


def _until_done(job: Path, *, wait: bool = False) -> None:
    """A run stops sending where a reply says so; the same command goes on."""
    for _ in range(MOST_RUNS):
        run(job)
        found = query(job.parent / "run", "SELECT 1 FROM outcomes WHERE status = 'waiting'")
        if not found:
            return
        if wait:
            time.sleep(0.05)
    waits = query(job.parent / "run", "SELECT record_id, waits_for FROM outcomes LIMIT 5")
    raise Failed(f"after {MOST_RUNS} runs something still waits: {waits}")


# --- what must hold -------------------------------------------------------------------------------


def _hold(true: bool, words: str) -> None:
    if not true:
        raise Failed(words)


@dataclass(frozen=True, slots=True)
class _Row:
    status: str
    states: list[str]
    cost: Decimal
    reserved: Decimal


def judge(trial: Trial, run_dir: Path, share: Decimal = Decimal(1)) -> None:
    """``share``: of the prices, that a batch costs."""
    rows = _rows(run_dir)
    least = Decimal(0)
    for number, odd in trial.odd.items():
        row = rows.get(f"R-{number}")
        _hold(row is not None, f"R-{number} is lost")
        assert row is not None
        given = trial.sound(number) if _comes_again(odd) else odd
        words = f"R-{number} of {trial.provider}, {trial.kind}, seed {trial.seed}: {row} of {odd}"
        least += _judged(row, given, read(trial.provider, given, trial.kind), share, words[:1500])
    with read_ledger(run_dir) as ledger:
        spent = ledger.attempts.committed_usd()
        _hold(ledger.prove().problem is None, "the trail does not fit the ledger")
    _hold(spent >= least, f"booked ${spent}, billed at least ${least}")


def _judged(row: _Row, odd: Odd, there: Reading, share: Decimal, words: str) -> Decimal:
    """What it is billed at least."""
    if odd.status in REFUSED or odd.status in LOST:
        cost = Decimal(0) if odd.status in REFUSED else row.reserved
        _hold((row.status, row.cost) == ("review", cost), words)
        return cost
    _hold(row.status == ("done" if there.answer else "review"), words)
    if there.usd is None:
        _hold((row.states[-1], row.cost) == ("unknown", row.reserved), words)
        return Decimal(0)
    usd = there.usd * share
    _hold(row.states[-1] == "settled", words)
    wanted = max(usd, row.reserved) if there.dearer else usd
    _hold(abs(row.cost - wanted) <= Decimal("1e-12") and row.cost >= usd, f"${usd}: {words}")
    return usd


def _rows(run_dir: Path) -> dict[str, _Row]:
    found: dict[str, _Row] = {}
    ends = query(run_dir, "SELECT record_id, status FROM outcomes")
    calls: dict[str, list[tuple[str, int, int]]] = {}
    sql = "SELECT record_id, state, COALESCE(cost, reserved), reserved FROM attempts ORDER BY id"
    for name, state, cost, reserved in query(run_dir, sql):
        calls.setdefault(name, []).append((state, cost, reserved))
    for name, status in ends:
        made = calls.get(name, [("none", 0, 0)])
        cost = sum(call[1] for call in made)
        found[name] = _Row(
            status, [c[0] for c in made], Decimal(cost) / 10**12, Decimal(made[-1][2]) / 10**12
        )
    return found


# --- by hand and in the suite ---------------------------------------------------------------------


def fuzz(way: str, provider: str, kind: str, seed: int, bodies: int, folder: Path) -> None:
    """Raises `Failed` where something must not be so."""
    if way == LOCAL:
        within(60 + bodies * 0.5, lambda: local_fuzz.hold(kind, seed, bodies, folder))
        return
    made = trial(provider, kind, seed, bodies, folder, http=way in ("live", "serve"))
    os.environ["A_FUZZ_KEY"] = KEY
    within(60 + bodies * 0.5, lambda: judge(made, WAYS[way](made), _share(way)))


def _share(way: str) -> Decimal:
    return Decimal("0.5") if way == "batch" else Decimal(1)


def within(seconds: float, work: Callable[[], None]) -> None:
    """In a thread, so that a hang is a failure and no hang."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    _hold(not thread.is_alive(), f"it hangs: not over within {seconds:g} s")
    if failed:
        raise failed[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--way", choices=[*WAYS, LOCAL], action="append")
    parser.add_argument("--at-once", type=int, default=500, help="records of one run")
    chosen = parser.parse_args()
    kinds = [
        (way, provider, kind)
        for way in chosen.way or [*WAYS, LOCAL]
        for provider in (PROVIDERS if way != LOCAL else (LOCAL,))
        for kind in ("schema", "text")
    ]
    done = wrong = seed = 0
    while done < chosen.bodies:
        way, provider, kind = kinds[seed % len(kinds)]
        bodies = min(chosen.at_once, chosen.bodies - done)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                fuzz(way, provider, kind, chosen.seed + seed, bodies, Path(folder))
                end = "good"
            except Exception as error:
                wrong, end = wrong + 1, f"WRONG: {type(error).__name__}: {error}"
        took = time.monotonic() - begun
        sys.stdout.write(f"{way} {provider} {kind}: {bodies} bodies in {took:.0f} s: {end}\n")
        sys.stdout.flush()
        done, seed = done + bodies, seed + 1
    sys.stdout.write(f"{done:,} bodies, {wrong} of {seed} runs wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
