"""The status of a record, who decided it, and why: the values in a result row.

The text under each value is its description in the reference. For a reason, it has the words on a
run's page, the cause, and after "Fix:" the fix, if there is one.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a record ends (the ``status`` of a result row)."""

    DONE = "done"
    """It has its answer."""
    WAITING = "waiting"
    """It waits for the closed model; `surelocal escalate RUN_DIR` or running again sends it."""
    REVIEW = "review"
    """It waits for a person; `surelocal review export` exports it."""
    ERROR = "error"
    """It has no answer; `error` says what to fix, and running again then processes it."""


class DecidedBy(StrEnum):
    """Who gave the final answer (the ``decided_by`` of a result row)."""

    TEMPLATE = "template"
    """A rule's template; no model saw the record."""
    LOCAL = "local"
    """The local model."""
    CLOSED = "closed"
    """The closed model."""
    HUMAN = "human"
    """A person, through `surelocal review import`."""


class Route(StrEnum):
    """Where a record is routed before any model sees it."""

    TEMPLATE = "template"
    LOCAL = "local"
    CLOSED = "closed"
    REVIEW = "review"


class Reason(StrEnum):
    """Why a record has its outcome. The ``reason:`` of a routing rule may replace it."""

    TEMPLATE = "template"
    """By a template rule. A rule with `to: template` matched."""
    CONFIDENT = "confident"
    """Sure enough. The local answer is valid, and its confidence reaches the threshold."""
    UNSURE = "unsure"
    """Below the threshold. The local answer's confidence is below it. Fix: improve the prompt, use
    a better model, or calibrate, so that more answers are accepted."""
    INVALID = "invalid_answer"
    """The answer was not valid. The local model's text does not satisfy `answer`; most often it was
    cut off at `max_tokens`. Fix: raise `local.sampling.max_tokens`."""
    NO_CONFIDENCE = "no_confidence"
    """No confidence was to be had. The engine returned no logprobs with this answer. Fix: use an
    engine or a server that returns them; `confidence: {threshold: 0}` accepts every valid
    answer."""
    UNCERTIFIED = "nothing_certified"
    """Nothing is certified, so nothing is accepted. The labels certify no threshold at the job's
    target, or none for this record's stratum. Fix: add labels, or set a higher target error."""
    AUDIT = "audit"
    """Accepted, and drawn to be audited. The closed model or a person checks it; if their answer
    differs, it replaces the local one."""
    ALARM = "audit_alarm"
    """The audit's alarm stopped accepting. More audited answers were wrong than certified. Fix:
    label a sample of these records and calibrate again."""
    TEACHER = "teacher"
    """Asked for the calibration. `surelocal calibrate --teacher` sampled it."""
    EXPECTED_LOSS = "expected_loss"
    """Held until the budget is divided. With `policy: budget`, the budget is divided once the whole
    batch is answered."""
    BUDGET_ELSEWHERE = "budget_elsewhere"
    """The budget did more good elsewhere. With `policy: budget`, the local answer is kept. Fix:
    raise `escalation.budget_usd`."""
    RULE = "rule"
    """By a rule of the job. A rule without a `reason` matched."""
    KEPT_LOCAL = "kept_local"
    """It may not leave the machine. `privacy.keep_local` or a rule's `keep_local` applies, so a
    person decides if the local answer is not accepted."""
    NO_KEY = "no_key"
    """No API key in the environment. The variable named by `escalation.api_key_env` is not set.
    Fix: set it, then run the same command again, or `surelocal escalate`."""
    BUDGET = "budget"
    """The spending cap is reached. The worst case of one more request could exceed it. Fix: raise
    `escalation.budget_usd`, or use `surelocal escalate --budget`."""
    DAILY_BUDGET = "daily_budget"
    """The day's spending cap is reached. All runs that share the spend file count. Fix: run again
    on another day (UTC), or raise `escalation.daily_budget_usd`."""
    RECORD_TOO_DEAR = "record_too_dear"
    """Dearer than one record may be. Its worst-case cost exceeds `escalation.max_usd_per_record`.
    Fix: decide it by hand, or raise that cap and use a new run directory."""
    PROVIDER_HALTED = "provider_halted"
    """Sending was stopped. The provider refuses every request because of the key, the account or
    the model's name; `surelocal status` shows its message. Fix: correct what the message names,
    then run again."""
    PROVIDER_BUSY = "provider_busy"
    """The provider is overloaded. It was overloaded for longer than `escalation.retry_for_s`. Fix:
    run again later."""
    GUARDED = "guarded"
    """Held back by the guard. More than half of the local model's last answers were cut off, not
    valid or without a confidence, so its unsure records are not sent. Fix: do what `surelocal
    status` says, then run again; or set `escalation: {guard: off}`."""
    PROVIDER_UNREACHABLE = "provider_unreachable"
    """The provider cannot be reached. No connection was made or no answer came for longer than
    `escalation.retry_for_s`; `surelocal status` shows the address and the error. Fix: correct the
    network or `escalation.base_url`, then run again."""
    STOPPED = "stopped"
    """The server was stopped. It was stopped before this record was sent. Fix: ask it again once it
    is running, or use `surelocal escalate`."""
    REPLY_LOST = "reply_lost"
    """Sent, and the reply was lost. It may be billed, so it counts as spent and is never resent
    automatically. Fix: decide it by hand."""
    REJECTED = "rejected_by_provider"
    """Rejected by the provider. It refuses this request; `error` has its message. Fix: decide it by
    hand."""
    CLOSED_INVALID = "closed_invalid"
    """The closed model's answer was not valid. It was paid for but does not satisfy `answer`. Fix:
    decide it by hand; raise `escalation.max_tokens` for other records."""
    REDACTION = "redaction_failed"
    """Its redaction would not be complete. A value of a `redact` field would still be visible, so
    it was not sent. Fix: decide it by hand."""
    BAD_RECORD = "bad_record"
    """The record cannot be read. It has no id, a duplicate id, or malformed columns or bytes. Fix:
    correct the records file, then run the same command again."""
    BAD_PROMPT = "bad_prompt"
    """No prompt can be made of it. A template or an expression fails on it. Fix: correct the
    record, then run the same command again."""
    TOO_LONG = "too_long"
    """Too long for the local model. Its prompt plus `max_tokens` exceeds the model's context. Fix:
    shorten it, or set `local.too_long` so that such records go to the closed model or to a
    person."""
    ENGINE_DIED = "engine_died"
    """The local engine died of it. It killed the engine repeatedly, even when asked alone. Fix:
    change or shorten the record, then run the same command again."""
    SERVER_FAILED = "server_failed"
    """The local server could not answer it. It answers other records, but refuses this one or sends
    an unreadable reply; `error` has its message. Fix: change or shorten the record, then run the
    same command again."""
