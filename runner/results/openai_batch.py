"""Results as OpenAI's batch API writes them: a line for each request, with a chat completion in it.

What surelocal has to say besides stands under a key of its own, `surelocal`, which readers of
such files pass over. Ids are made from the record, and ``created`` is 0: the API says no more of
it than that it is a time, and a rerun must write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from runner.errors import UsageError
from runner.job import Job
from runner.job.records import BATCH
from runner.ledger import Ledger
from runner.ledger.bills import NO_TOKENS, Tokens
from runner.ledger.trail import OUTCOME
from runner.records.source import job_records
from runner.results.rows import row
from runner.types import DecidedBy, Outcome, Status

T = TypeVar("T")
_OWN = ("status", "decided_by", "reason", "confidence", "field_confidence", "cost_usd")
_WAITING = {
    Status.WAITING: "waits for the closed model",
    Status.REVIEW: "waits for a person",
    Status.ERROR: "is in error",
}


def batch_lines(ledger: Ledger, job: Job) -> Iterator[dict[str, Any]]:
    """All results as lines, in input order."""
    sorted_anew = ledger.places.sorted_anew
    models = _by_position(_models(ledger, job), sorted_anew)
    tokens = _by_position(_tokens(ledger), sorted_anew)
    for outcome in ledger.outcomes():
        usage = None
        if outcome.decided_by is DecidedBy.CLOSED:
            usage = ledger.bills.answer_tokens(outcome.position)
        elif outcome.decided_by is DecidedBy.LOCAL:
            usage = tokens(outcome.position)
        yield _line(outcome, usage or NO_TOKENS, models(outcome.position))


def _line(outcome: Outcome, usage: Tokens, asked: str | None) -> dict[str, Any]:
    mark = hashlib.sha256(f"{outcome.position} {outcome.record_id}".encode()).hexdigest()[:32]
    done = outcome.status is Status.DONE
    response, error = None, None
    if done:
        body = chat_completion(outcome, f"chatcmpl-{mark}", usage)
        response = {"status_code": 200, "request_id": f"req_{mark}", "body": body}
    else:
        why = f"it {_WAITING[outcome.status]} ({outcome.shown_reason})"
        code = outcome.shown_reason or str(outcome.status)
        error = {"code": code, "message": outcome.error or why}
    own = row(outcome)
    return {
        "id": f"batch_req_{mark}",
        "custom_id": outcome.record_id,
        "response": response,
        "error": error,
        "surelocal": {name: own[name] for name in _OWN} | {"asked_for": asked},
    }


def chat_completion(outcome: Outcome, name: str, usage: Tokens) -> dict[str, Any]:
    """The answer as the API's ``chat.completion``."""
    value, (prompt, cached, made) = outcome.value, usage
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {
        "id": name,
        "object": "chat.completion",
        "created": 0,
        "model": outcome.model or f"surelocal-{outcome.decided_by}",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def _models(ledger: Ledger, job: Job) -> Iterator[tuple[int, str]]:
    """(position, the model that the line asks for), as long as the file is there to be read."""
    if job.records.path is None or job.records.format != BATCH:
        return
    try:
        for record in ledger.places.numbered(job_records(job)):
            body = record.fields.get("body")
            asked = body.get("model") if isinstance(body, dict) else None
            if isinstance(asked, str):
                yield record.position, asked
    except UsageError:
        return


def _tokens(ledger: Ledger) -> Iterator[tuple[int, Tokens]]:
    """(position, tokens) of every local answer."""
    for position, note in ledger.trail.notes(OUTCOME):
        if counted := json.loads(note).get("tokens"):
            yield position, Tokens(counted[0], 0, counted[1])


def _by_position(stream: Iterator[tuple[int, T]], sorted_anew: bool) -> Callable[[int], T | None]:
    return dict(stream).get if sorted_anew else _ByPosition(stream)


class _ByPosition(Generic[T]):
    """A stream in input order, asked for positions in that order; the last of several counts."""

    def __init__(self, stream: Iterator[tuple[int, T]]) -> None:
        self._stream = stream
        self._next = next(stream, None)

    def __call__(self, position: int) -> T | None:
        found = None
        while self._next is not None and self._next[0] <= position:
            if self._next[0] == position:
                found = self._next[1]
            self._next = next(self._stream, None)
        return found
