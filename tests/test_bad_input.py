"""What a run makes of records and jobs that are not as they should be: a row, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.errors import RecordError
from runner.pipeline import assemble
from tests.fakes import ECHO, ScriptedEngine, completion, run_rows, surelocal, write_job

HEADER = "id,message\n"


def answers(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(one["id"], one["value"]) for one in rows]


def refused(job: Path, *options: object) -> str:
    result = surelocal("run", job, "--run-dir", job.parent / "run", *options)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    return result.stderr


def test_every_record_has_its_row_in_order_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    body = b'1,a\n,b\n3,"open\n4,caf\xe9\n5,e,e\n1,f\n7,"g, ""g"""\n'
    rows = run_rows(write_job(tmp_path, HEADER.encode() + body), status=3)
    assert answers(rows) == [
        ("1", "a"), ("line-3", None), ("3", None), ("4", None), ("5", None), ("1", None),
        ("7", 'g, "g"'),
    ]  # fmt: skip
    assert [one["status"] for one in rows] == ["done", *["error"] * 5, "done"]
    assert {one["reason"] for one in rows} == {"template", "bad_record"}
    for line, one in enumerate(rows, start=2):
        assert one["error"] is None or one["error"].startswith(f"line {line}: ")
    assert rows[5]["error"] == "line 7: the id 1 is already another record's"


def test_the_first_of_two_equal_ids_wins_also_after_a_resume(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n2,b\n1,c\n2,d\n")
    assert answers(run_rows(job, "--limit", 2)) == [("1", "a"), ("2", "b")]
    expected = [("1", "a"), ("2", "b"), ("1", None), ("2", None)]
    for _ in range(2):
        rows = run_rows(job, status=3)
        assert answers(rows) == expected
        assert "already another record's" in rows[3]["error"]


def test_jsonl_mistakes_and_ids_of_any_type(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "message": "a"}', "{", "[1]", '{"message": "b"}', '{"id": "1"}', '{"id": 2.5}',
        '{"id": 7, "message": "\\ud83d"}', '{"id": 8, "message": NaN}',
    ]  # fmt: skip
    rows = run_rows(write_job(tmp_path, "\n".join(lines), "r.jsonl"), status=3)
    assert [one["id"] for one in rows] == ["1", "line-2", "line-3", "line-4", "1", "2.5", "7", "8"]
    assert [one["id"] for one in rows if one["status"] == "done"] == ["1"], "NaN is a null"
    said = "routes[0].answer names the field `message`, which this record lacks (it has: id)"
    assert (rows[5]["reason"], rows[5]["error"]) == ("bad_prompt", said)
    assert "half a character" in rows[6]["error"]


def test_parquet_records_run(tmp_path: Path) -> None:
    job = write_job(tmp_path, "", "r.parquet")
    pq.write_table(pa.table({"id": [7, 8], "message": ["a", "b"]}), tmp_path / "r.parquet")
    assert answers(run_rows(job)) == [("7", "a"), ("8", "b")]


@pytest.mark.parametrize(("name", "text"), [("r.csv", HEADER), ("r.jsonl", "")])
def test_no_records_are_no_mistake(tmp_path: Path, name: str, text: str) -> None:
    assert run_rows(write_job(tmp_path, text, name)) == []


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("r.csv", b"", "is empty: it has no header line"),
        ("r.csv", HEADER.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("r.csv", b"idd,message\n1,a\n", "no column `id` (records.id); did you mean `idd`?"),
        ("r.csv", b"id,message,message\n", "the column `message` occurs twice"),
        ("r.csv.gz", b"id,message\n1,a\n", "is not gzipped; remove .gz from its name"),
        ("r.parquet", b"id,message\n", "is not a Parquet file"),
        ("r.xlsx", b"PK", "cannot tell the format from the ending '.xlsx'"),
    ],
)
def test_a_records_file_that_is_refused_whole(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    error = refused(write_job(tmp_path, data, name))
    assert said in error
    assert "line 2: " in error, "the job's line that names the file"
    assert not (tmp_path / "run").exists()


def test_a_records_file_that_is_not_there(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER)
    assert "gone.csv: No such file or directory" in refused(job, "--records", tmp_path / "gone.csv")


def test_other_delimiters_and_names(tmp_path: Path) -> None:
    job = write_job(tmp_path, "id;message\n1;a,b\n")
    assert "set records.delimiter" in refused(job)
    assert answers(run_rows(job, "--set", "records.delimiter=;")) == [("1", "a,b")]
    smile = tmp_path / "😀.csv"
    smile.write_text(HEADER + "1,x\n", encoding="utf-8")
    output = tmp_path / "out [" / "b].jsonl"
    result = surelocal("run", job, "--run-dir", tmp_path / "2", "--records", smile, "-o", output)
    assert result.exit_code == 0
    assert str(output) in result.stderr
    assert json.loads(output.read_text("utf-8"))["value"] == "x"


def test_one_failing_expression_spoils_one_record(tmp_path: Path) -> None:
    rule = {"when": "10 / (message | int) > 0", "to": "template", "answer": "{{ message }}"}
    rows = run_rows(write_job(tmp_path, HEADER + "1,5\n2,0\n3,2\n", routes=[rule]), status=3)
    assert answers(rows) == [("1", "5"), ("2", None), ("3", "2")]
    assert rows[1]["error"] == "routes[0].when failed: division by zero"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_a_template_cannot_leave_its_box(tmp_path: Path, attack: str) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n", routes=[{**ECHO, "answer": attack}])
    (row,) = run_rows(job, status=3)
    assert (row["status"], row["value"]) == ("error", None)
    assert row["error"].startswith("routes[0].answer failed: ")


@pytest.mark.process
def test_a_model_is_asked_only_for_what_needs_one_and_one_failure_is_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(message: str) -> Any:
        if message == "long":
            return RecordError("the prompt is too long", "bad_prompt")
        sure = 0.0 if message == "sure" else -9.0
        return completion("maybe" if message == "odd" else "yes", [sure])

    engine = ScriptedEngine(script)
    monkeypatch.setattr(assemble, "engine", lambda job: engine)
    rule = {**ECHO, "when": "message == 'mail'", "answer": "no"}
    text = HEADER + "1,sure\n2,mail\n3,long\n4,unsure\n5,odd\n6\n"
    answer = {"labels": ["yes", "no"]}
    rows = run_rows(write_job(tmp_path, text, routes=[rule], answer=answer), status=3)
    assert [(one["status"], one["decided_by"], one["reason"]) for one in rows] == [
        ("done", "local", "confident"),
        ("done", "template", "template"),
        ("error", None, "bad_prompt"),
        ("review", None, "unsure"),
        ("review", None, "invalid_answer"),
        ("error", None, "bad_record"),
    ]
    assert sorted(engine.asked) == ["long", "odd", "sure", "unsure"]
    assert rows[3]["error"] is None
    assert rows[4]["error"] == "the answer is not one of the labels"


# -- the run directory -------------------------------------------------------------------------


def test_records_that_were_appended_go_on(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n")
    run_rows(job)
    (tmp_path / "records.csv").write_text(HEADER + "1,a\n2,b\n")
    assert answers(run_rows(job)) == [("1", "a"), ("2", "b")]


def test_broken_records_that_were_fixed_are_done_by_the_same_run(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n2,b,b\n1,c\n,d\n5,e\n")
    broken = run_rows(job, status=3)
    assert [one["status"] for one in broken] == ["done", "error", "error", "error", "done"]
    (tmp_path / "records.csv").write_text(HEADER + '1,a\n2,"b,b"\n3,c\n4,d\n5,e\n')
    fixed = run_rows(job)
    assert answers(fixed) == [("1", "a"), ("2", "b,b"), ("3", "c"), ("4", "d"), ("5", "e")]


def test_a_prompt_that_failed_and_was_fixed_is_done_by_the_same_run(tmp_path: Path) -> None:
    rule = {"when": "true", "to": "template", "answer": "{{ 6 // (message | int) }}"}
    job = write_job(tmp_path, "id,message\n1,2\n2,0\n", routes=[rule])
    assert [one["reason"] for one in run_rows(job, status=3)] == ["template", "bad_prompt"]
    (tmp_path / "records.csv").write_text("id,message\n1,2\n2,3\n")
    assert answers(run_rows(job)) == [("1", "3"), ("2", "2")]


def test_a_run_directory_of_another_job_says_what_differs(tmp_path: Path) -> None:
    escalation = {"model": "claude-sonnet-5-5", "budget_usd": 1}
    job = write_job(tmp_path, HEADER + "1,a\n", escalation=escalation)
    run_rows(job)
    run_rows(job, "--set", "escalation.budget_usd=2", "--set", "escalation.concurrency=3")
    error = refused(job, "--set", "prompt.user=Hi", "--set", "confidence.threshold=0.5")
    assert "was begun with another job: `prompt`, `confidence` differ" in error
    assert "or take a new --run-dir" in error


# -- what validate says -------------------------------------------------------------------------


def test_all_that_is_wrong_with_a_job_that_reads_well(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    job = write_job(
        tmp_path,
        HEADER,
        prompt={"system": "{{ mesage }}", "user": "{{ message | shout }}"},
        routes=[{"when": "plan ==", "to": "local"}, {**ECHO, "answer": {"a": "{{ name }}"}}],
        local={"model": "./model"},
        escalation={"model": "claude-sonet"},
        privacy={"redact": ["email"], "keep_local": "regoin == 'EU'"},
    )
    result = surelocal("validate", job)
    assert result.exit_code == 2
    lines = job.read_text("utf-8").splitlines()
    said = [line.strip().split(": ", 1) for line in result.stderr.splitlines()[1:]]
    keys = [(lines[int(at.removeprefix("line ")) - 1].strip(), text) for at, text in said]
    expected = [
        ("system:", "`prompt.system` names the field `mesage`, which the records lack; did you"),
        ("user:", "`prompt.user` is not a Jinja2 template: No filter named 'shout'"),
        ("model:", "is not a model's folder: it has no config.json and no tokenizer.json"),
        ("- when:", "`routes[0].when` is not a Jinja2 expression"),
        ("answer:", "`routes[1].answer` names the field `name`, which the records lack"),
        ("model:", "no price is known for claude-sonet; known are claude-"),
        ("redact:", "`privacy.redact` names the field `email`, which the records lack"),
        ("keep_local:", "`privacy.keep_local` names the field `regoin`, which the records lack"),
    ]
    assert len(keys) == len(expected), result.stderr
    for (line, text), (key, words) in zip(keys, expected, strict=True):
        assert line.startswith(key), (line, text)
        assert words in text


def test_a_model_folder_that_is_not_there(tmp_path: Path) -> None:
    error = refused(write_job(tmp_path, HEADER, local={"model": "./gone"}))
    assert "gone is not there; give a model's folder, or its name on the hub" in error


def test_fields_of_jsonl_are_looked_for_record_by_record(tmp_path: Path) -> None:
    job = write_job(tmp_path, '{"id": 1, "mesage": "a"}\n{"id": 2, "message": "b"}', "r.jsonl")
    assert surelocal("validate", job).exit_code == 0
    rows = run_rows(job, status=3)
    assert answers(rows) == [("1", None), ("2", "b")]
    assert (
        "the field `message`, which this record lacks; did you mean `mesage`?" in rows[0]["error"]
    )
