"""What stands behind a run's accepted answers, in sentences for a manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.ledger.meta import Audited, Looks


def trust_words(
    certificates: Sequence[Mapping[str, Any]] | None, confidence: Mapping[str, Any]
) -> list[str]:
    """The certificates in words, or that there is none.

    Args:
        certificates: as `escalation.certify.accepted.Trust.stated` gives them.
        confidence: the job's ``confidence``.
    """
    if certificates is None and confidence.get("policy") == "budget":
        return ["The budget goes where a dollar prevents most expected loss; nothing is certified."]
    if certificates is None:
        threshold = confidence.get("threshold")
        if threshold is None:
            return []
        return [f"Accepted from an uncalibrated confidence of {threshold:g} on: nothing certified."]
    sentences = [
        sentence
        for one in certificates
        for sentence in (*_certificate(one, confidence), *_closed_alone(one))
    ]
    return sentences + _provisos(certificates, confidence)


def _certificate(one: Mapping[str, Any], confidence: Mapping[str, Any]) -> list[str]:
    labels, sure = one["labels"], 1 - one["delta"]
    target = f"{one['target_error']:.2%}"
    basis = f"by {labels:,} of {one['source']} of {one['made']}"
    basis = basis.replace("of people's labels", "people's labels")
    of = f"{confidence['strata']} = {one['stratum']}: " if confidence.get("strata") else ""
    if one.get("all_closed"):
        return [
            f"Certified {basis}: with {sure:.0%} confidence, at most {target} of all delivered "
            "answers are wrong where the closed model gives every one; so no local answer is "
            "accepted."
        ]
    if one["threshold"] is None:
        needed = one["labels_needed"]
        more = (
            f"about {needed:,} labels would be needed"
            if needed
            else "no number of labels would do: even the surest answers are wrong too often"
        )
        return [
            f"{of}No threshold can be certified at {target} {basis}; {more}. Nothing is accepted."
        ]
    return [
        f"{of}Certified {basis}: with {sure:.0%} confidence, at most {target} of "
        f"{_what(one, confidence)}{_fields(confidence)}.",
        f"In that sample {one['accepted']:,} ({one['accepted'] / labels:.1%}) were accepted, "
        f"{one['errors']:,} of them wrong{_training(one)}.",
    ]


def _closed_alone(one: Mapping[str, Any]) -> list[str]:
    """How good the closed model is by itself, where a certificate counts its mistakes too."""
    labels, errors = one["labels"], one.get("closed_errors")
    if errors is None or not labels:
        return []
    unknown = one["closed_unknown"]
    unasked = f", {unknown:,} of them for want of an answer" if unknown else ""
    return [
        f"The closed model alone got {errors:,} of the {labels:,} wrong "
        f"({errors / labels:.1%}{unasked}); with {1 - one['delta']:.0%} confidence, at most "
        f"{one['closed_upper']:.2%} of its answers{_where(one)} are wrong."
    ]


def _where(one: Mapping[str, Any]) -> str:
    return f" of this batch of {one['population']:,}" if one.get("population") else ""


def _what(one: Mapping[str, Any], confidence: Mapping[str, Any]) -> str:
    judged = "differ from the closed model's" if "closed model" in one["source"] else "are wrong"
    if confidence.get("target_error_overall") is not None:
        return f"all delivered answers, the closed model's too, {judged}"
    return f"the accepted local answers{_where(one)} {judged}"


def _fields(confidence: Mapping[str, Any]) -> str:
    fields = confidence.get("fields") or {}
    return "".join(f", and at most {target:.2%} of their `{n}`" for n, target in fields.items())


def _training(one: Mapping[str, Any]) -> str:
    training = one.get("training")
    return f" ({training:,} further labels taught it what to trust)" if training else ""


def _provisos(
    certificates: Sequence[Mapping[str, Any]], confidence: Mapping[str, Any]
) -> list[str]:
    stands = [one for one in certificates if one["threshold"] is not None or one.get("all_closed")]
    if not stands:
        return []
    joint = " all at once" if len(certificates) > 1 else ""
    if all(one.get("population") for one in stands):
        return ["It holds if the sample was drawn at random from this very batch."]
    order = ", if less sure answers are not more often right"
    if confidence.get("target_error_overall") is not None:
        order = ""
    return [f"It holds{joint} for traffic of which the sample is a random one{order}."]


def audit_words(audit: Audited | None, shift: bool) -> list[str]:
    """What the running audit found, and the test of shift."""
    words = []
    if audit is not None:
        alarm = {0: "no alarm", 1: "an alarm was raised"}.get(audit.alarms, "alarms were raised")
        words.append(
            f"Audited so far: {audit.checked:,} accepted answers, {audit.wrong:,} of them "
            f"wrong by the closed model or a person; {alarm}."
        )
    if shift:
        words.append("The records came to differ from the labelled ones while it ran.")
    return words


def looks_words(looks: Looks | None) -> list[str]:
    """What further looks cost, and what they changed."""
    if looks is None:
        return []
    return [
        f"Further looks: taken at {looks.looked:,} answers ({looks.seconds:,.1f} s of requests), "
        f"{looks.changed:,} decisions changed."
    ]
