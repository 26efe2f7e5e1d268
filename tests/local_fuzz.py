"""Mutated replies of a local server, through whole runs; a way of `tests.reply_fuzz`.

Each record gets an odd reply of its own, and questions of no record sound ones. However odd: no
traceback, no hang, every record has its end, and the same command again asks nothing.
"""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

from runner.types import Reason
from tests.jobs import SCHEMA, records, rows_of, run, write_job
from tests.mutants import mutate
from tests.odd_api import Odd, OddApi
from tests.odd_replies import answer_to, good, mutated, record_of
from tests.stand_in.wire import Call

_OURS = (Reason.SERVER_FAILED, Reason.BAD_PROMPT)
# What a server that is full says: the record is asked again, and then gets a sound reply.
_BUSY = (408, 409, 425, 429, 502, 503, 504, 529)
_SOUND_EVERY = 8


def hold(kind: str, seed: int, bodies: int, folder: Path) -> None:
    """Raises `AssertionError` where something must not be so. ``kind``: ``schema`` or ``text``."""
    chance = random.Random(f"{seed}:local:{kind}")
    text = json.dumps({"intent": "lost_card"}) if kind == "schema" else "hello"
    odd = {f"R-{n}": _odd(chance, text) for n in range(bodies) if n % _SOUND_EVERY}
    asked: list[str | None] = []
    lock = threading.Lock()

    def reply(call: Call) -> Odd:
        request = json.loads(call.body)
        name = record_of(request)
        with lock:
            again = name in asked
            asked.append(name)
        given = odd.get(name or "")
        if given is None or (again and given.status in _BUSY):
            return Odd(json.dumps(good(answer_to(request))).encode())
        return given

    with OddApi(reply) as api:
        job = _job(folder, f"{api.url}/v1", kind, bodies)
        options = ("escalation=null", "confidence={threshold: 0.1}")
        run(job, *options)
        sent, rows = len([name for name in asked if name]), rows_of(job.parent / "run")
        run(job, *options)
        assert len([name for name in asked if name]) == sent, "run again, it asked again"
        assert rows_of(job.parent / "run") == rows, "run again, it gave other rows"
    assert len(rows) == bodies, f"{bodies - len(rows)} records are lost"
    for name, row in rows.items():
        if name not in odd:
            assert row["status"] == "done", f"{name}, with a sound reply: {row}"
        elif row["status"] == "error":
            assert row["reason"] in _OURS, f"{name}: {row} of {odd[name]}"


def _odd(chance: random.Random, text: str) -> Odd:
    if chance.random() < 0.5:
        return mutate(chance, good(text), http=True)
    reply = mutated(text, chance)
    return Odd(reply.body, reply.status)


def _job(folder: Path, url: str, kind: str, bodies: int) -> Path:
    local = {
        "model": "m", "engine": "openai_server", "base_url": url, "window": 32,
        "engine_args": {"timeout_s": 20},
    }  # fmt: skip
    answer = {"schema": SCHEMA} if kind == "schema" else "text"
    rows = records((f"R-{n}" for n in range(bodies)), "local")
    return write_job(folder, "http://127.0.0.1:9", rows, local=local, answer=answer, routes=[])
