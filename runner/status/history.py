"""One record's history, from the ledger: how it was routed, judged, asked about and decided."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import UsageError
from runner.ledger import Ledger
from runner.ledger.attempts import Call
from runner.ledger.trail import AUDIT, CALL, OUTCOME, Entry, moment
from runner.status.certificate_text import trust_words
from runner.types import DecidedBy, Outcome, Status

NEIGHBOURS = 500
MISSING = {"missing": "its row was taken out: see `surelocal status RUN_DIR --verify`"}


@dataclass(frozen=True, slots=True)
class History:
    """``routed``: by which rule of the job. ``local``: how the local answer was judged, None
    without one. ``trust``: what stands behind that threshold, in sentences. ``events``: every
    entry of the trail, oldest first."""

    outcome: Outcome
    line: int | None
    routed: Mapping[str, Any]
    local: Mapping[str, Any] | None
    trust: list[str]
    events: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        outcome = self.outcome
        return {
            "id": outcome.record_id,
            "position": outcome.position,
            "line": self.line,
            "routed": dict(self.routed),
            "local": None if self.local is None else dict(self.local),
            "trust": self.trust,
            "events": self.events,
            "decision": {
                "status": outcome.status,
                "value": outcome.value,
                "decided_by": outcome.decided_by,
                "reason": outcome.shown_reason,
                "model": outcome.model,
                "confidence": outcome.confidence,
                "cost_usd": float(outcome.cost_usd),
                "error": outcome.error,
            },
        }


def history(ledger: Ledger, record_id: str) -> History:
    """Of a ledger opened for reading. Raises `UsageError` where no record has this id."""
    with ledger.one_moment():
        return _history(ledger, record_id)


def _history(ledger: Ledger, record_id: str) -> History:
    outcome = ledger.find(record_id)
    if outcome is None:
        raise UsageError(f"no record of this run is called {record_id}{_near(ledger, record_id)}")
    job = ledger.meta.job or {}
    entries = ledger.trail.of(outcome.position)
    notes = [json.loads(entry.note) for entry in entries if entry.note]
    note: dict[str, Any] = next((n for n in reversed(notes) if "line" in n), {})
    events = list(_events(ledger, outcome, entries))
    local = _local(outcome, note, events)
    return History(
        outcome,
        note.get("line"),
        _routed(job, outcome, note),
        local,
        _trust(ledger, job, local) if local else [],
        events,
    )


def _near(ledger: Ledger, record_id: str) -> str:
    """The most alike of the ids that an index has beside this one: never all of a large run."""
    ids = ledger.reading.ids_beside(record_id, NEIGHBOURS)
    near = difflib.get_close_matches(record_id, ids, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _routed(job: Mapping[str, Any], outcome: Outcome, note: Mapping[str, Any]) -> dict[str, Any]:
    """The rule as the job has it; a job's rules cannot change within a run directory."""
    kept = {"kept_local": True} if note.get("kept_local") else {}
    if "rule" not in note:
        return {"rule": None, "when": None, "to": "local", **kept}
    rule = job["routes"][note["rule"]]
    return {"rule": note["rule"], "when": rule["when"], "to": rule["to"], **kept}


def _local(
    outcome: Outcome, note: Mapping[str, Any], events: list[dict[str, Any]]
) -> dict[str, Any] | None:
    if "threshold" not in note and "expected_loss" not in note:
        return None
    accepted = (e["value"] for e in events if e.get("decided_by") == DecidedBy.LOCAL)
    given = ("threshold", "expected_loss", "alarms", "signals")
    return {
        "answer": note["answer"] if "answer" in note else next(accepted, None),
        "score": note.get("score", outcome.confidence),
        "confidence": outcome.confidence,
        "field_confidence": dict(outcome.field_confidence),
        **{name: note[name] for name in given if name in note},
    }


def _trust(ledger: Ledger, job: Mapping[str, Any], local: Mapping[str, Any]) -> list[str]:
    """In words, the certificates of this threshold: of its stratum, where there are several."""
    stated = ledger.meta.certificate
    own = [one for one in stated or [] if one["threshold"] == local.get("threshold")]
    words = trust_words(own or stated, job.get("confidence") or {})
    if alarms := local.get("alarms"):
        words.append(f"{alarms} alarm(s) of the audit had changed what was accepted before it.")
    return words


def _events(ledger: Ledger, outcome: Outcome, entries: list[Entry]) -> Iterator[dict[str, Any]]:
    calls = {call.attempt: call for call in ledger.attempts.of(outcome.position)}
    states, begun = _states(outcome, entries), set[Any]()
    for entry in entries:
        event = {"entry": entry.seq, "time": moment(entry.at), "what": entry.kind}
        if entry.kind == OUTCOME:
            yield event | states[entry.seq]
        elif entry.kind == CALL:
            yield event | _called(entry, calls, entry.ref in begun)
            begun.add(entry.ref)
        else:
            yield event | _checked(ledger, entry)


def _called(entry: Entry, calls: Mapping[Any, Call], ended: bool) -> dict[str, Any]:
    if (call := calls.get(entry.ref)) is None:
        return MISSING
    told = {name: value for name, value in call.as_json().items() if name not in ("time", "id")}
    if not ended:
        told = {name: told[name] for name in ("provider", "model", "url", "bytes", "sha256")}
        told["state"] = "written down"
    return {"number": call.attempt, **told}


def _states(outcome: Outcome, entries: list[Entry]) -> dict[int, dict[str, Any]]:
    """What the outcome was after each of its entries: each change says what was before it."""
    now: tuple[Any, ...] = (outcome.status, outcome.shown_reason, outcome.decided_by, outcome.value)
    states: dict[int, dict[str, Any]] = {}
    for entry in reversed([entry for entry in entries if entry.kind == OUTCOME]):
        note = json.loads(entry.note or "{}")
        if entry.content is None:
            states[entry.seq] = {"status": "taken back, to be made anew"}
            now = (Status.ERROR, None, None, None)
            continue
        status, reason, by, value = now
        states[entry.seq] = {
            "status": status, "reason": reason, "decided_by": by, "value": value
        }  # fmt: skip
        now = tuple(note["was"]) if note.get("was") else now
    return states


def _checked(ledger: Ledger, entry: Entry) -> dict[str, Any]:
    """A verdict of the audit or a person's decision, as it stands."""
    if entry.kind == AUDIT:
        verdict = None if entry.position is None else ledger.audits.of(entry.position)
        if verdict is None:
            return MISSING
        told = {"who": verdict.judge, "value": verdict.value}
        return told | {"local_answer_wrong": verdict.wrong}
    review = ledger.reviews.at(entry.key)
    return MISSING if review is None else asdict(review)


def history_words(told: History) -> Iterator[str]:
    """The same for a person, line by line."""
    outcome = told.outcome
    line = "" if told.line is None else f", line {told.line} of its file"
    yield f"{outcome.record_id}: record {outcome.position + 1:,} of the input{line}"
    yield f"routed    {_routed_words(told)}"
    if told.local is not None:
        yield from _local_words(told.local)
    for sentence in told.trust:
        yield f"          {sentence}"
    for event in told.events:
        yield f"{event['time']}  entry {event['entry']:,}: {_event_words(event)}"
    by = f" by {outcome.decided_by}" if outcome.decided_by else ""
    cost = f", for ${outcome.cost_usd.normalize():f}" if outcome.cost_usd else ""
    yield f"decision  {outcome.status}{by} ({outcome.shown_reason}){cost}: {_text(outcome.value)}"
    if outcome.error:
        yield f"          {outcome.error}"


def _routed_words(told: History) -> str:
    routed = told.routed
    kept = "; it may not leave the machine" if routed.get("kept_local") else ""
    if routed["rule"] is not None:
        rule, when, to = (routed[name] for name in ("rule", "when", "to"))
        return f"by routes[{rule}] (when: {when}) to: {to}{kept}"
    if told.outcome.status is Status.ERROR:
        return f"not, or no further than to an error{kept}"
    if told.local is None:
        return f"by no rule; it was sent to the closed model for the calibration{kept}"
    return f"by no rule, so to the local model{kept}"


def _local_words(local: Mapping[str, Any]) -> Iterator[str]:
    yield f"answered  locally: {_text(local['answer'])}"
    score, confidence = local["score"], local["confidence"]
    if "expected_loss" in local:
        against = f"an expected loss of {local['expected_loss']:.6g}, to be paid for or not"
    elif local["threshold"] is None:
        against = "nothing could be accepted"
    else:
        against = f"a score is accepted from {local['threshold']:.6g} on"
    yield f"judged    score {'none' if score is None else f'{score:.6g}'}; {against}"
    if confidence is not None and confidence != score:
        # It can be the smaller one of an accepted answer, which must not look like a mistake.
        right = f"by the labels, {confidence:.1%} of such answers are right"
        yield f"          confidence {confidence:.6g}: {right}; it is the score that decides"
    if signals := local.get("signals"):
        yield f"signals   {', '.join(f'{name} {value:g}' for name, value in signals.items())}"


def _event_words(event: Mapping[str, Any]) -> str:
    what = event["what"]
    if "missing" in event:
        return f"{what}: {event['missing']}"
    if what == OUTCOME:
        by = f" by {event['decided_by']}" if event.get("decided_by") else ""
        reason = f" ({event['reason']})" if event.get("reason") else ""
        value = "" if event.get("value") is None else f": {_text(event['value'])}"
        return f"{event['status']}{by}{reason}{value}"
    if what == CALL:
        if "cost_usd" not in event:
            return (
                f"call {event['number']} written down before it was sent to {event['provider']}, "
                f"{event['model']}: {event['bytes']:,} bytes, SHA-256 {event['sha256']}"
            )
        problem = f"; {event['problem']}" if event["problem"] else ""
        return f"call {event['number']} {event['state']}, ${event['cost_usd']:.6f}{problem}"
    if what == AUDIT:
        verdict = "is wrong" if event["local_answer_wrong"] else "is right"
        return f"audit by {event['who']}: the local answer {verdict}: {_text(event['value'])}"
    note = f" ({event['note']})" if event["note"] else ""
    return f"review by {event['who']}: {_text(event['value'])}{note}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
