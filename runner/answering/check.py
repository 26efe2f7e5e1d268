"""Turns a completion into an `Answer`: parses and validates it, and computes signals and
confidence.

The score is the model's probability of the values it gave, under the constraint
(`runner.answering.value_probability.probability`; over all spellings, if the engine returns
alternatives). Until `escalation.certify.scorer` calibrates it, the confidence is that score,
*uncalibrated*.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from runner.answering import answer_values, value_probability
from runner.answering.schemas import Schema
from runner.formats.foreign_json import Unreadable, one_line, parse, whole
from runner.types import WHOLE, Answer, Completion, Constraint, JSONValue, Name

Values = dict[Name, answer_values.Value]

T = TypeVar("T")

_REFUSAL = re.compile(
    r"^\W*(i'?m sorry,? but|as an ai\b|i must decline"
    r"|i (can(no|')t|am (not able|unable) to|won't) (help|assist|answer|comply))",
    re.IGNORECASE,
)
_AT_ITS_LONGEST = ("length", "max_tokens")
_MOST_KNOWN, _SHORT = 4096, 1000
MOST_TEXT = 1_000_000
"""The most characters of an answer; a longer one is not useful and is slow to check."""


class Checker:
    """Checks the completions of one job, both local and closed."""

    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint
        self._schema = Schema(constraint.schema) if constraint.schema is not None else None
        self._fitting: set[str] = set()
        self._labels = frozenset(constraint.labels or ())
        self._options = _enumerated(constraint.schema or {})

    def check(self, completion: Completion) -> Answer:
        """Never raises: an unusable answer is returned as not ``valid``, with a ``problem``."""
        value, problem = self._parse(completion)
        values = {} if problem else self._values(completion)
        each = {
            name if name is WHOLE else whole(name): value_probability.value_signals(v)
            for name, v in values.items()
        }
        scores = self._scores(each)
        return Answer(
            value=value,
            valid=problem is None,
            problem=problem and one_line(problem),
            signals=flat_signals(each),
            score=scores.get(WHOLE),
            confidence=scores.get(WHOLE),
            field_confidence=of_fields(scores),
            model=completion.model,
            input_tokens=completion.usage.input_tokens,
            output_tokens=completion.usage.output_tokens,
            scores=scores,
            cut_off=problem is not None and completion.finish_reason in _AT_ITS_LONGEST,
        )

    def _parse(self, completion: Completion) -> tuple[JSONValue, str | None]:
        text = whole(completion.text.strip())
        if len(text) > MOST_TEXT:
            return text[:MOST_TEXT], f"the answer has over {MOST_TEXT:,} characters"
        if completion.finish_reason == "refusal":
            return text or None, "the model refused"
        if completion.finish_reason not in ("stop", "end_turn", "stop_sequence"):
            reached = completion.finish_reason in _AT_ITS_LONGEST
            why = "max_tokens was reached" if reached else completion.finish_reason
            return text or None, f"the answer was cut off ({why})"
        if not text:
            return None, "the answer is empty"
        if self._schema is not None:
            return self._parse_json(text, self._schema)
        if self._labels:
            return self._parse_label(text)
        return text, "the model refused" if _REFUSAL.match(text) else None

    def _parse_json(self, text: str, schema: Schema) -> tuple[JSONValue, str | None]:
        try:
            value = parse(text)
        except Unreadable:
            return text, "the answer is not JSON"
        if text in self._fitting:
            return value, None
        try:
            error = next(schema.errors(value), None)
            if error is not None and isinstance(value, dict):
                value = _fix_case(value, self.constraint.schema or {})
                error = next(schema.errors(value), None)
        except Exception as trouble:  # an unresolved `$ref`, an invalid pattern, …
            why = type(trouble).__name__ if isinstance(trouble, RecursionError) else trouble
            return value, f"the answer cannot be validated against the schema: {why}"
        if error is None:
            self._remember(text)
            return value, None
        where = ".".join(str(p) for p in error.absolute_path)
        return value, f"the answer violates the schema{f' at `{where}`' if where else ''}"

    def _remember(self, text: str) -> None:
        """Caches short valid answers, since a few recur often: each is validated once."""
        if len(self._fitting) >= _MOST_KNOWN:
            self._fitting.clear()
        if len(text) <= _SHORT:
            self._fitting.add(text)

    def _parse_label(self, text: str) -> tuple[JSONValue, str | None]:
        bare = text.strip("\"'` .\n")
        for exact in (text, bare):
            if exact in self._labels:
                return exact, None
        label = _in_other_case(bare, self._labels)
        return (label, None) if label else (text, "the answer is not one of the labels")

    def _values(self, completion: Completion) -> Values:
        """The answer's values with their tokens; empty if the logprobs cannot be assigned to
        them."""
        if not completion.logprobs:
            return {}
        found: Values
        if self._schema is None:
            found = {WHOLE: answer_values.whole_value(completion, self._labels or None)}
        elif "".join(completion.tokens) == completion.text and len(completion.tokens) == len(
            completion.logprobs
        ):
            found = answer_values.field_values(completion, self._options)
        else:
            return {}  # tokens cannot be assigned to fields
        return found if value_probability.usable(found) else {}

    def _scores(self, each: Mapping[Name, Mapping[str, float]]) -> dict[Name, float]:
        """The probability of each field's value, and of all together: the whole answer's."""
        # Free text has no single right wording, so its length must not lower the score.
        kind = "probability" if self._schema or self._labels else "mean_probability"
        fields = {name: signals_[kind] for name, signals_ in each.items() if kind in signals_}
        return {**fields, WHOLE: math.prod(fields.values())} if each else {}


def flat_signals(each: Mapping[Name, Mapping[str, float]]) -> dict[str, float]:
    """Signals by flat names: ``FIELD.signal``, or ``signal`` (without a dot) for the whole
    answer."""
    return {
        signal if name is WHOLE else f"{name}.{signal}": value
        for name, given in each.items()
        for signal, value in given.items()
    }


def of_fields(by_name: Mapping[Name, T]) -> dict[str, T]:
    """The values of fields, without the whole answer's."""
    return {name: value for name, value in by_name.items() if name is not WHOLE}


def value_of(value: JSONValue, name: Name) -> JSONValue:
    """The value for a name: `WHOLE` or a field; None if there is none."""
    if name is WHOLE:
        return value
    return value.get(name) if isinstance(value, Mapping) else None


def _enumerated(schema: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The allowed values, as JSON, of each property with an ``enum`` of strings."""
    rules = schema.get("properties") or {}
    listed = {
        n: rule["enum"] for n, rule in rules.items() if isinstance(rule, dict) and "enum" in rule
    }
    return {
        name: frozenset(json.dumps(option, ensure_ascii=False) for option in options)
        for name, options in listed.items()
        if all(isinstance(option, str) for option in options)
    }


def _fix_case(value: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces top-level enum values that differ from the schema's in case only."""
    fixed = dict(value)
    for name, rule in (schema.get("properties") or {}).items():
        options = rule.get("enum") if isinstance(rule, dict) else None
        given = value.get(name)
        if options and isinstance(given, str) and given not in options:
            fixed[name] = _in_other_case(given, options) or given
    return fixed


def _in_other_case(given: str, options: Iterable[Any]) -> str | None:
    """The only option that differs in case only; providers may change the case."""
    near = [o for o in options if isinstance(o, str) and o.casefold() == given.casefold()]
    return near[0] if len(near) == 1 else None
