"""`surelocal validate`: every mistake at once, and nothing that only follows from one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import surelocal

RECORDS = "Ticket No;Customer message;plan\n1;a;basic\n"
TEXT = """\
name: small
records: {path: records.csv, id: Ticket No, delimiter: ";"}
prompt: {user: "{{ record['Customer message'] }}"}
answer:
  schema: {type: object, properties: {topic: {enum: [one, two]}}, required: [topic]}
local: {model: nobody/no-model}
routes:
  - {when: "plan == 'pro'", to: closed, reason: paying}
  - {when: "plan == ''", to: review}
confidence: {threshold: 0.9}
escalation: {budget_usd: 1}
privacy: {redact: [plan]}
"""


FIELDS = "target_error: 0.05, fields: {topic: 0.05}"


def said(folder: Path, *changes: tuple[str, str]) -> list[str]:
    """What is said of the job with these changes, a line for each mistake."""
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "records.csv").write_text(RECORDS)
    (folder / "job.yaml").write_text(text)
    result = surelocal("validate", folder / "job.yaml")
    assert result.exit_code == (2 if changes else 0), result.stderr
    head, *lines = result.stderr.splitlines()
    count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
    assert not changes or head == f"surelocal: {folder / 'job.yaml'}: {count}"
    return [line.strip() for line in lines]


@pytest.mark.process
def test_a_job_without_mistakes(tmp_path: Path) -> None:
    assert said(tmp_path) == []


def test_unknown_keys_hide_neither_templates_nor_columns(tmp_path: Path) -> None:
    found = said(
        tmp_path,
        ("reason: paying", "reson: paying"),
        ("record['Customer message']", "message"),
        ("plan == ''", "plan == '' ="),
        ("redact: [plan]", "redact: [name]"),
    )
    assert [line.split(":")[0] for line in found] == ["line 3", "line 8", "line 9", "line 12"]
    assert "did you mean `record['Customer message']`?" in found[0]
    assert "unknown key `routes[0].reson`; did you mean `reason`?" in found[1]
    assert "`routes[1].when` is not a Jinja2 expression" in found[2]
    assert "`privacy.redact` names the field `name`" in found[3]


def test_a_redacted_column_in_other_letters_is_named_and_a_far_one_is_not(tmp_path: Path) -> None:
    [found] = said(tmp_path, ("redact: [plan]", "redact: [PLAN]"))
    assert found.endswith("which the records lack; did you mean `plan`?")
    [found] = said(tmp_path, ("redact: [plan]", "redact: [plant pot]"))
    assert "which the records lack (they have: " in found


def test_values_that_cannot_be_hide_nothing_either(tmp_path: Path) -> None:
    found = said(
        tmp_path,
        ("threshold: 0.9", "threshold: 9"),
        ("name: small", "name: two words"),
        ("to: review", "to: nowhere"),
        ("plan == 'pro'", "paln == 'pro'"),
    )
    assert [line.split(":")[0] for line in found] == ["line 1", "line 8", "line 9", "line 10"]
    assert "names the field `paln`" in found[1]


@pytest.mark.parametrize(
    ("confidence", "old", "new", "mistake"),
    [
        # With a comma the file would have no such column.
        ("threshold: 0.9", "delimiter", "delimeter", "line 2: unknown key `records.delimeter`"),
        ("threshold: 0.9", "records: {", "recrods: {", "line 2: unknown key `recrods`"),
        ("threshold: 0.9", "{path: records.csv", "{path: [a]", "line 2: `records.path`: input is"),
        # Without a budget to divide.
        ("policy: budget", "escalation: {", "escalaton: {", "line 11: unknown key `escalaton`"),
        (
            "policy: budget",
            "budget_usd: 1",
            "budget: 1",
            "line 11: unknown key `escalation.budget`",
        ),
        # Without a property of that name.
        (FIELDS, "  schema: {type", "  scheme: {type", "line 5: unknown key `answer.scheme`"),
        (FIELDS, "local: {model:", "local: {preset: no-3b, engin:", "line 6: `local.preset`: "),
    ],
)
def test_what_only_follows_from_a_mistake_is_none(
    tmp_path: Path, confidence: str, old: str, new: str, mistake: str
) -> None:
    found = said(tmp_path, ("threshold: 0.9", confidence), (old, new))
    assert found[0].startswith(mistake)
    assert [line for line in found[1:] if "unknown key `local.engin`" not in line] == []


def test_a_run_says_all_of_them_too(tmp_path: Path) -> None:
    said(tmp_path, ("threshold: 0.9", "treshold: 0.9"), ("plan == ''", "pln == ''"))
    ran = surelocal("run", tmp_path / "job.yaml", "--run-dir", tmp_path / "run")
    assert ran.exit_code == 2 and "2 mistakes" in ran.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["x = 3", "true and", "(a", "a | nosuch", "'"])
def test_a_run_says_of_a_rule_what_validate_does(tmp_path: Path, when: str) -> None:
    (tmp_path / "records.csv").write_text("id,x\n1,a\n")
    (tmp_path / "job.yaml").write_text(
        "name: small\nrecords: {path: records.csv}\nprompt: {user: '{{ x }}'}\nanswer: text\n"
        f'local: {{model: nobody/no-model}}\nroutes: [{{when: "{when}", to: review}}]\n'
    )
    told = [surelocal(c, tmp_path / "job.yaml").stderr for c in ("validate", "run")]
    assert told[0] == told[1] and "routes[0].when" in told[0]
