"""How a record ends, who decided it and why: the words of a result row.

Under each stands what the reference says of it. Of a reason: the words that a run's page has for
it; by what it is caused; and after "Mend:" what helps, where something does.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a record ends (the ``status`` of a result row)."""

    DONE = "done"
    """It has its answer."""
    WAITING = "waiting"
    """It waits for the closed model; `surelocal escalate RUN_DIR`, or the same run again, sends
    it."""
    REVIEW = "review"
    """It waits for a person; `surelocal review export` writes it out."""
    ERROR = "error"
    """No answer is possible as it is; `error` says what to mend, and the same run then does it."""


class DecidedBy(StrEnum):
    """Who gave the answer that stands (the ``decided_by`` of a result row)."""

    TEMPLATE = "template"
    """A rule's template; no model has seen the record."""
    LOCAL = "local"
    """The local model."""
    CLOSED = "closed"
    """The closed model."""
    HUMAN = "human"
    """A person, by `surelocal review import`."""


class Route(StrEnum):
    """Where a record goes before any model has seen it."""

    TEMPLATE = "template"
    LOCAL = "local"
    CLOSED = "closed"
    REVIEW = "review"


class Reason(StrEnum):
    """Why an outcome is what it is. A route rule's own ``reason:`` may stand instead."""

    TEMPLATE = "template"
    """By a template rule. A rule with `to: template` held."""
    CONFIDENT = "confident"
    """Sure enough. The local answer is valid, and its confidence reaches the threshold."""
    UNSURE = "unsure"
    """Below the threshold. The local answer's confidence does not reach it. Mend: a better prompt
    or model, or a calibration, lets more answers stand."""
    INVALID = "invalid_answer"
    """The answer was not valid. The local model's text is not what `answer` asks for: most often it
    was cut at `max_tokens`. Mend: raise `local.sampling.max_tokens`."""
    NO_CONFIDENCE = "no_confidence"
    """No confidence was to be had. The engine gave no logprobs with this answer. Mend: another
    engine, or a server that gives them; `confidence: {threshold: 0}` takes every valid answer."""
    UNCERTIFIED = "nothing_certified"
    """Nothing is certified, so nothing is accepted. The labels certify no threshold at the job's
    target, or none for this record's stratum. Mend: more labels, or a looser target."""
    AUDIT = "audit"
    """Accepted, and drawn to be audited. The closed model, or a person, checks it, and the answer
    that stands is theirs where it differs."""
    ALARM = "audit_alarm"
    """The audit's alarm stopped accepting. More audited answers were wrong than certified. Mend:
    label a sample of these records and calibrate again."""
    TEACHER = "teacher"
    """Asked for the calibration. `surelocal calibrate --teacher` drew it."""
    EXPECTED_LOSS = "expected_loss"
    """Held until the budget is divided. With `policy: budget`, whether a dollar is best spent on it
    is known once the whole batch is answered."""
    BUDGET_ELSEWHERE = "budget_elsewhere"
    """The budget did more good elsewhere. With `policy: budget`, the local answer stands. Mend: a
    higher `escalation.budget_usd`."""
    RULE = "rule"
    """By a rule of the job. A rule without a `reason` of its own held."""
    KEPT_LOCAL = "kept_local"
    """It may not leave the machine. By `privacy.keep_local` or a rule's, so a person decides what
    the local model may not."""
    NO_KEY = "no_key"
    """No API key in the environment. The variable that `escalation.api_key_env` names is not set.
    Mend: set it, and run the same command again, or `surelocal escalate`."""
    BUDGET = "budget"
    """The spending cap is reached. Not even one more request surely fits under it. Mend: a higher
    `escalation.budget_usd`, or `surelocal escalate --budget`."""
    DAILY_BUDGET = "daily_budget"
    """The day's spending cap is reached. By all runs that share the spend file. Mend: run again on
    another day (UTC), or raise `escalation.daily_budget_usd`."""
    RECORD_TOO_DEAR = "record_too_dear"
    """Dearer than one record may be. Its worst case is over `escalation.max_usd_per_record`. Mend:
    decide it by hand, or raise that cap and take a new run directory."""
    PROVIDER_HALTED = "provider_halted"
    """Sending was stopped. The provider refuses every request: the key, the account, the model's
    name; `surelocal status` has its words. Mend: what they say, then run again."""
    PROVIDER_BUSY = "provider_busy"
    """The provider is overloaded. It was for longer than `escalation.retry_for_s`. Mend: run again
    later."""
    GUARDED = "guarded"
    """Held back by the guard. More than half of the local model's last answers were cut off, not
    valid or without a confidence, and what it leaves unsure is not paid for. Mend: what
    `surelocal status` says, then run again; or `escalation: {guard: off}`."""
    PROVIDER_UNREACHABLE = "provider_unreachable"
    """The provider cannot be reached. Nobody connected there, or answered in time, for longer than
    `escalation.retry_for_s`; `surelocal status` has the address and the error. Mend: the network
    or `escalation.base_url`, then run again."""
    STOPPED = "stopped"
    """The server was stopped. It was told to end before this record was sent. Mend: ask it again
    once it is back, or `surelocal escalate`."""
    REPLY_LOST = "reply_lost"
    """Sent, and the reply was lost. It may be billed, so it counts as spent and is never sent again
    on its own. Mend: decide it by hand."""
    REJECTED = "rejected_by_provider"
    """Rejected by the provider. It refuses this one request; `error` has its words. Mend: decide it
    by hand."""
    CLOSED_INVALID = "closed_invalid"
    """The closed model's answer was not valid. It was paid for, and is not what `answer` asks for.
    Mend: decide it by hand; raise `escalation.max_tokens` for others."""
    REDACTION = "redaction_failed"
    """Its redaction would not be complete. A value of a `redact` field would still show, so it was
    not sent. Mend: decide it by hand."""
    BAD_RECORD = "bad_record"
    """The record cannot be read. No id, an id twice, broken columns or bytes. Mend: the records
    file, then run the same command again."""
    BAD_PROMPT = "bad_prompt"
    """No prompt can be made of it. A template or an expression fails on it. Mend: the record, then
    run the same command again."""
    TOO_LONG = "too_long"
    """Too long for the local model. Its prompt and `max_tokens` pass what the model can hold. Mend:
    shorten it; or say with `local.too_long` that such records go to the closed model, or to a
    person."""
    ENGINE_DIED = "engine_died"
    """The local engine died of it. Asked alone, it killed the engine again and again. Mend: change
    or shorten the record, then run the same command again."""
    SERVER_FAILED = "server_failed"
    """The local server could not answer it. It answers others, and this one it refuses, or replies
    to it with what cannot be read; `error` has its words. Mend: change or shorten the record, then
    run the same command again."""
