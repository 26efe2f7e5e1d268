"""People's decisions: out to a spreadsheet and back, all of a file or nothing of it."""

from __future__ import annotations

import csv
import fcntl
import getpass
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from escalation.certify.labels import read_labels
from runner.errors import InputError
from runner.formats.formula_cells import guarded, unguarded
from runner.job.file import load_job
from runner.ledger import read_ledger
from runner.review import import_reviews
from runner.types import WHOLE, Completion, Constraint, Usage
from tests import fakes, jobs
from tests.fakes import read_rows, surelocal
from tests.stand_in import StandIn

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["lost_card", "card_arrival"]},
        "count": {"type": "integer"},
        "urgent": {"type": "boolean"},
        "team": {"type": ["string", "null"]},
    },
    "required": ["intent", "team"],
    "additionalProperties": False,
}
NO_KEY = {"api_key_env": "NOBODY_HAS_THIS_KEY"}
TO_REVIEW = [{"when": "kind == 'review'", "to": "review", "reason": "legal"}]
FORMULA = '=HYPERLINK("http://evil.example","Klick, größer als 5 €")'
Row = dict[str, Any]


def sheet(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def save(path: Path, rows: Iterable[Row], **changes: Any) -> Path:
    """As a spreadsheet saves it: with a byte-order mark and its own line ends."""
    rows = list(rows)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def queue_job(folder: Path, rows: list[Row] | None = None, **keys: Any) -> Path:
    """A job whose records all go to review by rule, run."""
    given = rows or jobs.records(["R-1", "R-2"], "review", message=FORMULA, reason="own")
    whole = {"routes": TO_REVIEW, "answer": {"schema": SCHEMA}, **keys}
    job = jobs.write_job(folder, "http://localhost:1", given, NO_KEY, **whole)
    result = surelocal("run", job, "--run-dir", folder / "run")
    assert result.exit_code == 3, result.stderr
    return folder / "run"


def confident(text: str = '{"intent": "lost_card"}') -> Completion:
    usage = Usage(input_tokens=9, output_tokens=1)
    return Completion(text, "small", "stop", (text,), (-0.001,), usage)


def local_job(folder: Path, patch: pytest.MonkeyPatch, ids: list[str], **keys: Any) -> Path:
    """A job that the local model answers, ids that begin with U unsurely, run."""

    def answer(text: str) -> Completion:
        return jobs.unsure() if "<U" in text else confident()

    jobs.use_engine(patch, jobs.Scripted(answer))
    local = {"model": str(jobs.DEMO_MODEL)}
    confidence = {"threshold": 0.9, "below": "review"}
    rows = jobs.records(ids, "local")
    keys = {"local": local, "confidence": confidence, "routes": TO_REVIEW, **keys}
    job = jobs.write_job(folder, "http://localhost:1", rows, NO_KEY, **keys)
    result = surelocal("run", job, "--run-dir", folder / "run")
    assert result.exit_code in (0, 3), result.stderr
    return folder / "run"


def results(run: Path) -> dict[str, Row]:
    return {row["id"]: row for row in read_rows(run / "results.jsonl")}


def decided(run: Path) -> list[tuple[Any, ...]]:
    return jobs.query(run, "SELECT record_id, who, value, note FROM reviews ORDER BY rowid")


def refused(run: Path, path: Path, status: int = 2) -> str:
    """The sentence of an import that changes nothing."""
    before = (run / "results.jsonl").read_bytes()
    result = surelocal("review", "import", run, path)
    assert (result.exit_code, result.stdout) == (status, "")
    assert (run / "results.jsonl").read_bytes() == before
    assert decided(run) == []
    return result.stderr


# -- the round trip -----------------------------------------------------------------------------


def test_the_queue_goes_out_as_csv_and_comes_back(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    exported = surelocal("review", "export", run, path)
    assert exported.exit_code == 0, exported.stderr
    assert "2 records in" in exported.stderr
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,")
    rows = sheet(path)
    parts = ["decision.intent", "decision.count", "decision.urgent", "decision.team"]
    assert list(rows[0]) == [
        "id", "kind", "message", "record.reason", "reason", "problem", "local_answer",
        "local_confidence", "closed_answer", "sample", *parts, "note",
    ]  # fmt: skip
    assert rows[0]["message"] == f"'{FORMULA}"
    assert (rows[0]["record.reason"], rows[0]["reason"]) == ("own", "legal")
    assert {row["sample"] for row in rows} == {"queue"}
    assert {row[name] for row in rows for name in [*parts, "note"]} == {""}

    filled = {"decision.intent": "Lost_Card", "decision.count": " 3 ", "decision.urgent": "TRUE"}
    rows[1] |= filled | {"note": "ruft zurück 📞"}
    imported = surelocal("review", "import", run, save(path, rows), "--by", "Zoë", "--json")
    assert imported.exit_code == 3, imported.stderr  # R-1 is not decided yet
    value = {"intent": "lost_card", "count": 3, "urgent": True, "team": None}
    row = results(run)["R-2"]
    assert (row["status"], row["decided_by"], row["value"]) == ("done", "human", value)
    assert (row["reason"], row["model"], row["error"]) == ("legal", None, None)
    assert results(run)["R-1"]["status"] == "review"
    ((name, who, stored, note),) = decided(run)
    assert (name, who, json.loads(stored), note) == ("R-2", "Zoë", value, "ruft zurück 📞")
    counts = {"decided": 1, "corrected": 0, "confirmed": 0, "unchanged": 0, "undecided": 1}
    summary = json.loads(imported.stdout)
    assert (summary["review"], summary["decided_by"]) == (counts, {"human": 1})


def test_the_same_file_again_changes_nothing_and_another_corrects(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    rows = [row | {"decision.intent": "lost_card"} for row in sheet(path)]
    assert surelocal("review", "import", run, save(path, rows)).exit_code == 0
    before = (run / "results.jsonl").read_bytes(), decided(run)
    assert {who for _, who, _, _ in before[1]} == {getpass.getuser()}
    again = surelocal("review", "import", run, path, "--by", "somebody else")
    assert "2 unchanged" in again.stderr
    assert ((run / "results.jsonl").read_bytes(), decided(run)) == before
    rows[0]["decision.intent"] = "card_arrival"
    result = surelocal("review", "import", run, save(path, rows), "--by", "Ann")
    assert "1 corrected, 1 unchanged" in result.stderr
    assert results(run)["R-1"]["value"]["intent"] == "card_arrival"
    assert [who for _, who, _, _ in decided(run)][2:] == ["Ann"]
    # A rerun leaves what people decided as it is, and the queue is empty now.
    rerun = surelocal("run", tmp_path / "job.yaml", "--run-dir", run)
    assert rerun.exit_code == 0, rerun.stderr
    assert results(run)["R-1"]["decided_by"] == "human"
    empty = surelocal("review", "export", run, tmp_path / "empty.csv")
    assert (empty.exit_code, sheet(tmp_path / "empty.csv")) == (0, [])
    assert "0 records" in empty.stderr


def test_jsonl_keeps_types_and_takes_them_as_they_are(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.jsonl"
    surelocal("review", "export", run, path)
    rows = read_rows(path)
    assert rows[0]["message"] == FORMULA
    assert (rows[0]["decision"], rows[0]["note"]) == (None, "")
    rows[0]["decision"] = {"intent": "lost_card", "team": "cards", "count": "3"}
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    assert "line 1: `decision.count`: '3' is not of type 'integer'" in refused(run, path)
    path.write_text(text.replace('"3"', "3"))
    assert "1 decided, 1 undecided" in surelocal("review", "import", run, path).stderr
    assert results(run)["R-1"]["value"] == {"intent": "lost_card", "team": "cards", "count": 3}


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        ({"labels": ["yes", "no"]}, " Yes ", "yes"),
        ({"labels": ["=1", "no"]}, "'=1", "=1"),
        ({"text": True}, "I'm sorry, but I cannot help.", "I'm sorry, but I cannot help."),
        ({"text": True}, "zwei\nZeilen", "zwei\nZeilen"),
        ({"schema": {"type": "object"}}, '{"free": [1]}', {"free": [1]}),
    ],
)
def test_labels_text_and_open_schemas_have_one_column(
    tmp_path: Path, answer: Row, given: str, value: Any
) -> None:
    run, path = queue_job(tmp_path, answer=answer), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    rows = sheet(path)
    assert list(rows[0])[-2:] == ["decision", "note"]
    rows[0]["decision"] = given
    result = surelocal("review", "import", run, save(path, rows))
    assert "1 decided" in result.stderr
    assert results(run)["R-1"]["value"] == value


def test_ids_that_look_like_formulas_come_back_as_they_were(tmp_path: Path) -> None:
    ids = ["=1+1", "'=1", "-5", "@x", "\t+", "00123", "-a", "ü"]
    rows = [{"id": name, "kind": "review", "message": name, "n": [1, {"a": "é"}]} for name in ids]
    run, path = queue_job(tmp_path, rows), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    got = sheet(path)
    assert [row["id"] for row in got[:4]] == ["'=1+1", "''=1", "-5", "'@x"]
    assert got[0]["n"] == '[1, {"a": "é"}]'
    filled = [row | {"decision.intent": "lost_card"} for row in got]
    blank = dict.fromkeys(got[0], "")  # as spreadsheets leave them
    result = surelocal("review", "import", run, save(path, [*filled, blank]))
    assert result.exit_code == 0, result.stderr
    assert [row["decided_by"] for row in results(run).values()] == ["human"] * len(ids)
    lines = [{"id": name, "decision": {"intent": "lost_card", "team": None}} for name in ids]
    path = tmp_path / "lines.jsonl"  # no spreadsheet, no guard
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert f"{len(ids)} unchanged" in surelocal("review", "import", run, path).stderr


def test_a_records_own_fields_keep_their_names_where_they_can(tmp_path: Path) -> None:
    own = {"id": "mine", "note": "n", "record.note": "m", "decision.intent": "d", "=a": "b"}
    rows = [{"nr": 1, "kind": "review", "message": "m", **own}, {"nr": 2, "kind": "review",
            "message": "m", "later": True}]  # fmt: skip
    run = queue_job(tmp_path, rows, records={"path": "records.jsonl", "id": "nr"})
    path = tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    first, second = sheet(path)
    assert list(first)[:9] == [
        "id", "nr", "kind", "message", "record.id", "record.note", "record.record.note",
        "record.decision.intent", "'=a",
    ]  # fmt: skip
    assert [first[name] for name in ("id", "nr", "record.id", "record.note")] == [
        "1", "1", "mine", "n",
    ]  # fmt: skip
    assert (first["later"], second["later"], second["record.id"]) == ("", "true", "")
    save(path, [first | {"decision.intent": "lost_card"}, second])
    assert "1 decided, 1 undecided" in surelocal("review", "import", run, path).stderr


@pytest.mark.parametrize("text", ["=1", "'=1", "''@", "+49 30", "-5", "-5,20", "'a", "", "\uff1d1"])
def test_a_guarded_text_is_no_formula_and_comes_back(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert guarded(text)[:1] not in "=+@\t\r\uff1d" or not guarded(text)


def test_a_parquet_job_with_its_own_types(tmp_path: Path) -> None:
    import datetime
    import decimal

    when = datetime.datetime(2026, 1, 2)
    fields = {"id": [7], "kind": ["review"], "message": ["m"], "when": [when]}
    table = pa.table(fields | {"sum": [decimal.Decimal("1.50")], "none": [None]})
    pq.write_table(table, tmp_path / "records.parquet")
    run = queue_job(tmp_path, records={"path": "records.parquet"})
    for ending in ("csv", "jsonl"):
        surelocal("review", "export", run, tmp_path / f"queue.{ending}")
    (row,) = sheet(tmp_path / "queue.csv")
    assert [row[n] for n in ("id", "when", "sum", "none")] == ["7", str(when), "1.50", ""]
    (line,) = read_rows(tmp_path / "queue.jsonl")
    assert (line["id"], line["sum"], line["none"]) == ("7", "1.50", None)
    path = save(tmp_path / "done.csv", [row | {"decision.intent": "lost_card"}])
    assert surelocal("review", "import", run, path).exit_code == 0


# -- what is refused ----------------------------------------------------------------------------


def one(column: str, value: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [rows[0] | {"decision.intent": "lost_card", column: value}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (one("decision.intent", "stolen"), [
            "nothing was imported: 1 row cannot be used",
            "line 2: `decision.intent`: 'stolen' is none of lost_card, card_arrival; correct it",
        ]),
        (one("decision.count", "2?"), ["line 2: `decision.count`: '2?' is not of type 'integer'"]),
        (
            lambda rows: [row | {"decision.count": "2"} for row in rows],
            ["2 rows", "line 2: `decision.intent` is empty, and the schema requires it; fill it"],
        ),
        (one("id", "R-9"), ["line 2: R-9 is no record of this run; a spreadsheet may have"]),
        (one("id", ""), ["line 2: the id column `id` is empty"]),
        (
            lambda rows: [row | {"id": "R-1", "decision.intent": "lost_card"} for row in rows],
            ["line 3: R-1 is decided on line 2 already; keep one"],
        ),
        (one("decision.intnet", "x"), [
            "line 1: the answer has no property for the column `decision.intnet`; did you mean "
            "`decision.intent`?"
        ]),
        (
            lambda rows: [{"nr": "1", "decision.intent": "lost_card"}],
            ["line 1: no column `id`; give a file of `surelocal review export`"],
        ),
        (
            lambda rows: [
                row | {"id": n, "decision.intent": "lost_card"} for n in range(9) for row in rows
            ],
            ["18 rows cannot be used", "line 2: 0 is no", "line 4: 1 is no", "  and 15 more"],
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_leaves_all_as_it_was(
    tmp_path: Path, change: Callable[[list[Row]], list[Row]], sentences: list[str]
) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    rows = change(sheet(path))
    names = {name: None for row in rows for name in row}
    said = refused(run, save(path, [dict.fromkeys(names, "") | row for row in rows]))
    assert [sentence for sentence in sentences if sentence not in said] == [], said
    assert said.count("  line") <= 3


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("r.csv", b"", "r.csv is empty: it has no header line"),
        ("r.csv", b"nr;decision.intent\nR-1;lost_card\n", "line 1: no column `id`"),
        ("r.csv", b"id,status,value\nR-1,done,x\n", "line 1: no column `decision`"),
        ("r.csv", "id,decision.intent,m\nR-1,lost_card,é\n".encode("latin-1"), "is not UTF-8"),
        ("r.csv", b'id,decision.intent\nR-1,"lost_card\n', "line 2: broken CSV quoting"),
        ("r.csv", b"id,decision.intent\nR-1,a,b\n", "line 2: 3 columns, but the header has 2"),
        ("r.csv", b"id,decision.intent\n" + b"R-1,a,b\n" * 9, "line 2: 3 columns, but"),
        ("r.csv", "id\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("r.jsonl", b"R-1\n", "line 1: not JSON"),
        ("r.jsonl", b'{"id": "R-1", "decision": {}}', "`decision.intent` is empty"),
        ("r.jsonl", b'{"id": "R-1", "decision": [1]}', "`decision` holds no JSON object"),
        ("r.jsonl", b'{"id": "R-1", "decision.x": 1}', "no property for the column `decision.x`"),
        ("r.xlsx", b"", "a review file is CSV or JSONL; name it as .csv or .jsonl"),
        ("gone.csv", None, "cannot read the records file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, data: bytes | None, sentence: str) -> None:
    run, path = queue_job(tmp_path), tmp_path / name
    if data is not None:
        path.write_bytes(data)
    assert sentence in refused(run, path)


def test_labels_and_text_say_what_they_take(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path, answer={"labels": ["yes", "no"]}), tmp_path / "queue.jsonl"
    path.write_text('{"id": "R-1", "decision": "maybe"}')
    assert "`decision`: 'maybe' is none of yes, no; correct it, or leave it" in refused(run, path)
    run = queue_job(tmp_path / "text", answer={"text": True})
    path.write_text('{"id": "R-1", "decision": 5}')
    assert "`decision` is no text; write it as one" in refused(run, path)


def test_an_export_never_overwrites_decisions(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    path.write_text("my work")
    result = surelocal("review", "export", run, path)
    assert result.exit_code == 2
    assert "queue.csv is already there, and may hold decisions" in result.stderr
    assert path.read_text() == "my work"
    result = surelocal("review", "export", run, path / "below.csv")
    assert (result.exit_code, "cannot write the review file" in result.stderr) == (1, True)
    result = surelocal("review", "export", run, tmp_path / "queue.txt")
    assert (result.exit_code, "is CSV or JSONL" in result.stderr) == (2, True)
    result = surelocal("review", "export", run, tmp_path / "x.csv", "--audit", 1, "--sample", 1)
    assert (result.exit_code, "not both" in result.stderr) == (2, True)


def test_a_run_directory_in_use_or_none(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another surelocal is at work in" in refused(run, path)
        result = surelocal("review", "export", run, tmp_path / "other.csv")
        assert (result.exit_code, "another surelocal" in result.stderr) == (2, True)
    result = surelocal("review", "export", tmp_path / "none", path)
    assert (result.exit_code, "is not a run directory" in result.stderr) == (2, True)
    assert not (tmp_path / "none").exists()


def test_nobody_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    result = surelocal("review", "import", run, path, "--by", " ")
    assert (result.exit_code, "who decided? Say it with --by NAME" in result.stderr) == (2, True)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # a container's user without a name
    assert "who decided?" in refused(run, path)


@pytest.mark.process
def test_what_is_decided_without_a_person_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = local_job(tmp_path, monkeypatch, ["A", "U"]), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    (row,) = sheet(path)
    assert (row["id"], row["reason"]) == ("U", "unsure")
    assert (row["local_answer"], row["local_confidence"]) == ('{"intent": "lost_card"}', "0.0498")
    row |= {"id": "A", "decision.intent": "card_arrival"}
    said = refused(run, save(path, [row]))
    assert "A is not in review: it was answered by local; take the row out, or check" in said
    assert jobs.query(run, "SELECT * FROM audits") == []


# -- the closed model's unusable answers --------------------------------------------------------


@pytest.mark.process
def test_what_the_closed_model_answered_wrongly_is_shown_to_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", jobs.KEY)
    names = ["off_enum", "max_tokens", "refusal"]
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as api:
        for name in names:
            api.faults.push(name, when=jobs.marked(name))
        ran = jobs.run(jobs.write_job(tmp_path / "job", api.url, jobs.records(names)))
    path = tmp_path / "queue.csv"
    surelocal("review", "export", ran.run_dir, path)
    rows = {row["id"]: row for row in sheet(path)}
    assert {row["reason"] for row in rows.values()} == {"closed_invalid"}
    assert "violates the schema at `intent`" in rows["off_enum"]["problem"]
    assert set(json.loads(rows["off_enum"]["closed_answer"])) == {"intent"}
    assert "cut off" in rows["max_tokens"]["problem"] and rows["max_tokens"]["closed_answer"]
    assert "refused" in rows["refusal"]["problem"]
    filled = [row | {"decision.intent": "lost_card"} for row in rows.values()]
    assert surelocal("review", "import", ran.run_dir, save(path, filled)).exit_code == 0
    after = results(ran.run_dir)
    assert {(row["decided_by"], row["reason"]) for row in after.values()} == {
        ("human", "closed_invalid")
    }
    # What was paid stays paid.
    assert {n: after[n]["cost_usd"] for n in names} == {n: ran.rows[n]["cost_usd"] for n in names}


# -- samples ------------------------------------------------------------------------------------

IDS = [f"A-{n:02}" for n in range(30)]


def checked(run: Path) -> list[tuple[Any, ...]]:
    return jobs.query(
        run, "SELECT record_id, wrong, judge, alarms FROM audits ORDER BY at, position"
    )


@pytest.mark.process
def test_a_person_checks_a_random_sample_of_the_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = local_job(tmp_path, monkeypatch, [*IDS, "U-1"])
    path = tmp_path / "audit.csv"
    assert surelocal("review", "export", run, path, "--audit", 10).exit_code == 0
    rows = sheet(path)
    drawn = [row["id"] for row in rows]
    assert len(set(drawn)) == 10 and "U-1" not in drawn and drawn != sorted(drawn)
    assert {(row["sample"], row["local_answer"]) for row in rows} == {
        ("accepted", '{"intent": "lost_card"}')
    }
    assert rows[0]["message"] == f"<{drawn[0]}> where is my card"
    surelocal("review", "export", run, tmp_path / "same.csv", "--audit", 10)
    assert (tmp_path / "same.csv").read_bytes() == path.read_bytes()
    surelocal("review", "export", run, tmp_path / "other.csv", "--audit", 10, "--seed", "b")
    assert [row["id"] for row in sheet(tmp_path / "other.csv")] != drawn

    for row in rows[:4]:
        row["decision.intent"] = "lost_card"
    rows[2]["decision.intent"] = "card_arrival"
    result = surelocal("review", "import", run, save(path, rows), "--by", "Ann")
    assert "1 corrected, 3 confirmed, 6 undecided" in result.stderr
    verdicts = [(row["id"], row["id"] == drawn[2], "Ann", 0) for row in rows[:4]]
    assert checked(run) == sorted(verdicts)  # in the input's order, not in the file's
    right, wrong = results(run)[drawn[0]], results(run)[drawn[2]]
    assert (right["decided_by"], right["reason"]) == ("local", "confident")
    assert (wrong["decided_by"], wrong["reason"], wrong["model"]) == ("human", "audit", None)
    assert wrong["value"] == {"intent": "card_arrival"}

    assert "4 unchanged" in surelocal("review", "import", run, path).stderr
    assert checked(run) == sorted(verdicts)
    rows[2]["decision.intent"] = "lost_card"  # on second thoughts
    surelocal("review", "import", run, save(path, rows), "--by", "Bob")
    assert (drawn[2], 0, "Bob", 0) in checked(run)
    # The next sample holds none that was checked, and is as random.
    surelocal("review", "export", run, tmp_path / "next.csv", "--audit", 99)
    rest = {row["id"] for row in sheet(tmp_path / "next.csv")}
    assert rest == set(IDS) - set(drawn[:4])


@pytest.mark.process
def test_verdicts_raise_the_audits_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = local_job(tmp_path, monkeypatch, IDS), tmp_path / "audit.csv"
    surelocal("review", "export", run, path, "--audit", 20)
    rows = [row | {"decision.intent": "card_arrival"} for row in sheet(path)]
    save(path, rows)
    rule = "confidence={target_error: 0.02, calibration: none.json}"
    job = load_job(tmp_path / "job.yaml", [rule]).job
    imported, summary = import_reviews(run, job, path, "Ann", run / "results.jsonl")
    assert imported.alarm is not None
    assert "20 of 20 checked answers were wrong" in imported.alarm
    assert "the next run accepts nothing any more" in imported.alarm
    assert any("20 accepted answers, 20 of them wrong" in words for words in summary.trust)
    again, _ = import_reviews(run, job, path, "Ann", run / "results.jsonl")
    assert (again.alarm, again.counts()["unchanged"]) == (None, 20)


@pytest.mark.process
def test_a_sample_of_all_is_labels_and_a_queue_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = local_job(tmp_path, monkeypatch, ["A-1", "U-2", "U-3"])
    path, queue = tmp_path / "sample.csv", tmp_path / "queue.csv"
    assert surelocal("review", "export", run, path, "--sample", 9).exit_code == 0
    rows = sheet(path)
    assert {row["id"] for row in rows} == {"A-1", "U-2", "U-3"}
    assert {(row["sample"], row["local_answer"]) for row in rows} == {("all", "")}
    constraint = Constraint(schema=jobs.SCHEMA)
    with pytest.raises(InputError, match=r"line 2: .* has no decision; the sample must be"):
        read_labels(path, "id", constraint)
    filled = [row | {"decision.intent": "card_arrival"} for row in rows]
    labels = read_labels(save(path, filled), "id", constraint)
    assert {name: dict(label.truth) for name, label in labels.items()} == {
        name: {"intent": "card_arrival"} for name in ("A-1", "U-2", "U-3")
    }
    job = tmp_path / "job.yaml"
    rule = ("--set", "confidence={target_error: 0.02, calibration: c.json}")
    certified = surelocal("calibrate", job, "--labels", path, *rule)
    assert "3 labels of records that reach the local model cannot certify" in certified.stderr

    surelocal("review", "export", run, queue)
    save(queue, [row | {"decision.intent": "lost_card"} for row in sheet(queue)])
    biased = surelocal("calibrate", job, "--labels", queue, *rule)
    assert biased.exit_code == 2
    assert "line 2: `sample` is 'queue', but certification needs a random sample" in biased.stderr
    assert "`surelocal review export RUN_DIR FILE --sample N`" in biased.stderr

    # The same file decides what waits for a person, and checks what was accepted.
    result = surelocal("review", "import", run, path)
    assert (result.exit_code, "2 decided, 1 corrected" in result.stderr) == (0, True)
    assert checked(run) == [("A-1", 1, getpass.getuser(), 0)]


@pytest.mark.parametrize(
    ("answer", "text", "truth"),
    [
        ({"labels": ["yes", "no"]}, "id,sample,decision\nR-1,all,no\n", {WHOLE: "no"}),
        ({"labels": ["=a", "no"]}, "id,sample,decision\n'=1,all,'=a\n", {WHOLE: "=a"}),
        ({"schema": SCHEMA}, "id,sample,decision.intent,decision.team\nR-1,all,lost_card,x\n",
         {"intent": "lost_card", "team": "x"}),
        ({"schema": SCHEMA}, 'id,sample,decision\nR-1,all,"{""intent"": ""lost_card"", '
         '""team"": null}"\n', {"intent": "lost_card", "team": None}),
    ],
)  # fmt: skip
def test_reviewed_labels_of_every_kind(tmp_path: Path, answer: Row, text: str, truth: Row) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    labels = answer.get("labels")
    constraint = Constraint(answer.get("schema"), tuple(labels) if labels else None)
    (found,) = read_labels(path, "id", constraint).items()
    assert (found[0], dict(found[1].truth)) == ("=1" if "'=1" in text else "R-1", truth)


@pytest.mark.process
def test_a_sample_needs_the_records_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = local_job(tmp_path, monkeypatch, IDS), tmp_path / "records.jsonl"

    def asked(*options: object) -> str:
        result = surelocal("review", "export", run, tmp_path / "s.csv", *options)
        assert result.exit_code == 2, result.stderr
        assert not (tmp_path / "s.csv").exists()
        return result.stderr

    whole = file.read_text()
    file.write_text(whole.replace("<A-03> where", "<A-03> when"))
    assert "line 4 is now A-03, and was A-03 or had other values" in asked("--audit", 30)
    assert "the records have changed since the run" in asked("--sample", 2)
    file.write_text("".join(whole.splitlines(keepends=True)[:5]))
    assert "does not hold A-" in asked("--audit", 30)
    file.write_text(whole + json.dumps({"id": "new", "kind": "local", "message": "m"}) + "\n")
    assert "the run has not reached new (line 31) yet" in asked("--sample", 2)
    file.unlink()
    assert "cannot read the records file" in asked("--sample", 2)


@pytest.mark.process
def test_a_sample_holds_no_record_that_is_in_error_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"A-{n:03}" for n in range(80)]
    run = local_job(tmp_path, monkeypatch, [*ids, "A-003", "", "A-007"])
    assert results(run)["A-003"]["status"] == "error"
    path, job = tmp_path / "labels.csv", tmp_path / "job.yaml"
    said = surelocal("review", "export", run, path, "--sample", 99).stderr
    assert "80 records in" in said
    assert f"decide every row, then: surelocal calibrate JOB.yaml --labels {path}" in said
    rows = sheet(path)
    assert sorted(row["id"] for row in rows) == ids
    save(path, [row | {"decision.intent": "lost_card"} for row in rows])
    rule = "confidence={target_error: 0.2, calibration: c.json}"
    certified = surelocal("calibrate", job, "--labels", path, "--set", rule)
    assert certified.exit_code == 0, certified.stderr


@pytest.mark.process
def test_a_record_that_was_fixed_since_wants_a_run_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = local_job(tmp_path, monkeypatch, ["A-1", "A-2", "A-1"]), tmp_path / "records.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], lines[2].replace("A-1", "A-3")]) + "\n")
    export = ("review", "export", run, tmp_path / "labels.csv", "--sample", 9)
    early = surelocal(*export)
    assert early.exit_code == 2 and "put the file back" not in early.stderr
    assert "line 3 is now A-3" in early.stderr
    assert "first give the same `surelocal run …` again" in early.stderr
    surelocal("run", tmp_path / "job.yaml", "--run-dir", run)
    assert "3 records in" in surelocal(*export).stderr


def test_a_sample_of_nothing(tmp_path: Path) -> None:
    run = queue_job(tmp_path)
    for option, why in (("--audit", "no accepted local answer"), ("--sample", "no record reaches")):
        result = surelocal("review", "export", run, tmp_path / "s.csv", option, 3)
        assert (result.exit_code, why in result.stderr) == (2, True), result.stderr


def test_results_that_cannot_be_written_lose_no_decision(tmp_path: Path) -> None:
    run, path = queue_job(tmp_path), tmp_path / "queue.csv"
    surelocal("review", "export", run, path)
    rows = [row | {"decision.intent": "lost_card"} for row in sheet(path)]
    save(path, rows)
    (run / "results.jsonl").unlink()
    (run / "results.jsonl").mkdir()  # the results cannot be written: the decisions are kept
    result = surelocal("review", "import", run, path)
    assert result.exit_code == 1
    assert "cannot write the results to" in result.stderr
    (run / "results.jsonl").rmdir()
    assert "2 unchanged" in surelocal("review", "import", run, path).stderr
    with read_ledger(run) as ledger:
        assert [str(outcome.decided_by) for outcome in ledger.outcomes()] == ["human", "human"]
    assert fakes.read_rows(run / "results.jsonl")[0]["decided_by"] == "human"


def on_a_small_disk(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where no file can grow past 150 kB."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    return subprocess.run(
        [sys.executable, "-m", "runner.cli.main", *map(str, arguments)],
        capture_output=True, text=True, cwd=jobs.ROOT, check=False, preexec_fn=small_files,
    )  # fmt: skip


@pytest.mark.process
def test_a_full_disk_leaves_no_half_of_a_file_and_no_half_of_an_import(tmp_path: Path) -> None:
    rows = jobs.records(["R-1", "R-2"], "review", message="m" * 100_000)
    run, path = queue_job(tmp_path, rows), tmp_path / "queue.jsonl"
    ran = on_a_small_disk("review", "export", run, path)
    assert ran.returncode == 1
    assert f"surelocal: cannot write the review file {path}: File too large" in ran.stderr
    assert not path.exists()
    decision = {"intent": "lost_card", "team": None}
    lines = [{"id": i, "decision": decision, "note": "n" * 100_000} for i in ("R-1", "R-2")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = on_a_small_disk("review", "import", run, path, "--by", "Ann")
    assert ran.returncode == 1, ran.stderr
    assert "make room there and run the same command again" in ran.stderr
    assert decided(run) == []
    with read_ledger(run) as ledger:
        assert [str(outcome.status) for outcome in ledger.outcomes()] == ["review", "review"]
    assert surelocal("review", "import", run, path).exit_code == 0
