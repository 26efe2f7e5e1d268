"""What can be known of a job to be wrong before any model is loaded, all of it at once."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from unicodedata import category, normalize

from jinja2 import TemplateSyntaxError

from escalation.providers.prices import price_of
from runner.answering.prompts import template_mistakes
from runner.answering.schema_sense import senseless
from runner.answering.template_answers import TemplateAnswer
from runner.errors import JobError, MissingExtra, UsageError
from runner.formats.near_names import likely, listed
from runner.job import Job
from runner.job.file import JobFile, Location, line_number
from runner.pipeline import assemble
from runner.records.looking import LOOKED_AT, Looking
from runner.records.source import job_columns, job_kinds
from runner.results.table import table_problem
from runner.templates.column_kinds import Kind, kind_mistakes

Mistake = tuple[Location, str]


def check_job(
    file: JobFile, *, calibrated: bool = True, served: bool = False, answers: bool = True
) -> None:
    """Raises `JobError` with every mistake, each with its line; needs the records, no model. Those
    that reading the file found are among them; what follows from one of these alone is not.

    ``calibrated``: whether a job with a target error must have its calibration already.
    ``served``: requests are its records, and the job's own are not looked at. ``answers``: whether
    a rule's answer that is none of the job's is a mistake already; in a run it is its records'.
    """
    found = list(_mistakes(file.job, file.broken, served=served))
    if calibrated and not file.mistakes:
        found += _calibration(file.job)
    if answers and not {"answer", "routes"}.intersection(file.broken):
        found += _answers(file.job)
    mistakes = [*file.mistakes, *(file.at(location, message) for location, message in found)]
    if mistakes:
        raise JobError(str(file.path), sorted(mistakes, key=line_number))


def check_thoroughly(file: JobFile) -> str:
    """What takes the engine's and the provider's own libraries, which is seconds; for a job that
    `check_job` lets pass. Returns what could not be looked at.

    Raises:
        JobError: what they would refuse.
    """
    found: list[Mistake] = []
    try:
        refused, unseen = assemble.refused_by_engine(file.job)
    except MissingExtra as missing:
        refused, unseen = "", str(missing)
    if refused:
        ours = refused.startswith("local.sampling")
        found.append((("local", "sampling") if ours else ("answer",), refused))
    if refusal := assemble.refused_by_closed(file.job):
        found.append((("answer",), refusal))
    if found:
        mistakes = [file.at(location, message) for location, message in found]
        raise JobError(str(file.path), sorted(mistakes, key=line_number))
    return unseen


def first_look(job: Job) -> list[str]:
    """What is no mistake of the job's, and yet good to know: of its first records."""
    looking = Looking()
    deque(looking.through(assemble.records(job, LOOKED_AT, looking.say)), maxlen=0)
    return looking.told()


def _mistakes(job: Job, broken: Collection[str], *, served: bool) -> Iterator[Mistake]:
    columns: list[str] | None = None
    kinds: Mapping[str, Kind] = {}
    try:
        if not served and "records" not in broken:
            columns = job_columns(job)
            kinds = job_kinds(job)
            next(assemble.records(job), None)
    except UsageError as error:
        yield ("records",), str(error)
    yield from _types(job, columns)
    yield from _kinds(job, kinds)
    yield from _templates(job, columns)
    yield from _privacy(job, columns)
    yield from _confidence(job, columns, broken)
    if "answer" not in broken:
        yield from _answer(job)
    if not {"output", "records"}.intersection(broken):
        yield from _output(job)
    path_of_model = job.model_path() if "local" not in broken else None
    if path_of_model is not None and (mistake := assemble.model_mistake(path_of_model)):
        yield ("local", "model"), f"`local.model`: {mistake}"
    if job.escalation is not None and "escalation" not in broken:
        try:
            price_of(job.escalation)
        except UsageError as error:
            yield ("escalation", "model"), f"`escalation.model`: {error}"
        # Rules that are in a provider's package take seconds to import.
        cheap = not job.escalation.entry.rules_in_sdk and "answer" not in broken
        if cheap and (refusal := assemble.refused_by_closed(job)):
            yield ("answer", "schema"), refusal


def _answer(job: Job) -> Iterator[Mistake]:
    for place, said in senseless(job.answer.json_schema or {}):
        named = f" at `{'.'.join(map(str, place[:-1]))}`" if place[:-1] else ""
        yield ("answer", "schema", *place), f"`answer.schema`{named}: {said}"
    for n, label in enumerate(job.answer.labels or ()):
        if label != label.strip():
            yield (
                ("answer", "labels", n),
                f"`answer.labels` has {label!r}, with white space around it: take it away",
            )
    seen: dict[str, str] = {}
    for n, label in enumerate(job.answer.labels or ()):
        other = seen.setdefault(_as_read(label), label)
        if other != label and label == label.strip():
            said = f"`answer.labels` has {other!a} and {label!a}, which read the same: keep one"
            yield ("answer", "labels", n), said


def _as_read(label: str) -> str:
    """As a person reads it: one spelling of each sign, and none that nobody sees."""
    return "".join(c for c in normalize("NFC", label) if category(c) != "Cf").strip()


def _output(job: Job) -> Iterator[Mistake]:
    if job.output.table is not None:
        try:
            if problem := table_problem(job):
                yield ("output", "table"), f"`output.table`: {problem}"
        except UsageError as error:
            yield ("output",), str(error)


def _calibration(job: Job) -> Iterator[Mistake]:
    if job.confidence.certifies or job.confidence.policy == "budget":
        try:
            assemble.trust(job)
        except UsageError as error:
            yield ("confidence", "calibration"), f"`confidence.calibration`: {error}"


def _answers(job: Job) -> Iterator[Mistake]:
    for n, rule in enumerate(job.routes):
        if rule.answer is None:
            continue
        with suppress(TemplateSyntaxError, SyntaxError, ValueError, RecursionError):
            made = TemplateAnswer(rule.answer, f"routes[{n}].answer", job.answer.constraint())
            if mistake := made.mistake():
                yield ("routes", n, "answer"), mistake


def _types(job: Job, columns: list[str] | None) -> Iterator[Mistake]:
    for name in job.records.types:
        if columns is not None and name not in columns:
            near = likely(name, columns)
            hint = f"did you mean `{near}`?" if near else f"they have: {listed(columns)}"
            yield (
                ("records", "types", name),
                f"`records.types` names the column `{name}`, which the records lack; {hint}",
            )


def _kinds(job: Job, kinds: Mapping[str, Kind]) -> Iterator[Mistake]:
    """What the columns' kinds alone make pointless."""
    decide: list[tuple[Location, str | None]] = [
        (("privacy", "keep_local"), job.privacy.keep_local)
    ]
    decide += [(("routes", n, "when"), rule.when) for n, rule in enumerate(job.routes)]
    fill: list[tuple[Location, str | None]] = [
        (("confidence", name), value and "{{ " + value + " }}")
        for name in ("stakes", "strata")
        if (value := getattr(job.confidence, name)) is not None
    ]
    fill += [(("prompt", name), getattr(job.prompt, name, None)) for name in ("system", "user")]
    for at, text in decide + fill:
        name = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, at)))
        for mistake in (
            kind_mistakes(text or "", name, kinds, decides=(at, text) in decide) if text else ()
        ):
            yield at, mistake


def _templates(job: Job, columns: list[str] | None) -> Iterator[Mistake]:
    for name in ("system", "user"):
        text = getattr(job.prompt, name, None)
        if text is not None:
            for mistake in template_mistakes(text, f"prompt.{name}", columns):
                yield ("prompt", name), mistake
    for n, rule in enumerate(job.routes):
        where = f"routes[{n}]"
        for mistake in template_mistakes(rule.when, f"{where}.when", columns, expression=True):
            yield ("routes", n, "when"), mistake
        answer = rule.answer if isinstance(rule.answer, dict) else {"": rule.answer}
        for text in answer.values():
            if isinstance(text, str):
                for mistake in template_mistakes(text, f"{where}.answer", columns):
                    yield ("routes", n, "answer"), mistake


def _confidence(job: Job, columns: list[str] | None, broken: Collection[str]) -> Iterator[Mistake]:
    rule = job.confidence
    for name in ("stakes", "strata"):
        text, where = getattr(rule, name), f"confidence.{name}"
        for mistake in template_mistakes(text or "1", where, columns, expression=True):
            yield ("confidence", name), mistake
    for n, text in enumerate(rule.looks.wordings):
        for mistake in template_mistakes(text, f"confidence.looks.wordings[{n}]", columns):
            yield ("confidence", "looks", "wordings", n), mistake
    if not {"confidence", "escalation"}.intersection(broken):
        yield from _needs(job)
    if "answer" not in broken:
        yield from _known_fields(job)


def _needs(job: Job) -> Iterator[Mistake]:
    rule = job.confidence
    if rule.looks.any() and not rule.certifies and rule.policy != "budget":
        yield (
            ("confidence", "looks"),
            "`confidence.looks` are weighed by what labels teach: they need a `target_error`",
        )
    if rule.policy == "budget" and job.escalation is None:
        yield (
            ("confidence", "policy"),
            "`policy: budget` divides the budget of an `escalation`, and the job has none",
        )


def _known_fields(job: Job) -> Iterator[Mistake]:
    known = list((job.answer.json_schema or {}).get("properties") or {})
    for name in job.confidence.fields:
        if name not in known:
            has = f"has: {', '.join(known)}" if known else "has none"
            yield (
                ("confidence", "fields", name),
                f"`confidence.fields` names `{name}`, which the answer lacks (it {has})",
            )


def _privacy(job: Job, columns: list[str] | None) -> Iterator[Mistake]:
    keep = job.privacy.keep_local
    if keep is not None:
        for mistake in template_mistakes(keep, "privacy.keep_local", columns, expression=True):
            yield ("privacy", "keep_local"), mistake
    for name in job.privacy.redact:
        if columns is not None and name not in columns:
            near = likely(name, columns, 0.8)  # a far guess would redact another column
            hint = f"; did you mean `{near}`?" if near else f" (they have: {listed(columns)})"
            yield (
                ("privacy", "redact"),
                f"`privacy.redact` names the field `{name}`, which the records lack{hint}",
            )
