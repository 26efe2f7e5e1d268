"""A file that is another kind than its name says is told, with what makes it one that is read."""

from __future__ import annotations

import gzip
import shlex
import subprocess
from pathlib import Path

import pytest

from runner.errors import InputError
from runner.records import read_records


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("id,message\n1,häuser\n".encode("utf-16-le"), "is UTF-16; save it as UTF-8"),
        ("id,message\n1,a\n".encode("utf-16-be"), "is UTF-16; save it as UTF-8"),
        ("id,message\n1,привет\n".encode("utf-16-le"), "is UTF-16; save it as UTF-8"),
        (
            ("номер;текст\n1;" + "好" * 999 + "\n").encode("utf-16-be"),
            "is UTF-16; save it as UTF-8",
        ),
        ("id,message\n1,a\n".encode("utf-32"), "is UTF-32; save it as UTF-8"),
        (b"PK\x03\x04" + b"x" * 99, "is an Excel workbook or another zip archive; in Excel, save"),
        (b"\xd0\xcf\x11\xe0" + b"x" * 99, "is an old Excel workbook"),
        (b"PAR1xxxx", "is a Parquet file; name it .parquet"),
        (gzip.compress(b"id,message\n", mtime=0), "is gzipped; add .gz to its name"),
        (b"<html><table><tr><td>id</td></tr></table>", "is a web page or XML"),
        (b"%PDF-1.7", "is a PDF"),
    ],
)
def test_another_kind_of_file_under_the_name(tmp_path: Path, data: bytes, said: str) -> None:
    for name in ("r.csv", "r.jsonl"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            list(read_records(tmp_path / name, "id"))
        assert said in str(caught.value)


@pytest.mark.parametrize("text", ["[\n {\n", '[{"id": 1}]', "[1]", "[", ' [\n{"id": 1}\n]'])
def test_an_array_is_no_jsonl(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError, match="is a JSON array, not one object per line; `"):
        list(read_records(tmp_path / "r.jsonl", "id"))
    (tmp_path / "r.jsonl").write_text('{\n  "id": 1\n}\n')
    with pytest.raises(InputError, match="object over several lines"):
        list(read_records(tmp_path / "r.jsonl", "id"))


@pytest.mark.process
@pytest.mark.parametrize("name", ["records.jsonl", "of may.jsonl", "r.jsonl.gz"])
def test_what_an_array_needs_is_a_command_that_works(tmp_path: Path, name: str) -> None:
    data = b'\xef\xbb\xbf[{"id": 1, "message": "\xc3\xa9"},\n {"id": 2}]'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(InputError) as caught:
        list(read_records(tmp_path / name, "id"))
    command = str(caught.value).split("`")[1]
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    made = Path(shlex.split(command)[-1])
    assert [r.id for r in read_records(made, "id")] == ["1", "2"]
    assert (tmp_path / name).read_bytes()


def test_a_file_of_another_form_under_the_name(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('{"id": 1, "message": "x"}\n')
    (tmp_path / "r.jsonl").write_text("message;id\nx;1\n")
    (tmp_path / "r.csv.gz").write_text("id,message\n1,x\n")
    for name, said in (("r.csv", "name it .jsonl"), ("r.jsonl", "name it .csv"),
                       ("r.csv.gz", "remove .gz from its name")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            list(read_records(tmp_path / name, "id"))


@pytest.mark.parametrize("name", ["r.xlsx", "r.xls", "r.ods", "r.xlsx.gz"])
def test_a_workbook_is_to_be_saved_as_csv(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="save it as CSV UTF-8"):
        list(read_records(tmp_path / name, "id"))
