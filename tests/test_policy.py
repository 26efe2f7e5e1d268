"""Where a record goes before any model, and what becomes of a local answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.policy import Acceptance, Decision, Router, decide
from runner.errors import RecordError
from runner.job import Confidence, Job
from runner.types import Answer, Record, Route
from tests.fakes import JOB

RULES: list[dict[str, Any]] = [
    {"when": "kind == 'birthday'", "to": "template", "answer": "Dear {{ name }}!", "reason": "b"},
    {"when": "kind == 'legal'", "to": "closed", "reason": "high_stakes"},
    {"when": "kind == 'odd'", "to": "review"},
    {"when": "kind == 'secret'", "to": "local", "keep_local": True},
    {"when": "kind in ['legal', 'birthday', 'easy']", "to": "local"},
]


def router(rules: list[dict[str, Any]] = RULES, **privacy: Any) -> Router:
    keys = {"answer": "text", "routes": rules, "privacy": privacy}
    return Router(Job.model_validate({**JOB, **keys}))


def record(**fields: Any) -> Record:
    return Record(0, "1", {"name": "Ada", "region": "US", **fields}, 2)


@pytest.mark.parametrize(
    ("kind", "route", "reason", "may_leave"),
    [
        ("birthday", Route.TEMPLATE, "b", True),
        ("legal", Route.CLOSED, "high_stakes", True),
        ("odd", Route.REVIEW, "rule", True),
        ("secret", Route.LOCAL, "rule", False),
        ("easy", Route.LOCAL, "rule", True),
        ("else", Route.LOCAL, "confident", True),
    ],
)
def test_the_first_rule_that_matches_decides(
    kind: str, route: Route, reason: str, may_leave: bool
) -> None:
    routed = router().route(record(kind=kind))
    shown = routed.words or routed.reason
    assert (routed.route, shown, routed.may_leave) == (route, reason, may_leave)
    assert routed.value == ("Dear Ada!" if kind == "birthday" else None)


@pytest.mark.parametrize("kind", ["birthday", "legal", "odd", "secret", "easy", "else"])
def test_what_is_kept_local_never_leaves_whatever_the_rules_say(kind: str) -> None:
    routed = router(keep_local="region == 'EU'").route(record(kind=kind, region="EU"))
    assert not routed.may_leave
    assert routed.route is not Route.CLOSED
    if kind == "legal":
        assert (routed.route, routed.reason) == (Route.REVIEW, "kept_local")
    free = router(keep_local="region == 'EU'").route(record(kind="legal", region="US"))
    assert free.route is Route.CLOSED


def test_a_rule_that_fails_on_a_record_fails_closed() -> None:
    with pytest.raises(RecordError, match=r"routes\[0\]\.when names the field `kind`"):
        router().route(record())
    routed = router(keep_local="region > 3").route(record(kind="legal"))
    assert (routed.route, routed.may_leave) == (Route.REVIEW, False)


def answer(confidence: float | None = 0.8, *, valid: bool = True) -> Answer:
    return Answer("x", valid, None if valid else "is bad", {}, confidence, confidence, {}, "fake")


ACCEPT = Decision(True, False, "confident")


@pytest.mark.parametrize(
    ("given_answer", "rule", "may_leave", "decision"),
    [
        (answer(0.8), {"threshold": 0.8}, True, ACCEPT),
        (answer(0.8), {"threshold": 0.8}, False, ACCEPT),
        (answer(0.79), {"threshold": 0.8}, True, Decision(False, True, "unsure")),
        (answer(0.79), {"threshold": 0.8}, False, Decision(False, False, "kept_local")),
        (
            answer(0.79),
            {"threshold": 0.8, "below": "review"},
            True,
            Decision(False, False, "unsure"),
        ),
        (answer(0.89), {}, True, Decision(False, True, "unsure")),
        (answer(0.9), {"below": "review"}, True, ACCEPT),
        (answer(1.0, valid=False), {"threshold": 0}, True, Decision(False, True, "invalid_answer")),
        (answer(None), {"threshold": 0.1}, True, Decision(False, True, "no_confidence")),
        (answer(None), {"threshold": 0}, True, ACCEPT),
    ],
)
def test_decisions(
    given_answer: Answer, rule: dict[str, Any], may_leave: bool, decision: Decision
) -> None:
    confidence = Confidence.model_validate(rule)
    acceptance = Acceptance(confidence.threshold, confidence.below == "escalate")
    assert decide(given_answer, acceptance, may_leave=may_leave) == decision


def test_where_nothing_is_certified_nothing_is_accepted() -> None:
    decision = decide(answer(1.0), Acceptance(None), may_leave=True)
    assert decision == Decision(False, True, "nothing_certified")


@settings(deadline=None)
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["escalate", "review"]),
)
def test_what_may_not_leave_is_never_escalated_and_no_bad_answer_accepted(
    confidence: float, threshold: float, valid: bool, may_leave: bool, below: str
) -> None:
    rule = Acceptance(threshold, below == "escalate")
    decision = decide(answer(confidence, valid=valid), rule, may_leave=may_leave)
    assert decision.accept == (valid and confidence >= threshold)
    assert not (decision.escalate and (decision.accept or not may_leave or below == "review"))
