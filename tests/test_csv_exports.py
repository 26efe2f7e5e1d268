"""CSV as programs really export it: no record lost, none made up, and what was left out is said."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import InputError
from runner.records import column_names, likely_delimiter, read_records
from runner.types import Event, Notice, Record
from tests.fakes import surelocal

NAMES = ["id", "message", "kind"]
CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
IN_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(rows: list[list[str]], delimiter: str = ",", end: str = "\n") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return file.getvalue()


def read(folder: Path, data: str | bytes, **how: Any) -> tuple[list[Record], list[str]]:
    path, told = folder / "r.csv", list[Notice]()
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    records = list(read_records(path, "id", say=told.append, **how))
    assert {one.event for one in told} <= {Event.ROWS_LEFT_OUT}
    return records, list(map(str, told))


def values(records: list[Record]) -> list[tuple[str, ...]]:
    assert [r.problem for r in records] == [None] * len(records)
    return [tuple(r.fields[name] for name in NAMES) for r in records]


BODIES = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6).map(
    lambda rows: [[f"T-{n}", *row] for n, row in enumerate(rows)]
)


@IN_FOLDER
@given(BODIES, st.sampled_from(",;\t|"), st.booleans(), st.sampled_from(["\n", "\r\n"]),
       st.booleans(), st.booleans())  # fmt: skip
def test_a_line_that_names_the_delimiter(
    tmp_path: Path,
    body: list[list[str]],
    delimiter: str,
    quoted: bool,
    end: str,
    mark: bool,
    behind: bool,
) -> None:
    first = f'"sep={delimiter}"' if quoted else f"sep={delimiter}"
    first += delimiter * (behind * 2)  # as where it was saved again with its table
    text = first + end + written([NAMES, *body], delimiter, end)
    data = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    for given_delimiter in (",", delimiter):
        records, notes = read(tmp_path, data, delimiter=given_delimiter)
        assert len(notes) == 1 and "its first line, `sep=`" in notes[0]
        assert values(records) == [tuple(row) for row in body]
    assert column_names(tmp_path / "r.csv") == NAMES


@IN_FOLDER
@given(BODIES, st.lists(st.integers(0, 6), min_size=1, max_size=4), st.sampled_from(["", " "]))
def test_empty_rows_are_left_out_and_said(
    tmp_path: Path, body: list[list[str]], places: list[int], filled: str
) -> None:
    rows = list(body)
    for place in places:
        rows.insert(min(place, len(rows)), [filled] * 3)
    records, notes = read(tmp_path, written([NAMES, *rows]))
    assert values(records) == [tuple(row) for row in body]
    assert [n.endswith("has only empty cells; such rows are skipped") for n in notes] == [True]


@IN_FOLDER
@given(BODIES, st.integers(1, 4), st.integers(0, 4))
def test_commas_at_the_end(
    tmp_path: Path, body: list[list[str]], behind: int, in_header: int
) -> None:
    header = NAMES + [""] * (in_header if in_header != 1 else 0)
    records, _ = read(tmp_path, written([header, *(row + [""] * behind for row in body)]))
    assert values(records) == [tuple(row) for row in body]
    records, _ = read(tmp_path, written([[*NAMES, ""], *body]))
    assert values(records) == [tuple(row) for row in body]
    (tmp_path / "r.csv").write_text(written([NAMES, [*body[0], "", "more"]]))
    (bad,) = read_records(tmp_path / "r.csv", "id")
    assert bad.problem == (
        "line 2: 5 columns, but the header has 3; quote values that contain a delimiter"
    )


@IN_FOLDER
@given(
    BODIES,
    st.lists(st.sampled_from([["Report: Open cases"], ["Made", "2026-01-02"], [""]]), min_size=1),
    st.booleans(),
)
def test_lines_of_a_report_above_the_header(
    tmp_path: Path, body: list[list[str]], above: list[list[str]], padded: bool
) -> None:
    first = [row + [""] * (3 - len(row)) for row in above] if padded else above
    records, notes = read(tmp_path, written([*first, NAMES, *body]))
    assert values(records) == [tuple(row) for row in body]
    assert any("the header is in line" in note for note in notes) or not any(
        "".join(row) for row in above
    )
    assert records[0].line == len(first) + 2


def test_where_the_header_cannot_be_told_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not in its first line but in line 3; .* delete the"):
        read(tmp_path, "Report,Open cases,all\nMade,2026,now\nid,message,kind\n1,a,b\n")


@pytest.mark.parametrize(
    "end", ["Total: 1 case", "Total,2,", "Grand Total,,", "Generated by X, on 2026", "-- count,1,"]
)
def test_a_reports_end_is_told_with_what_to_do(tmp_path: Path, end: str) -> None:
    records, _ = read(tmp_path, f"id,message,kind\n1,a,b\n2,c,d\n{end}\n{end}\n")
    assert [bool(r.problem) for r in records] == [False, False, True, True]
    for record in records[2:]:
        assert "end of a report" in str(record.problem) and "delete the" in str(record.problem)


@pytest.mark.parametrize("ids", [["pear", "total", "fig"], ["T-1", "total-2", "T-3"]])
def test_an_id_may_be_called_like_a_reports_end(tmp_path: Path, ids: list[str]) -> None:
    records, _ = read(tmp_path, "id,message,kind\n" + "".join(f"{one},a,b\n" for one in ids))
    assert [r.problem for r in records] == [None] * 3


@IN_FOLDER
@given(BODIES, BODIES, st.permutations(NAMES), st.booleans(), st.sampled_from(["{}", " {} "]),
       st.sampled_from([str, str.upper, str.title]))  # fmt: skip
def test_files_that_were_joined_with_their_headers(
    tmp_path: Path,
    one: list[list[str]],
    two: list[list[str]],
    order: list[str],
    mark: bool,
    around: str,
    case: Callable[[str], str],
) -> None:
    again = [around.format(case(name)) for name in order]
    second = [[f"U{row[0]}" if n == "id" else row[NAMES.index(n)] for n in order] for row in two]
    first, other = written([NAMES, *one]).encode(), written([again, *second]).encode()
    data = first + (b"\xef\xbb\xbf" if mark else b"") + other
    expected = [tuple(row) for row in one] + [(f"U{row[0]}", *row[1:]) for row in two]
    records, notes = read(tmp_path, data)
    assert values(records) == expected
    assert notes == [f"line {len(one) + 2} repeats the header and is not a record"]
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress(first) + gzip.compress(other))
    assert values(list(read_records(path, "id"))) == expected


def test_a_second_header_of_other_columns_spoils_what_it_stands_above(tmp_path: Path) -> None:
    records, _ = read(tmp_path, "id,message,kind\n1,a,b\nid,kind,extra\n2,c,d\n3,e,f\n")
    assert [bool(r.problem) for r in records] == [False, True, True, True]
    assert "to other columns, those of line 3" in str(records[2].problem)


IDS = st.sampled_from(["{}", "T-{:04}", "{}@x.com", "00{}", "a{}-b{}"])


@IN_FOLDER
@given(
    IDS, st.integers(0, 4), st.integers(1, 3),
    st.sampled_from(['the pipe is 6"', 'said "yes"', "", '"'])
)  # fmt: skip
def test_an_unclosed_quote_swallows_no_record(
    tmp_path: Path, make: str, place: int, before: int, closing: str
) -> None:
    ids = [make.format(n, n) for n in range(8)]
    lines = [f"{one},plain {n},x" for n, one in enumerate(ids)]
    lines[place] = f'{ids[place]},"never closed,x'
    if closing:
        lines[place + before] = f"{ids[place + before]},{closing},x"
    records, _ = read(tmp_path, "\n".join(["id,message,kind", *lines, ""]))
    assert [r.id for r in records] == ids
    assert records[place].problem is not None and "quot" in records[place].problem
    fine = [r for n, r in enumerate(records) if n not in (place, place + before)]
    assert all(r.problem is None for r in fine)


THREADS = ["On Monday, Ann wrote:", "- 3, two, one", "1, 2, 3", "Dear Sir, hello, there", ", , ,",
           "Regards, Bob, CEO", "x", ""]  # fmt: skip


@IN_FOLDER
@given(st.lists(st.sampled_from(THREADS), min_size=2, max_size=8), IDS)
def test_lines_of_a_long_text_are_no_records(tmp_path: Path, thread: list[str], make: str) -> None:
    rows = [[make.format(n, n), "\n".join(thread), "x"] for n in range(3)]
    records, _ = read(tmp_path, written([NAMES, *rows]))
    assert values(records) == [tuple(row) for row in rows]


@pytest.mark.parametrize("tail", ["\x1a", "\r\n\x1a\x1a"])
def test_marks_of_a_files_ends_are_no_records(tmp_path: Path, tail: str) -> None:
    text = f"id,message,kind\n1,a,b\n\ufeff2,c,d\n\ufeff\n{tail}"
    assert values(read(tmp_path, text)[0]) == [("1", "a", "b"), ("2", "c", "d")]


@pytest.mark.parametrize("name", ["\u200bid", " id\xa0", "\ufeffid"])
def test_what_nobody_sees_in_a_name_is_none_of_it(tmp_path: Path, name: str) -> None:
    assert values(read(tmp_path, f"{name},message,kind\n1,a,b\n")[0]) == [("1", "a", "b")]


def test_what_the_first_records_show_is_said_before_any_run(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"Open cases\n\nid,message\n1,caf\xe9\n2,b\n")
    made = surelocal("init", tmp_path / "job", "--records", tmp_path / "r.csv")
    checked = surelocal("validate", tmp_path / "job" / "job.yaml")
    for result in (made, checked):
        assert result.exit_code == 0
        assert "the header is in line 3; the lines above it are skipped" in result.stderr
        assert "1 of the first 2 records cannot be used; the first one: line 4: byte 0xe9" in (
            result.stderr
        )


@IN_FOLDER
@given(BODIES, st.sampled_from(",;\t|"))
def test_the_delimiter_of_a_file_that_nobody_described(
    tmp_path: Path, body: list[list[str]], delimiter: str
) -> None:
    (tmp_path / "r.csv").write_text(written([NAMES, *body], delimiter), "utf-8")
    assert likely_delimiter(tmp_path / "r.csv", "id") == delimiter
