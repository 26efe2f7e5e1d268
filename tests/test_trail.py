"""What left, a record's history, and a ledger that shows what was changed behind our back."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RunFailed
from runner.ledger import Egress, open_ledger
from runner.types import Completion, DecidedBy, Outcome, Reason, Status, Usage
from tests import jobs, scripted
from tests.fakes import read_rows, surelocal
from tests.stand_in import StandIn

TABLES = ("outcomes", "attempts", "audits", "reviews", "meta", "trail")
IDS = ["T-1", "C-1", "C-2", "L-1", "L-2", "U-1"]


@pytest.fixture(scope="module", autouse=True)
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", jobs.KEY)
        patch.setenv("COLUMNS", "200")
        yield patch


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    """Of the requests that the provider got."""
    return []


def answer(text: str) -> Completion:
    if "<U" in text:
        return jobs.unsure()
    usage = Usage(input_tokens=9, output_tokens=1)
    said = '{"intent": "lost_card"}'
    return Completion(said, "small", "stop", (said,), (-0.001,), usage)


def rows() -> list[dict[str, Any]]:
    kinds = {"T": "template", "C": "closed", "L": "local", "U": "local"}
    return [row for name in IDS for row in jobs.records([name], kinds[name[0]])]


def small_job(folder: Path, url: str, **keys: Any) -> Path:
    local = {"model": str(jobs.DEMO_MODEL)}
    return jobs.write_job(folder, url, rows(), **{"local": local, **keys})


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch, bodies: list[bytes]
) -> Path:
    """A run with a bit of everything: rules, local answers, paid ones, an error, an audit."""
    folder = tmp_path_factory.mktemp("trail")
    jobs.use_engine(patch, jobs.Scripted(answer))
    with StandIn(folder, oracle=lambda text: "card_arrival") as api:
        job = small_job(folder / "job", api.url)
        with (job.parent / "records.jsonl").open("a") as file:
            file.write("{broken\n")
        run = job.parent / "run"
        ran = surelocal("run", job, "--run-dir", run)
        assert ran.exit_code == 3, ran.stderr
        bodies += [request.raw.encode() for request in api.bill.requests()]
    sheet = folder / "checks.jsonl"
    exported = surelocal("review", "export", run, sheet, "--audit", 2)
    assert exported.exit_code == 0, exported.stderr
    checks = [row | {"decision": {"intent": "lost_card"}} for row in read_rows(sheet)]
    checks[1]["decision"] = {"intent": "card_arrival"}
    sheet.write_text("\n".join(map(json.dumps, checks)) + "\n")
    assert surelocal("review", "import", run, sheet, "--by", "Ada").exit_code == 3
    return run


@pytest.fixture
def mine(done: Path, tmp_path: Path) -> Path:
    """A copy of it to do what one likes with."""
    return Path(shutil.copytree(done, tmp_path / "mine"))


def tamper(run: Path, sql: str, *values: Any) -> None:
    database = sqlite3.connect(run / "ledger.sqlite")
    try:
        assert database.execute(sql, values).rowcount != 0, sql
        database.commit()
    finally:
        database.close()


def whole(run: Path, *options: object) -> dict[str, Any]:
    found = surelocal("status", run, "--verify", "--json", *options)
    assert found.exit_code == 0, found.stderr
    return dict(json.loads(found.stdout))


def found(run: Path, *options: object) -> str:
    """The sentence about what was done to it."""
    result = surelocal("status", run, "--verify", "--json", *options)
    assert result.exit_code == 1, result.stdout
    problem = json.loads(result.stdout)["problem"]
    assert problem and problem in result.stderr
    return str(problem)


def record(run: Path, name: str) -> dict[str, Any]:
    told = surelocal("status", run, "--record", name, "--json")
    assert told.exit_code == 0, told.stderr
    return dict(json.loads(told.stdout))


def words(run: Path, name: str) -> str:
    return surelocal("status", run, "--record", name).stdout


# -- what left ----------------------------------------------------------------------------------


@pytest.mark.process
def test_egress_lists_every_request_that_left_to_the_byte(done: Path, bodies: list[bytes]) -> None:
    lines = surelocal("status", done, "--egress", "--json").stdout.splitlines()
    sent = [json.loads(line) for line in lines]
    assert {row["id"] for row in sent} == {"C-1", "C-2", "U-1"}
    assert {row["sha256"] for row in sent} == {hashlib.sha256(b).hexdigest() for b in bodies}
    assert sorted(row["bytes"] for row in sent) == sorted(map(len, bodies))
    assert {(row["provider"], row["model"]) for row in sent} == {("anthropic", "claude-sonnet-5-5")}
    assert {row["state"] for row in sent} == {"settled"}
    table = [line.split("\t") for line in surelocal("status", done, "--egress").stdout.split("\n")]
    header, *cells = table[:-1]
    assert header[:2] == ["time", "id"] and len(cells) == 3
    assert {len(row) for row in cells} == {len(header)}
    assert sum(Decimal(row[-1]) for row in cells) == jobs.spent_usd(done)
    assert [row["time"] for row in sent] == [row[0] for row in cells] == sorted(r[0] for r in cells)


@pytest.mark.process
def test_egress_on_a_terminal_stands_in_columns(done: Path) -> None:
    reading, writing = pty.openpty()
    with open(reading, "rb", buffering=0) as terminal:
        subprocess.run(
            [sys.executable, "-m", "runner.cli.main", "status", done, "--egress"], stdout=writing,
            check=True, cwd=jobs.ROOT,
        )  # fmt: skip
        os.close(writing)
        header, *rows = terminal.read(1 << 16).decode().splitlines()
    assert len(rows) == 3 and not any("\t" in row for row in rows)
    for name in ("id", "provider", "bytes", "sha256", "state", "cost_usd"):
        begins = header.index(f" {name}")
        assert all(row[begins] == " " != row[begins + 1] for row in rows), name


@pytest.mark.process
def test_what_never_left_is_no_egress(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        job = small_job(tmp_path / "job", api.url, routes=jobs.ROUTES)
        options = [*jobs_options(job), "--set", jobs.NO_KEY, "--limit", 3]
        assert surelocal("run", *options).exit_code == 3
    listed = surelocal("status", job.parent / "run", "--egress")
    assert listed.stdout.count("\n") == 1
    assert surelocal("status", job.parent / "run", "--egress", "--json").stdout == ""


@pytest.mark.process
def test_a_call_that_was_written_down_and_never_sent_is_no_egress(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    with StandIn(tmp_path, oracle=lambda text: "card_arrival") as api:
        job = small_job(tmp_path / "job", api.url)
        run, options = job.parent / "run", [*jobs_options(job), "--limit", 2]
        assert surelocal("run", *options, "--set", jobs.NO_KEY).exit_code == 3
        with open_ledger(run) as ledger:  # as a run leaves it that is killed just then
            ((held),) = ledger.waiting(Reason.RULE, -1, 1)
            egress = Egress("anthropic", "never-sent", api.url, 10, "0" * 64)
            ledger.attempts.reserve(held.record, egress, Decimal("0.01"))
        open_call = surelocal("status", run, "--egress")
        assert "never-sent\t" in open_call.stdout and "\treserved\t0.01\n" in open_call.stdout
        assert surelocal("run", *options).exit_code == 0
    assert "never-sent" not in surelocal("status", run, "--egress").stdout
    states = [event.get("state") for event in record(run, "C-1")["events"]]
    assert states == [None, "written down", "unsent", "written down", "settled", None]
    whole(run)


def jobs_options(job: Path) -> list[object]:
    return [job, "--run-dir", job.parent / "run"]


# -- a record's history -------------------------------------------------------------------------


def test_a_records_history_says_how_it_came_to_its_answer(done: Path) -> None:
    by_template = record(done, "T-1")
    assert by_template["routed"] == {"rule": 0, "when": "kind == 'template'", "to": "template"}
    assert (by_template["line"], by_template["local"]) == (1, None)
    assert "by routes[0] (when: kind == 'template') to: template" in words(done, "T-1")

    by_rule = record(done, "C-1")
    assert (by_rule["routed"]["rule"], by_rule["position"], by_rule["line"]) == (1, 1, 2)
    states = [(e["what"], e.get("status", e.get("state"))) for e in by_rule["events"]]
    assert states == [
        ("outcome", "waiting"),
        ("call", "written down"),
        ("call", "settled"),
        ("outcome", "done"),
    ]
    assert by_rule["decision"]["decided_by"] == "closed"
    assert by_rule["events"][2]["cost_usd"] == by_rule["decision"]["cost_usd"] > 0

    unsure = record(done, "U-1")
    assert unsure["routed"]["rule"] is None
    assert unsure["local"]["answer"] == {"intent": "lost_card"}
    assert unsure["local"]["threshold"] == 0.9 > unsure["local"]["score"]
    assert unsure["events"][0]["reason"] == "unsure"
    told = words(done, "U-1")
    assert "a score is accepted from 0.9 on" in told and "the labels" not in told


def test_audits_and_reviews_stand_in_the_history_with_who_and_when(done: Path) -> None:
    told = {name: record(done, name) for name in ("L-1", "L-2")}
    wrong = [one for one in told.values() if one["decision"]["decided_by"] == "human"]
    right = [one for one in told.values() if one["decision"]["decided_by"] == "local"]
    assert len(wrong) == len(right) == 1
    kinds = [event["what"] for event in wrong[0]["events"]]
    assert kinds == ["outcome", "review", "audit", "outcome"]
    review, audit = wrong[0]["events"][1:3]
    assert review["who"] == audit["who"] == "Ada"
    assert review["value"] == {"intent": "card_arrival"} and audit["local_answer_wrong"]
    assert wrong[0]["local"]["score"] > 0.9
    assert wrong[0]["local"]["answer"] == {"intent": "lost_card"} != wrong[0]["decision"]["value"]
    assert [event["what"] for event in right[0]["events"]] == ["outcome", "review", "audit"]
    name = wrong[0]["id"]
    assert "audit by Ada: the local answer is wrong" in words(done, name)
    assert "uncalibrated confidence of 0.9" in words(done, name)


@pytest.mark.process
def test_the_signals_and_the_certificate_of_an_accepted_answer_are_kept(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    known = [scripted.case(f"R-{n:04}", 0.99 - n / 1000) for n in range(120)]
    confidence = {"target_error": 0.2, "delta": 0.1}
    rows = [one.row for one in known]
    keys = {"local": scripted.LOCAL, "confidence": confidence}
    job = jobs.write_job(tmp_path, "http://localhost:1", rows, **keys)
    jobs.use_engine(patch, scripted.Model(known))
    scripted.calibrate(job, "--labels", scripted.labels(tmp_path, known[:80]))
    surelocal("run", *jobs_options(job), "--set", jobs.NO_KEY)
    told = record(tmp_path / "run", "R-0100")
    assert told["local"]["signals"]["probability"] == pytest.approx(0.89)
    assert told["local"]["score"] >= told["local"]["threshold"] > 0
    assert told["decision"]["decided_by"] == "local"
    assert any("Certified by" in sentence for sentence in told["trust"])
    assert "signals   intent.probability 0.89" in words(tmp_path / "run", "R-0100")


def test_an_id_that_no_record_has_is_a_sentence_with_a_near_one(done: Path) -> None:
    missed = surelocal("status", done, "--record", "U-11")
    assert (missed.exit_code, missed.stdout) == (2, "")
    assert "no record of this run is called U-11; did you mean U-1?" in missed.stderr


def test_a_fixed_record_keeps_the_history_of_its_error(tmp_path: Path) -> None:
    answer = {"intent": "{{ message and 'lost_card' }}"}
    template = [{"when": "true", "to": "template", "answer": answer}]
    records = jobs.records(["T-1"], "template")
    job = jobs.write_job(tmp_path, "http://localhost:1", records, routes=template)
    good = (tmp_path / "records.jsonl").read_text()
    (tmp_path / "records.jsonl").write_text("{broken\n" + good.replace('"message"', '"massage"'))
    options = [*jobs_options(job), "--set", jobs.NO_KEY]
    assert surelocal("run", *options).exit_code == 3
    (tmp_path / "records.jsonl").write_text(good.replace("T-1", "T-0") + good)
    ran = surelocal("run", *options)
    assert ran.exit_code == 0, ran.stderr
    whole(tmp_path / "run")
    events = record(tmp_path / "run", "T-1")["events"]
    states = ["error", "taken back, to be made anew", "done"]
    assert [event["status"] for event in events] == states


# -- proof --------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_ledger_that_nobody_touched_is_whole(done: Path) -> None:
    told = whole(done)
    assert told["entries"] > 20 and told["problem"] is None
    said = surelocal("status", done, "--verify").stdout
    assert f"{told['entries']:,} entries, chain whole" in said and told["head"] in said
    counted = json.loads(surelocal("status", done, "--json").stdout)["trail"]
    assert counted == {"entries": told["entries"], "head": told["head"]}
    assert whole(done, "--head", told["head"][:16])["whole"]


def changed(value: Any) -> Any:
    match value:
        case None:
            return "7"
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case str():
            return value + "x"
        case float():
            return value + 0.5
        case _:
            return value + 1000


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_change_of_any_field_of_any_row_is_found(mine: Path, table: str) -> None:
    path = mine / "ledger.sqlite"
    database = sqlite3.connect(path)
    cursor = database.execute(f"SELECT rowid, * FROM {table}")
    columns, rows = [column[0] for column in cursor.description][1:], cursor.fetchall()
    database.close()
    assert rows
    before = path.read_bytes()
    for rowid, *values in rows:
        for column, value in zip(columns, values, strict=True):
            try:
                tamper(mine, f"UPDATE {table} SET {column}=? WHERE rowid=?", changed(value), rowid)
            except sqlite3.IntegrityError:
                continue  # SQLite itself refuses it
            assert found(mine), (rowid, column)
            for log in mine.glob("ledger.sqlite-*"):
                log.unlink()
            path.write_bytes(before)
    whole(mine)


@pytest.mark.process
@pytest.mark.parametrize("table", TABLES)
def test_a_row_taken_out_is_found(mine: Path, table: str) -> None:
    tamper(mine, f"DELETE FROM {table} WHERE rowid = (SELECT MAX(rowid) FROM {table})")
    assert found(mine)


@pytest.mark.process
def test_the_first_change_is_named_with_its_record(mine: Path) -> None:
    tamper(mine, "UPDATE outcomes SET value='\"x\"' WHERE record_id='T-1'")
    tamper(mine, "UPDATE attempts SET cost=1 WHERE record_id='C-2'")
    assert "the outcome of T-1 (position 0) was changed after entry" in found(mine)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE attempts SET cost=cost-1 WHERE record_id='C-2'", "a call for C-2 (position 2)"),
        ("DELETE FROM attempts WHERE record_id='U-1'", "a call for U-1 (position 5) was taken out"),
        ("UPDATE meta SET value='[]' WHERE key='certificate'", "the run's `certificate` was"),
        ("DELETE FROM trail WHERE seq=9", "entry 9 was taken out"),
        ("UPDATE trail SET at=at-60 WHERE seq=9", "entry 9, "),
        ("INSERT INTO reviews VALUES (0,'T-1','Eve',1.5,'\"x\"','')", "no entry speaks of it"),
        (
            "INSERT INTO trail SELECT seq+1, at, kind, position, ref, note, content, hash "
            "FROM trail ORDER BY seq DESC LIMIT 1",
            "is not what was written there",
        ),
        ("DELETE FROM trail", "no entry speaks of it"),
    ],
)
def test_it_says_what_was_done(mine: Path, sql: str, words: str) -> None:
    tamper(mine, sql)
    assert words in found(mine)


@pytest.mark.process
def test_a_record_that_waits_is_guarded_too(tmp_path: Path) -> None:
    job = small_job(tmp_path / "job", "http://localhost:1")
    assert surelocal("run", *jobs_options(job), "--set", jobs.NO_KEY, "--limit", 3).exit_code == 3
    run = job.parent / "run"
    whole(run)
    tamper(run, "UPDATE held SET fields=replace(fields, 'my card', 'your card')")
    assert "the outcome of C-1 (position 1) was changed" in found(run)


def test_a_trail_cut_back_with_its_rows_is_found_by_a_hash_noted_before(mine: Path) -> None:
    noted = whole(mine)["head"]
    ((last,),) = jobs.query(mine, "SELECT MAX(rowid) FROM reviews")
    tamper(mine, "DELETE FROM meta WHERE key='audit'")
    tamper(mine, "DELETE FROM trail WHERE ref='audit'")
    tamper(
        mine, "DELETE FROM trail WHERE seq > (SELECT seq FROM trail WHERE kind='review' LIMIT 1)"
    )
    tamper(mine, "DELETE FROM reviews WHERE rowid=?", last)
    tamper(mine, "DELETE FROM audits")
    assert noted[:16] not in json.dumps(jobs.query(mine, "SELECT hex(hash) FROM trail")).lower()
    assert found(mine, "--head", noted)


def test_a_file_written_anew_consistently_is_found_by_a_noted_hash_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    noted = ""
    for value in ("honest", "forged"):
        shutil.rmtree(run, ignore_errors=True)
        with open_ledger(run) as ledger:
            ledger.put(Outcome(0, "R-0", Status.DONE, value, DecidedBy.LOCAL), "digest")
        noted = noted or whole(run)["head"]
    assert whole(run)["whole"]
    assert "no entry has the hash" in found(run, "--head", noted)


# -- runs go on ---------------------------------------------------------------------------------


@pytest.mark.process
def test_a_resumed_run_goes_on_with_the_chain(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    jobs.use_engine(patch, jobs.Scripted(answer))
    with StandIn(tmp_path, oracle=lambda text: "card_arrival") as api:
        job = small_job(tmp_path / "job", api.url)
        run, options = job.parent / "run", jobs_options(job)
        assert surelocal("run", *options, "--limit", 2, "--set", jobs.NO_KEY).exit_code == 3
        first = whole(run)
        assert surelocal("run", *options, "--set", jobs.NO_KEY).exit_code == 3
        second = whole(run, "--head", first["head"])
        assert second["entries"] > first["entries"]
        patch.setenv("NOBODY_HAS_THIS_KEY", jobs.KEY)
        sent = surelocal("escalate", run)
        patch.delenv("NOBODY_HAS_THIS_KEY")
        assert sent.exit_code == 0, sent.stderr
        third = whole(run, "--head", second["head"])
        assert third["entries"] > second["entries"]
        assert third["head"] in sent.stderr
        results = (run / "results.jsonl").read_bytes()
        assert surelocal("run", *options, "--set", jobs.NO_KEY).exit_code == 0
        assert (run / "results.jsonl").read_bytes() == results
    assert whole(run, "--head", third["head"])["whole"]


def test_nothing_new_to_do_leaves_the_head_where_it_was(tmp_path: Path) -> None:
    job = jobs.write_job(tmp_path, "http://localhost:1", jobs.records(["T-1"], "template"))
    heads = []
    for _ in range(2):
        assert surelocal("run", *jobs_options(job), "--set", jobs.NO_KEY).exit_code == 0
        heads.append(whole(tmp_path / "run"))
    assert heads[0] == heads[1]


@pytest.mark.process
def test_verified_while_it_runs_and_after_a_kill(tmp_path: Path) -> None:
    names = [f"T-{n}" for n in range(40_000)]
    job = jobs.write_job(tmp_path, "http://localhost:1", jobs.records(names, "template"))
    run, seen = tmp_path / "run", set[int]()
    process = jobs.start(job, "--set", jobs.NO_KEY)

    def entries() -> int:
        result = surelocal("status", run, "--verify", "--json")
        if result.exit_code == 2:
            return 0  # not begun
        assert result.exit_code == 0, result.stderr
        return int(json.loads(result.stdout)["entries"])

    while len(seen) < 4:
        assert process.poll() is None, "the run was over too soon for this test"
        seen.add(entries())
    process.kill()
    process.wait()
    before = whole(run)
    assert before["entries"] < len(names)
    assert jobs.start(job, "--set", jobs.NO_KEY).wait(60) == 0
    assert whole(run, "--head", before["head"])["entries"] > len(names)


def test_a_full_disk_leaves_no_row_without_its_entry(tmp_path: Path) -> None:
    def fill(size: int) -> None:
        with open_ledger(tmp_path) as ledger:
            ledger._db.execute(f"PRAGMA max_page_count={size}")
            try:
                for n in range(20_000):
                    ledger.put(Outcome(n, f"R-{n}", Status.DONE, "x" * 90, DecidedBy.LOCAL), "d")
            finally:
                ledger.commit()

    with pytest.raises(RunFailed, match="cannot write to"):
        fill(1_000)
    proved = whole(tmp_path)
    assert 0 < proved["entries"] < 20_000


# -- what cannot be answered --------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--egress"], ["--verify"], ["--record", "R-1"]])
def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path, options: list[str]) -> None:
    result = surelocal("status", tmp_path, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a run directory" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--egress", "--verify"], "give one of"),
        (["--head", "0" * 64], "--head goes with --verify"),
        (["--verify", "--head", "0" * 15], "16 to 64 digits"),
    ],
)
def test_options_that_do_not_go_together(done: Path, options: list[str], words: str) -> None:
    result = surelocal("status", done, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@pytest.mark.parametrize(
    "sql", ["DELETE FROM attempts", "DELETE FROM reviews", "DELETE FROM audits"]
)
def test_a_history_with_a_row_gone_says_so(mine: Path, sql: str) -> None:
    tamper(mine, sql)
    assert any("its row was taken out" in words(mine, name) for name in ("C-1", "L-1", "L-2"))
