"""A record that waits is asked later exactly as it would have been at once, whatever it holds."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.answering.prompts import renderer_of
from runner.errors import RecordError
from runner.formats.typed_json import TAG, read, written
from runner.job import Job, digest
from runner.ledger import open_ledger
from runner.records import read_records
from runner.records.source import job_records
from runner.types import Outcome, Reason, Record, Status
from tests.fakes import JOB

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ZONES = st.sampled_from([None, datetime.UTC, ZoneInfo("Europe/Berlin"),
                         datetime.timezone(datetime.timedelta(minutes=-210))])  # fmt: skip
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**40), 10**40), st.floats(allow_nan=False), TEXT
)
ODD = st.one_of(
    st.dates(), st.datetimes(timezones=ZONES), st.times(), st.timedeltas(), st.uuids(),
    st.decimals(allow_nan=False), st.binary(max_size=8),
)  # fmt: skip
VALUES = st.recursive(
    PLAIN | ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from(["a", "b", TAG, ""]), inner, max_size=3),
    ),
    max_leaves=8,
)


def kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return [(kinds(name), kinds(each)) for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [type(value), *map(kinds, value)]
    return type(value)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "a", TAG]), VALUES))
def test_what_is_held_comes_back_as_it_was(fields: dict[str, Any]) -> None:
    again = read(written(fields))
    assert again == fields
    assert kinds(again) == kinds(fields)


@settings(deadline=None)
@given(st.dictionaries(TEXT, PLAIN | st.lists(PLAIN)))
def test_plain_values_are_held_as_plain_json(fields: dict[str, Any]) -> None:
    text = written(fields)
    if TAG not in fields:
        assert json.loads(text) == fields
        assert text == json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def test_what_former_versions_held_is_read() -> None:
    assert read('{"a":{"$type":"x"},"b":["2026-01-02"]}') == {
        "a": {"$type": "x"},
        "b": ["2026-01-02"],
    }


TEMPLATE = (
    "{{ id }}|{% for name, value in record.items() %}{{ name }}="
    "{% if value is none %}-{% else %}{{ value }}{% if value is mapping %}{{ value | tojson }}"
    "{% endif %}{% endif %};{% endfor %}"
    "{% if at is defined and at %}{{ at.year }} {{ at.strftime('%Z %H') }} {{ amount + 1 }}"
    "{% endif %}"
)


def both(tmp_path: Path, records: Iterator[Record], template: str = TEMPLATE) -> list[Any]:
    """The prompts at once, which are those of the records as the ledger gives them back."""
    job = Job.model_validate({**JOB, "prompt": {"user": template}})
    made: list[Any] = []
    render = renderer_of(job).render

    def prompt(record: Record) -> object:
        try:
            return render(record).messages
        except RecordError as error:
            return str(error)

    with open_ledger(tmp_path / "run") as ledger:
        for record in records:
            outcome = Outcome(record.position, record.id, Status.WAITING, reason=Reason.RULE)
            ledger.put(outcome, digest(dict(record.given)), held=record)
            made.append(prompt(record))
        ledger.commit()
        held = ledger.take_waiting(len(made))
    assert [prompt(one.record) for one in held] == made
    return made


COLUMNS: dict[str, pa.Array] = {
    "date": pa.array([datetime.date(2026, 1, 2), None]),
    "at": pa.array(
        [datetime.datetime(2026, 7, 1, 12, 30), None], pa.timestamp("us", "Europe/Berlin")
    ),
    "nano": pa.array([1, 1_000_000_000], pa.timestamp("ns")),
    "time": pa.array([datetime.time(1, 2, 3, 4), None]),
    "long": pa.array([5, None], pa.duration("ns")),
    "amount": pa.array([Decimal("12.50"), None], pa.decimal128(10, 2)),
    "map": pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64())),
    "struct": pa.array([{"d": datetime.date(2026, 1, 2), "n": 0.1}, None]),
    "list": pa.array([[Decimal("1.10"), None], None], pa.list_(pa.decimal128(5, 2))),
    "bytes": pa.array(["é".encode(), b"\xff"]),
    "nan": pa.array([float("nan"), 0.5]),
    "single": pa.array([0.1, None], pa.float32()),
    "big": pa.array([2**63, 0], pa.uint64()),
    "category": pa.array(["x", None]).dictionary_encode(),
    "late": pa.array([253_402_300_800_000_000, None], pa.timestamp("us")),
}


def test_a_parquet_files_records_are_asked_alike(tmp_path: Path) -> None:
    table = pa.table({"id": pa.array([1.0, 2.0]), **COLUMNS})
    pq.write_table(table, tmp_path / "r.parquet")
    items = "record.items() if name not in ('bytes', 'late')"
    template = TEMPLATE.replace("record.items()", items)
    first, second = both(tmp_path, read_records(tmp_path / "r.parquet", "id"), template)
    assert not isinstance(first, str), first
    text = first[0].content
    assert text.startswith("1.0|") and "2026 CEST 14 13.50" in text and "nan=-" in text
    assert isinstance(second, tuple)


@pytest.mark.parametrize(
    ("name", "content", "types"),
    [
        ("r.csv", "id,at,amount\n1,2026-01-02T03:04:05+02:00,12.50\n2,,\n",
         {"at": "datetime", "amount": "decimal"}),
        ("r.csv", "id,at,amount\n1,2026-01-02,007\n", {"at": "date", "amount": "int"}),
        ("r.jsonl", '{"id": 1, "x": [1.10, NaN, {"(type)": ["date", "x"]}], "n": 1e400}\n', {}),
        ("r.jsonl", '{"id": 1, "at": "2026-01-02", "amount": "1.5"}\n',
         {"at": "date", "amount": "float"}),
    ],
)  # fmt: skip
def test_a_text_files_records_are_asked_alike(
    tmp_path: Path, name: str, content: str, types: dict[str, str]
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    records = {"path": str(tmp_path / name), "types": types}
    both(tmp_path, job_records(Job.model_validate({**JOB, "records": records})))


ROWS = st.fixed_dictionaries(
    {
        "at": st.datetimes(timezones=ZONES),
        "u": st.uuids(),
        "amount": st.decimals(-1000, 1000, places=2),
        "more": VALUES,
    }
)


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_any_values_are_asked_alike(tmp_path_factory: Any, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    made = (Record(n, str(n), {"id": n, **row}, n + 1) for n, row in enumerate(rows))
    both(folder, made)


# -- what cannot be read, and ids -----------------------------------------------------------------


def test_one_odd_cell_is_one_records_and_only_where_it_is_used(tmp_path: Path) -> None:
    table = pa.table(
        {"id": pa.array([1, 2]), "late": COLUMNS["late"].fill_null(0), "m": ["a", "b"]}
    )
    pq.write_table(table, tmp_path / "r.parquet")
    records = list(read_records(tmp_path / "r.parquet", "id"))
    assert [one.problem for one in records] == [None, None]
    job = {**JOB, "prompt": {"user": "{{ m }}"}}
    for record in records:
        renderer_of(Job.model_validate(job)).render(record)
    uses = ("{{ late }}", "{{ late.year }}", "{{ late ~ 'x' }}", "{% if late > 3 %}x{% endif %}")
    for use in (*uses, "{{ late | string }}", "{{ late == late }}", "{{ record | tojson }}"):
        renderer = renderer_of(
            Job.model_validate({**JOB, "prompt": {"user": f"{{{{ m }}}} {use}"}})
        )
        with pytest.raises(RecordError):
            renderer.render(records[0])


def test_float_ids_are_whole_and_odd_ones_are_told(tmp_path: Path) -> None:
    ids = pa.array([1001.0, 1.5, float("nan"), None, 7.01e17])
    pq.write_table(pa.table({"id": ids}), tmp_path / "r.parquet")
    found = list(read_records(tmp_path / "r.parquet", "id"))
    assert [one.id for one in found][:4] == ["1001", "1.5", "line-3", "line-4"]
    assert [one.problem is None for one in found] == [True, True, False, False, False]
    assert "too large to be exact" in str(found[4].problem)


def test_a_plain_records_identity_stays_what_it_was() -> None:
    fields = {"id": "1", "n": 5, "x": None, "l": [1, {"a": 1.5}], "day": datetime.date(2026, 1, 2)}
    assert digest(fields) == digest({**fields, "day": "2026-01-02"})
    typed = Record(0, "1", {"id": 1}, 2, raw={"id": "1"})
    assert replace(typed, position=5).given == {"id": "1"}
    assert uuid.UUID(int=1) == read(written({"u": uuid.UUID(int=1)}))["u"]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (pa.array([b"\xff\x00", b"\xff\x01"]), "the id is bytes that are not text"),
        (pa.array([-(10**6), -(10**6)], pa.date32()), "the id is a date32[day] that Python cannot"),
        (pa.array([True, False]), "the id is a boolean"),
        (pa.array([[1], [2]]), "the id is a list"),
        (pa.array([{"a": 1}, {"a": 2}]), "the id is an object"),
    ],
)
def test_what_cannot_name_a_record_is_told(tmp_path: Path, ids: Any, said: str) -> None:
    pq.write_table(pa.table({"id": ids, "message": pa.array(["a", "b"])}), tmp_path / "r.parquet")
    found = list(read_records(tmp_path / "r.parquet", "id"))
    assert all(said in str(each.problem) for each in found)
    assert len({each.id for each in found}) == 2  # neither is lost for the other
