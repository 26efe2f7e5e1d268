"""An answered request → what OpenAI's SDK expects: a completion, its chunks, or an error.

An answer that may not stand is an error unless the request asks for it: a status of 200 would hide
from every client written for OpenAI's API that nobody vouches for it. What surelocal has to say
stands under ``surelocal`` (which the SDK keeps) and in headers that begin with X-Surelocal.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from runner.results.openai_batch import chat_completion
from runner.results.rows import row
from runner.serve.answered import Answered
from runner.serve.intake import OWN_PREFIX, Asked
from runner.types import DecidedBy, Reason, Status

_OWN = ("status", "decided_by", "reason", "confidence", "field_confidence", "cost_usd")
NOT_CERTIFIED = "not_certified"
# Reason, or what a record waits for → (code, why, what helps).
_CODES: dict[str, tuple[str, str, str]] = {
    Reason.BUDGET: ("budget_exhausted", "the job's budget is spent", "raise it"),
    Reason.DAILY_BUDGET: ("budget_exhausted", "the day's budget is spent", "raise it"),
    Reason.NO_KEY: ("no_key", "there is no key for the closed model", "start the server with one"),
    Reason.PROVIDER_HALTED: (
        "provider_unavailable", "the closed model refuses all requests", "see the server's words",
    ),
    Reason.PROVIDER_BUSY: (
        "provider_unavailable", "the closed model is overloaded", "ask again later",
    ),
    Reason.GUARDED: (
        "local_model_broken", "most of the local model's answers are no good",
        "see the server's words",
    ),
    Reason.PROVIDER_UNREACHABLE: (
        "provider_unavailable", "the closed model cannot be reached", "ask again later",
    ),
    Reason.STOPPED: ("server_stopping", "the server is stopping", "ask again once it is back"),
    Reason.KEPT_LOCAL: ("kept_local", "it may not leave the machine", "let a person decide"),
    Reason.RECORD_TOO_DEAR: ("too_dear", "it could cost more than it may", "allow it more"),
}  # fmt: skip
_UNKNOWN = (NOT_CERTIFIED, "no answer was found that may stand", "let a person decide")
RETRY_AFTER_S = 15
_PLAIN = " " + string.punctuation.replace("%", "")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the API has it. ``again``: whether the SDK should try again by itself."""

    status: int
    code: str
    message: str
    again: bool = False
    retry_after_s: int | None = None
    own: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return {"error": error | ({"surelocal": self.own} if self.own else {})}

    def headers(self) -> dict[str, str]:
        found = {"x-should-retry": "true" if self.again else "false"}
        if self.retry_after_s is not None:
            found["retry-after"] = str(self.retry_after_s)
        return found


def own_words(answered: Answered, *, calibrated: bool) -> dict[str, Any]:
    """The ``surelocal`` of a reply: who decided, why, how sure, at what cost."""
    outcome = answered.outcome
    shown = row(outcome)
    found = {name: shown[name] for name in _OWN}
    found |= {"calibrated": calibrated and outcome.confidence is not None}
    if answered.waits_for is not None:
        found["waits_for"] = answered.waits_for
    return found | {"record": outcome.record_id}


def own_headers(own: dict[str, Any]) -> dict[str, str]:
    """The same in headers; a reason may be any text of the job's."""
    shown = {
        "status": own["status"],
        "decided-by": own["decided_by"] or "nobody",
        "reason": quote(own["reason"] or "", safe=_PLAIN),
        "confidence": "" if own["confidence"] is None else f"{own['confidence']:.4f}",
        "cost-usd": f"{own['cost_usd']:.8f}",
        "record": quote(own["record"], safe=_PLAIN),
    }
    return {f"x-surelocal-{name}": value for name, value in shown.items()}


def refusal(asked: Asked, answered: Answered, own: dict[str, Any]) -> Refusal | None:
    """The error that the request ends with, where it does."""
    outcome = answered.outcome
    if outcome.status is Status.DONE:
        return None
    if outcome.status is Status.ERROR:
        ours = outcome.reason in (Reason.ENGINE_DIED, Reason.SERVER_FAILED)
        fault = 500 if ours else 400
        code = str(outcome.reason)
        return Refusal(fault, code, outcome.error or "the request is in error", own=own)
    if asked.on_unsure == "answer" and answered.local is not None:
        return None
    causes = (answered.waits_for or "", outcome.reason or "")
    code, why, fix = next((_CODES[cause] for cause in causes if cause in _CODES), _UNKNOWN)
    where = "it waits for the closed model" if outcome.status is Status.WAITING else (
        "it waits for a person"
    )  # fmt: skip
    detail = f": {outcome.error}" if outcome.error else ""
    message = (
        f"{why} ({outcome.shown_reason}){detail}; {where} as record {outcome.record_id}: {fix}, "
        "or take what the local model says, unsure as it is, with `surelocal_on_unsure: answer`"
    )
    later = RETRY_AFTER_S if code == "provider_unavailable" else None
    return Refusal(503, code, message, retry_after_s=later, own=own)


def completion(answered: Answered, own: dict[str, Any]) -> dict[str, Any]:
    """The ``chat.completion``."""
    outcome = answered.outcome
    if outcome.status is not Status.DONE:
        outcome = replace(
            outcome, value=answered.local, model=answered.local_model, decided_by=DecidedBy.LOCAL
        )
    name = outcome.record_id
    if not name.startswith(OWN_PREFIX):
        name = OWN_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:32]
    body = chat_completion(outcome, name, answered.tokens)
    return body | {"created": int(time.time()), "surelocal": own}


def chunks(whole: dict[str, Any], *, include_usage: bool) -> Iterator[str]:
    """The same answer as the events of a stream."""
    shared = {key: whole[key] for key in ("id", "created", "model")}
    shared |= {"object": "chat.completion.chunk"}
    usage = {"usage": None} if include_usage else {}

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(shared | {"choices": [choice]} | usage | more)

    yield event({"role": "assistant", "content": "", "refusal": None})
    for piece in re.findall(r"\s*\S+\s*", whole["choices"][0]["message"]["content"]):
        yield event({"content": piece})
    yield event({}, whole["choices"][0]["finish_reason"], surelocal=whole["surelocal"])
    if include_usage:
        yield _event(shared | {"choices": [], "usage": whole["usage"]})
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
