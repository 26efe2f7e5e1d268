"""Records in: what is read, what one bad record costs, and what each sentence says."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from runner.records import column_names, count_records, read_records
from runner.types import Record

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WITH_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(folder: Path, data: str | bytes, name: str = "r.csv", **how: Any) -> list[Record]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_records(path, "id", **how))


def messages(records: list[Record]) -> list[Any]:
    return [None if r.problem else r.fields["message"] for r in records]


def refusal(folder: Path, data: str | bytes, name: str = "r.csv", **how: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, data, name, **how)
    assert str(folder / name) in str(caught.value)
    return str(caught.value)


def test_values_stay_as_they_stand_and_each_record_knows_its_place(tmp_path: Path) -> None:
    records = read(tmp_path, "id , message\n00123, a \n\n7,b\n")
    assert [(r.position, r.id, r.line) for r in records] == [(0, "00123", 2), (1, "7", 4)]
    assert records[0].fields == {"id": "00123", "message": " a "}


@pytest.mark.parametrize(
    ("body", "expected", "bad_line"),
    [
        ('1,a\n2,"never closed\n3,b\n4,"c, d"\n5,e\n', ["a", None, "b", "c, d", "e"], 3),
        ('1,a\n2,"never closed\n3,"b\nx y,c"\n', ["a", None, "b\nx y,c"], 3),
        ('1,"say "hi" twice"\n2,b\n', [None, "b"], 2),
        ('1,a\n2,"cut off by the end of the file', ["a", None], 3),
        ('1,a\n2,"', ["a", None], 3),
        ('"1","a\n"2","b"\n', [None, "b"], 2),
    ],
)
def test_broken_quoting_spoils_one_line(
    tmp_path: Path, body: str, expected: list[str | None], bad_line: int
) -> None:
    records = read(tmp_path, "id,message\n" + body)
    assert messages(records) == expected
    (bad,) = [r for r in records if r.problem]
    assert bad.problem is not None
    assert bad.problem.startswith(f"line {bad_line}: broken CSV quoting")
    assert "double each quote" in bad.problem
    assert bad.id == str(records.index(bad) + 1), "its id is still legible"


def test_quotes_in_the_middle_of_a_value_are_part_of_it(tmp_path: Path) -> None:
    assert messages(read(tmp_path, 'id,message\n1,a 5" pipe\n2,b"\n')) == ['a 5" pipe', 'b"']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_values_of_many_lines(tmp_path: Path, end: str) -> None:
    thread = end.join(f'line {n}, ""quoted""' for n in range(300))
    records = read(tmp_path, end.join(["id,message", f'1,"{thread}"', "2,b", ""]))
    assert messages(records) == [thread.replace('""', '"'), "b"]
    assert [r.line for r in records] == [2, 302]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_marks_and_line_ends_do_not_matter(
    tmp_path: Path, end: str, mark: bytes
) -> None:
    data = mark + end.join(["id,message", "1,é", "2,b"]).encode()
    assert [(r.id, r.fields["message"]) for r in read(tmp_path, data)] == [("1", "é"), ("2", "b")]


def test_an_undecodable_byte_spoils_its_record(tmp_path: Path) -> None:
    records = read(tmp_path, b"id,message\n1,a\n2,caf\xe9\n3\xff,c\n4,d\n")
    assert messages(records) == ["a", None, None, "d"]
    assert records[1].problem == (
        "line 3: byte 0xe9 is not UTF-8; save the export as UTF-8 (column `message`)"
    )
    assert records[2].id == "3�"


def test_a_missing_id_is_named_by_its_line(tmp_path: Path) -> None:
    records = read(tmp_path, "id,message\n1,a\n ,b\n3,c\n")
    assert [r.id for r in records] == ["1", "line-3", "3"]
    assert records[1].problem == "line 3: the id column `id` is empty; give it an id"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("2,b,c", "3 columns, but the header has 2; quote values that contain a delimiter"),
        ('2, "b,c"', "3 columns, but the header has 2; quote values that contain a delimiter, and"),
        ("2", "1 columns, but the header has 2; quote values that contain a line break, or delete"),
    ],
)
def test_too_many_or_too_few_columns(tmp_path: Path, row: str, told: str) -> None:
    records = read(tmp_path, f"id,message\n1,a\n{row}\n3,c\n")
    assert [bool(r.problem) for r in records] == [False, True, False]
    assert records[1].id == "2"
    assert str(records[1].problem).startswith(f"line 3: {told}")


def test_a_field_of_ten_megabytes(tmp_path: Path) -> None:
    (record,) = read(tmp_path, "id,message\n1," + "x" * 10_000_000 + "\n")
    assert record.problem is None
    assert len(record.fields["message"]) == 10_000_000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty: it has no header line"),
        ("id,message\n1,a\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"id,a,a\n1,x,y\n", "the column `a` occurs twice; rename one of them"),
        (b"id,,,a\n1,x,,\n", "line 1: two columns have no name; give each one"),
        (b"ID,a\n1,x\n", "has no column `id` (records.id); did you mean `ID`?"),
        (b"a,Record-Id,Id \n1,x,1\n", "did you mean `Id`?"),
        ("a," + ",".join(f"c{n}" for n in range(4999)) + "\n", "c18 and 4,980 more"),
        (b"idd,message\n1,a\n", "has no column `id` (records.id); did you mean `idd`?"),
        (b"name,message\n1,a\n", "has no column `id` (records.id); its columns are: name, message"),
        (b"id;message\n1;a\n", "its header is split by ';': set records.delimiter"),
        (b"id,gr\xf6sse\n1,a\n", "line 1: byte 0xf6 is not UTF-8"),
        (b'id,"message\n1,a\n', "line 1: the header has broken CSV quoting"),
        (b'"id";"message"\n"1";"a"\n', 'if ";" separates the columns, set records.delimiter'),
    ],
)
def test_a_file_that_is_refused_whole(tmp_path: Path, data: bytes | str, said: str) -> None:
    assert said in refusal(tmp_path, data)


def test_no_rows_are_no_mistake(tmp_path: Path) -> None:
    assert read(tmp_path, "id,message\n") == []
    assert read(tmp_path, "", "r.jsonl") == []
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "r.parquet")
    assert list(read_records(tmp_path / "r.parquet", "id")) == []


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=why):
            list(read_records(path, "id", fmt="csv"))
    with pytest.raises(InputError, match=r"cannot tell the format from the ending '\.xlsx'"):
        list(read_records(tmp_path / "r.xlsx", "id"))


def test_delimiters(tmp_path: Path) -> None:
    assert messages(read(tmp_path, "id\tmessage\n1\ta,b\n", "r.tsv")) == ["a,b"]
    assert messages(read(tmp_path, "id;message\n1;a,b\n", delimiter=";")) == ["a,b"]
    assert column_names(tmp_path / "r.csv", delimiter=";") == ["id", "message"]
    assert count_records(tmp_path / "r.csv", "id", delimiter=";") == 1


def test_jsonl_keeps_types_and_one_bad_line_spoils_one_record(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "message": {"deep": [1, null]}}',
        '{"id": 2, "message": ',
        "[3]",
        '{"message": 4}',
        '{"id": null, "message": 5}',
        '{"id": 6, "message": ' + "9" * 5000 + "}",
        '{"id": 7, "message": ' + "[" * 100_000 + "}",
        '{"id": 8, "message": "cut \\ud83d"}',
        '{"id": 9, "message": ["\\ud83d"]}',
        '{"id": "10", "message": NaN, "more": true}',
    ]
    records = read(tmp_path, "\n\n".join(lines), "r.jsonl")
    problems = [r.problem for r in records]
    assert records[0].fields["message"] == {"deep": [1, None]}
    assert problems[0] is None and problems[-1] is None
    assert [r.id for r in records] == [
        "1", "line-3", "line-5", "line-7", "line-9", "line-11", "line-13", "8", "9", "10",
    ]  # fmt: skip
    half = r"\ud83d is half a character, from a text cut in two; fix the export"
    assert problems[1:-1] == [
        "line 3: not JSON (Expecting value at character 21)",
        "line 5: not a JSON object",
        "line 7: the object has no `id` (records.id)",
        "line 9: the id column `id` is empty; give it an id",
        "line 11: not JSON (a number is too long)",
        "line 13: not JSON (nested too deep)",
        f"line 15: {half} (column `message`)",
        f"line 17: {half} (column `message`)",
    ]


def test_gzip(tmp_path: Path) -> None:
    rows = "id,message\n" + "".join(f"{n},message {n * n}\n" for n in range(5000))
    packed = gzip.compress(rows.encode())
    assert len(read(tmp_path, packed, "r.csv.gz")) == 5000
    assert count_records(tmp_path / "r.csv.gz", "id") == 5000
    assert "truncated within its compressed data" in refusal(tmp_path, packed[:-2000], "r.csv.gz")
    broken = packed[:500] + b"\xff" * 50 + packed[550:]
    assert "cannot read the records file" in refusal(tmp_path, broken, "r.csv.gz")
    assert "is not gzipped; remove .gz from its name" in refusal(tmp_path, rows, "r.csv.gz")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"id": [1, 2], "message": ["é", None], "n": [[1], []]}), path)
    records = list(read_records(path, "id"))
    assert [(r.id, dict(r.fields)) for r in records] == [
        ("1", {"id": 1, "message": "é", "n": [1]}),
        ("2", {"id": 2, "message": None, "n": []}),
    ]
    assert column_names(path) == ["id", "message", "n"]
    assert count_records(path, "id") == 2
    assert "is not a Parquet file" in refusal(tmp_path, "id,message\n1,a\n", "x.parquet")
    with pytest.raises(InputError, match=r"no column `key`"):
        list(read_records(path, "key"))


@WITH_FOLDER
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
@example([("", "\0"), ("", "\0")])  # which is no UTF-16
def test_what_a_csv_writer_writes_is_read_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([("id", "a", "b"), *((str(n), *row) for n, row in enumerate(rows))])
    records = read(tmp_path, file.getvalue())
    assert [r.problem for r in records] == [None] * len(rows)
    assert [(r.fields["a"], r.fields["b"]) for r in records] == rows


@WITH_FOLDER
@given(st.integers(0, 6), st.sampled_from(['x,"open', "x", "x,y,z", 'x,"a"b"', "x,\udce9"]))
def test_one_broken_row_among_good_ones_costs_only_itself(
    tmp_path: Path, place: int, row: str
) -> None:
    good = [f'{n},"plain, ""quoted"" {n}"' for n in range(6)]
    lines = ["id,message", *good[:place], row, *good[place:]]
    records = read(tmp_path, "\n".join(lines).encode("utf-8", "surrogateescape"))
    assert [r.id for r in records if not r.problem] == list("012345")
    assert [r.line for r in records if r.problem] == [place + 2]


@WITH_FOLDER
@given(st.integers(0, 6), st.sampled_from(["{", "7", '{"message": 1}', "\udce9", "\x00"]))
def test_one_broken_line_among_good_ones_costs_only_itself(
    tmp_path: Path, place: int, line: str
) -> None:
    good = [json.dumps({"id": n, "message": "é\n"}, ensure_ascii=n < 3) for n in range(6)]
    lines = [*good[:place], line, *good[place:]]
    records = read(tmp_path, "\n".join(lines).encode("utf-8", "surrogateescape"), "r.jsonl")
    assert [r.id for r in records if not r.problem] == list("012345")
    assert [r.line for r in records if r.problem] == [place + 1]
