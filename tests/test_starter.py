"""`surelocal init --records`: a job for a file of the user's own, which validates as it stands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.job import Job
from runner.job.file import load_job
from tests.fakes import surelocal

TEXT = "where is the card that I ordered"


def started(folder: Path, records: Path) -> tuple[Job, str]:
    """The job that is written for a file, and what was said; it validates as it stands."""
    made = surelocal("init", folder, "--records", records)
    assert made.exit_code == 0, made.stderr
    path = folder / "job.yaml"
    fine = surelocal("validate", path)
    assert fine.exit_code == 0, fine.stderr
    assert [one.name for one in folder.iterdir() if one.name != records.name] == ["job.yaml"]
    return load_job(path).job, made.stderr


def refused(folder: Path, records: Path) -> str:
    result = surelocal("init", folder, "--records", records)
    assert (result.exit_code, result.stdout) == (2, "")
    assert not (folder / "job.yaml").exists()
    return result.stderr


def user(job: Job) -> str:
    assert job.prompt is not None
    return job.prompt.user


def test_an_export_with_semicolons_and_spaces_in_its_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "tickets, 2026.csv"
    rows = "".join(f"N-{n};{n % 3};{TEXT} {n % 7}\n" for n in range(40))
    file.write_text(f"Ticket No;Kind;Customer's message\n{rows}N-1;2;again\n", encoding="utf-8")
    job, said = started(tmp_path / "my job", file)
    assert (job.records.id, job.records.delimiter) == ("Ticket No", ";")
    assert str(job.records.path) == "../in/tickets, 2026.csv"
    assert user(job) == """{{ record["Customer's message"] }}"""
    assert job.name == "my-job" and job.escalation is None
    assert "the column `Ticket No` (40 different in the first 41 records)" in said
    assert "the column `Customer's message`, which has the longest texts" in said
    assert "next: surelocal validate '" in said
    text = (tmp_path / "my job" / "job.yaml").read_text("utf-8")
    assert """#   record['Ticket No'], Kind, record["Customer's message"]\n""" in text


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        # Called like an id and unique, before unique alone; the surer name before the other.
        ([{"mail": f"m{n}", "phone_number": n, "ticketId": f"t{n}"} for n in range(9)], "ticketId"),
        ([{"mail": f"m{n}", "paid": n % 2, "kind_id": n % 2} for n in range(9)], "mail"),
        ([{"kind": n % 2, "kind_id": n % 2} for n in range(9)], "kind_id"),
        ([{"kind": n % 2, "mood": n % 2} for n in range(9)], "kind"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "jsonl", "parquet"])
def test_the_column_that_names_a_record(
    tmp_path: Path, rows: list[dict[str, Any]], named: str, ending: str
) -> None:
    rows = [{**row, "text": f"{TEXT}, {TEXT}, {row}"} for row in rows]
    job, _ = started(tmp_path, written(tmp_path / f"records.{ending}", rows))
    assert (job.records.id, user(job)) == (named, "{{ text }}")
    assert str(job.records.path) == f"records.{ending}"


def written(path: Path, rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        by, quoted = ("\t", False) if path.suffix == ".gz" else (",", True)
        cells = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        text = "".join(by.join(f'"{c}"' if quoted else c for c in row) + "\n" for row in cells)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_quotes_around_names_that_semicolons_part(tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_bytes('\ufeff"Id";"Größe, cm";"Text"\r\n"1";"7";"a, b"\r\n'.encode())
    job, _ = started(tmp_path, file)
    assert (job.records.id, job.records.delimiter, user(job)) == ("Id", ";", "{{ Text }}")


def test_names_that_nobody_expects(tmp_path: Path) -> None:
    rows = [{"a\nb: #{{ }}": f"{TEXT} {n}", "": 1, "$id": n, "none": "x"} for n in range(3)]
    job, _ = started(tmp_path, written(tmp_path / "odd.jsonl", rows))
    assert (job.records.id, user(job)) == ("$id", r"{{ record['a\nb: #{{ }}'] }}")


def test_a_file_of_a_header_alone(tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text("ticket_id|message\n")
    job, said = started(tmp_path, file)
    assert (job.records.id, job.records.delimiter, user(job)) == ("ticket_id", "|", "{{ message }}")
    assert "in the first 0 records" in said


def test_a_file_that_no_job_can_be_made_for(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    assert f"cannot read the records file {file}: No such file" in refused(tmp_path, file)
    gone = tmp_path / "gone.csv"
    assert f"cannot read the records file {gone}: No such file" in refused(tmp_path, gone)
    file.write_text("no JSON\n")
    assert f"{file} holds no record to take the names of columns from" in refused(tmp_path, file)
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}
    file.write_text(json.dumps(line) + "\n")
    assert "is an OpenAI batch file, which says itself what is asked" in refused(tmp_path, file)
    assert "cannot tell the format" in refused(tmp_path, tmp_path / "records.xlsx")
    twice = tmp_path / "records.csv"
    twice.write_text("id,id\n1,2\n")
    assert "the column `id` occurs twice" in refused(tmp_path, twice)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text("id,message\n1,a\n")
    (tmp_path / "job.yaml").write_text("mine")
    result = surelocal("init", tmp_path, "--records", file)
    assert (result.exit_code, "job.yaml is already there" in result.stderr) == (2, True)
    assert (tmp_path / "job.yaml").read_text() == "mine"
