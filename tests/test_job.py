"""The job file: every mistake at once, each with its line and the fix"""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import JobError, UsageError
from runner.job.file import load_job

TEXT = """\
name: small
records:
  path: records.csv
prompt:
  user: "{{ message }}"
answer:
  labels: [one, two]
local:
  model: nobody/no-model
  sampling:
    max_tokens: 9
routes:
  - when: "true"
    to: closed
escalation:
  budget_usd: 0.10
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        load_job(written(folder, text), overrides)
    return caught.value.mistakes


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


def test_a_job_without_mistakes(tmp_path: Path) -> None:
    job = load_job(written(tmp_path, TEXT)).job
    assert job.local.sampling.max_tokens == 9
    assert job.confidence.threshold == 0.9
    assert job.escalation is not None
    assert str(job.escalation.budget_usd) == "0.1"
    assert job.records_path() == (tmp_path / "records.csv").resolve()


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("records:", "recrods:", "line 2: unknown key `recrods`; did you mean `records`?"),
        (
            "  path: records.csv",
            "  paht: records.csv",
            "line 3: unknown key `records.paht`; did you mean `path`?",
        ),
        (
            "    max_tokens: 9",
            "    max_tokens: many",
            "line 11: `local.sampling.max_tokens`: input should be a valid integer",
        ),
        (
            "    max_tokens: 9",
            "    max_tokens: 0",
            "line 11: `local.sampling.max_tokens`: input should be greater than or equal to 1",
        ),
        (
            '  - when: "true"',
            '  - wehn: "true"',
            "line 13: unknown key `routes[0].wehn`; did you mean `when`?",
        ),
        (
            "    to: closed",
            "    to: nowhere",
            "line 14: `routes[0].to`: input should be 'template', 'local', 'closed' or 'review'",
        ),
        (
            "    to: closed",
            "    to: template",
            "line 13: `routes[0]`: `answer` belongs to `to: template`",
        ),
        (
            "budget_usd: 0.10",
            "budget: 0.10",
            "line 16: unknown key `escalation.budget`; did you mean `budget_usd`?",
        ),
        (
            "budget_usd: 0.10",
            "colour: red",
            "line 16: unknown key `escalation.colour`; the keys here are: provider, model",
        ),
        (
            "budget_usd: 0.10",
            "budget_usd: -1",
            "line 16: `escalation.budget_usd`: input should be greater than or equal to 0",
        ),
        (
            "labels: [one, two]",
            "lables: [one, two]",
            "line 7: unknown key `answer.lables`; did you mean `labels`?",
        ),
        (
            "labels: [one, two]",
            "labels: [one]",
            "line 7: `answer.labels`: needs at least two labels",
        ),
        (
            "labels: [one, two]",
            "labels: [one, one]",
            "line 7: `answer.labels`: needs at least two labels, none empty and none given",
        ),
        (
            "labels: [one, two]",
            "labels: [yes, one]",
            "line 7: `answer.labels[0]`: YAML reads True here; put it in quotes to make it text",
        ),
        (
            "labels: [one, two]",
            "labels: [one, two]\n  text: true",
            "line 6: `answer`: give exactly one of `schema`, `labels` and `text: true`",
        ),
        (
            "labels: [one, two]",
            "schema: {type: array}",
            "line 7: `answer.schema`: must describe an object",
        ),
        (
            "labels: [one, two]",
            "schema: {type: objekt}",
            "line 7: `answer.schema`: is not a JSON Schema: 'objekt' is not valid",
        ),
        (
            "\n  path: records.csv",
            " records.csv",
            "line 2: `records` must be a mapping of: path, id, format, types, delimiter",
        ),
        ('  user: "{{ message }}"', '  system: "x"', "line 4: `prompt.user` is missing"),
        ("name: small", "", "`name` is missing"),
        ("name: small", "name: a/b", "line 1: `name`: string should match pattern"),
    ],
)
def test_a_mistake_has_its_line_and_its_fix(
    tmp_path: Path, old: str, new: str, mistake: str
) -> None:
    found = mistakes(tmp_path, changed(old, new))
    assert any(m.startswith(mistake) for m in found), found


def test_all_mistakes_at_once_as_they_stand_in_the_file(tmp_path: Path) -> None:
    text = changed("max_tokens: 9", "max_tokens: x").replace("to: closed", "too: closed")
    found = mistakes(tmp_path, "colour: red\n" + text + "  budget_usd: 1\n")
    assert [m.split(":")[0] for m in found] == [
        "line 1", "line 12", "line 15", "line 18",
    ]  # fmt: skip
    assert found[0].startswith("line 1: unknown key `colour`")
    assert found[2] == "line 15: unknown key `routes[0].too`; did you mean `to`?"
    assert found[-1] == "line 18: `budget_usd` is given twice"


def test_a_key_given_twice_is_a_mistake_of_its_own(tmp_path: Path) -> None:
    assert mistakes(tmp_path, TEXT + "name: other\n") == ["line 17: `name` is given twice"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "line 1: is not YAML: "),
        ("name: a\n\tb: c", "line 2: is not YAML: found character '\\t'"),
        (
            "prompt:\n  user: {{ message }}",
            "line 2: is not YAML: found unhashable key; put a template",
        ),
        ("a: &a {b: *a}", "it contains itself through an alias"),
        (
            "a: !!python/object:os.system {}",
            "line 1: is not YAML: the tag 'tag:yaml.org,2002:python/object:os.system' is not",
        ),
        ("", "line 1: a job is a mapping"),
        ("- a", "line 1: a job is a mapping"),
    ],
)
def test_what_is_no_yaml_mapping(tmp_path: Path, text: str, said: str) -> None:
    (mistake,) = mistakes(tmp_path, text)
    assert said in mistake


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the job file .*no\.yaml: No such file"):
        load_job(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UsageError, match=r"byte 9 is not UTF-8; save it as UTF-8"):
        load_job(tmp_path / "latin.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT)
    overrides = ["local.sampling.max_tokens=3", "privacy.redact=[email]", "escalation="]
    job = load_job(path, overrides).job
    assert job.local.sampling.max_tokens == 3
    assert job.privacy.redact == ["email"]
    assert job.escalation is None


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        (
            "local.sampling.max_tokens=x",
            "--set: `local.sampling.max_tokens`: input should be a valid integer",
        ),
        ("local.sampling={max_tokens: x}", "--set: `local.sampling.max_tokens`: input should be"),
        (
            "escalation.bugdet_usd=1",
            "--set: unknown key `escalation.bugdet_usd`; did you mean `budget_usd`?",
        ),
        ("name=[a", "--set: `name`: string should match pattern"),
    ],
)
def test_a_mistake_in_an_override_is_not_blamed_on_a_line(
    tmp_path: Path, override: str, mistake: str
) -> None:
    (found,) = mistakes(tmp_path, TEXT, override)
    assert found.startswith(mistake)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budget", r"--set takes KEY=VALUE, .*, not 'budget'"),
        ("=5", r"--set takes KEY=VALUE, .*, not '=5'"),
        ("name.first=5", r"--set name\.first: `name` is not a mapping in the job"),
    ],
)
def test_an_override_that_is_none(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_job(written(tmp_path, TEXT), [override])


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        ("confidence.threshold", "90", "is from 0 to 1, not 90; 0.9 is 90%"),
        ("confidence.threshold", "90 %", "is a number, not per cent: write 0.9"),
        ("confidence.threshold", "1000", "is from 0 to 1, not 1000"),
        ("confidence.threshold", "yes", "is a number, not true"),
        ("confidence.target_error", "5", "is from 0 to 1, not 5; 0.05 is 5%"),
        ("confidence.audit.rate", "2%", "is a number, not per cent: write 0.02"),
        ("confidence.fields.topic", "1", "is from 0 to 1, not 1"),
        ("escalation.budget_usd", "$5", "is a plain number, such as 5 or 0.5, not '$5'"),
        ("escalation.budget_usd", "on", "is a number, not true"),
        ("local.sampling.max_tokens", "no", "is a number, not false"),
        ("records.delimiter", "semicolon", "must be one character,"),
        ("records.delimiter", "'\"'", "must be one character,"),
    ],
)
def test_a_number_or_a_sign_that_is_none(tmp_path: Path, key: str, given: str, said: str) -> None:
    assert any(f"`{key}`: {said}" in found for found in mistakes(tmp_path, TEXT, f"{key}={given}"))


def test_a_decimal_comma_is_told_as_one(tmp_path: Path) -> None:
    [found] = mistakes(tmp_path, TEXT, "confidence={threshold: 0,9}")
    assert found.endswith("`confidence`: 9 is not a key; a decimal is 0.9, not 0,9")
