"""Records out of a database and results into one: a real PostgreSQL's, and SQLite's."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.errors import JobError, RunFailed
from runner.interrupts import run_to_its_end
from runner.job.file import load_job
from runner.records.source import job_digest, job_records
from tests import jobs, scripted
from tests.fakes import JOB, read_rows, surelocal
from tests.jobs import use_engine
from tests.postgres import PASSWORD, PASSWORD_ENV, Server, postgres

QUERY = "SELECT id, message, kind FROM tickets ORDER BY id"
ECHO = {"when": "true", "to": "template", "answer": "{{ message }}"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres() as running:
        yield running


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)


@dataclass(frozen=True, slots=True)
class Base:
    """One database: its address for a job, and a way to ask it."""

    url: str
    ask: Callable[[str], list[tuple[Any, ...]]]
    name: str


@pytest.fixture(params=["postgresql", "sqlite"])
def base(request: pytest.FixtureRequest, tmp_path: Path, password: None) -> Base:
    if request.param == "sqlite":
        return sqlite(tmp_path)
    return on(request.getfixturevalue("server"))


@pytest.fixture
def pg(server: Server, password: None) -> Base:
    return on(server)


def on(server: Server) -> Base:
    name = server.new_database("crm")
    return Base(server.url(name), lambda sql: server.query(name, sql), "postgresql")


def sqlite(folder: Path) -> Base:
    def ask(sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(folder / "crm.db")
        try:
            with connection:
                return connection.execute(sql).fetchall()
        finally:
            connection.close()

    ask("SELECT 1")
    return Base("sqlite:///crm.db", ask, "sqlite")


def fill(base: Base, count: int = 5) -> None:
    base.ask("CREATE TABLE tickets (id TEXT PRIMARY KEY, message TEXT, kind TEXT)")
    for n in range(count):
        base.ask(f"INSERT INTO tickets VALUES ('T-{n}', 'message {n}', 'x')")


def job(folder: Path, base: Base, query: str = QUERY, **keys: Any) -> Path:
    records = {"url": base.url, "query": query, **keys.pop("records", {})}
    whole = {**JOB, "records": records, "answer": {"text": True}, "routes": [ECHO], **keys}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(whole), "utf-8")
    return path


def run(path: Path, *options: object, status: int = 0, at: str = "run") -> list[dict[str, Any]]:
    result = surelocal("run", path, "--run-dir", path.parent / at, *options)
    assert result.exit_code == status, result.stderr
    return read_rows(path.parent / at / "results.jsonl")


def refused(path: Path, *options: object, status: int = 2) -> str:
    result = surelocal("run", path, "--run-dir", path.parent / "run", *options)
    assert result.exit_code == status, result.stderr
    assert PASSWORD not in result.output
    return result.stderr


def answers(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(row["id"], row["value"]) for row in rows]


def table(base: Base, columns: str = "id, status, decided_by", name: str = "answers") -> list[Any]:
    return base.ask(f"SELECT {columns} FROM {name} ORDER BY job, position")


@pytest.mark.process
def test_a_query_s_rows_are_records_in_its_order(tmp_path: Path, base: Base) -> None:
    fill(base)
    path = job(tmp_path, base, "SELECT id, message FROM tickets ORDER BY id DESC")
    assert surelocal("validate", path).exit_code == 0
    assert answers(run(path)) == [(f"T-{n}", f"message {n}") for n in (4, 3, 2, 1, 0)]


def test_results_go_into_a_table_and_a_rerun_leaves_the_same_rows(
    tmp_path: Path, base: Base
) -> None:
    fill(base)
    path = job(tmp_path, base, output={"table": "answers"})
    rows = run(path)
    first = table(base, "*")
    assert [row[:4] for row in first] == [("small", n, f"T-{n}", "done") for n in range(5)]
    assert table(base, "value, cost_usd, error")[0] in [("message 0", 0.0, None),
                                                        ('"message 0"', 0.0, None)]  # fmt: skip
    assert run(path) == rows and table(base, "*") == first
    assert run(path, at="other") == rows and table(base, "*") == first


@pytest.mark.process
def test_what_a_run_says_of_its_table(tmp_path: Path, base: Base) -> None:
    fill(base)
    path = job(tmp_path, base, output={"table": "answers"})
    said = surelocal("run", path, "--run-dir", tmp_path / "run").stderr
    assert "results.jsonl and the table answers" in said.replace("\n", "")


def test_the_document_s_job_is_one(tmp_path: Path) -> None:
    text = (jobs.ROOT / "docs" / "files-and-databases.md").read_text("utf-8")
    [_, rest] = text.split("\n## Databases\n")
    given = yaml.safe_load(rest.split("```yaml\n")[1].split("```")[0])
    base = Base(given["records"]["url"], lambda sql: [], "postgresql")
    whole = load_job(job(tmp_path, base, **given)).job
    assert whole.output.table == "triage_results"
    assert whole.records.id == "ticket_id"


def test_rows_of_a_former_run_go_and_those_of_other_jobs_stay(tmp_path: Path, base: Base) -> None:
    fill(base)
    run(job(tmp_path, base, output={"table": "answers"}, name="other"), at="other")
    mine = job(tmp_path, base, output={"table": "answers"})
    run(mine, at="first")
    base.ask("DELETE FROM tickets WHERE id > 'T-2'")
    run(mine, at="second")
    assert base.ask("SELECT job, count(*) FROM answers GROUP BY job ORDER BY job") == [
        ("other", 5), ("small", 3),
    ]  # fmt: skip


def test_a_table_in_another_database_and_objects_as_json(
    tmp_path: Path, pg: Base, server: Server
) -> None:
    (tmp_path / "records.csv").write_text("id,message\n1,a\n1,b\n2,c\\0d\n", "utf-8")
    rule = {"when": "true", "to": "template", "answer": {"said": "{{ message }}"}}
    output = {"url": pg.url, "table": "public.answers", "path": "rows.csv", "format": "csv"}
    path = job(
        tmp_path, pg, records={"path": "records.csv", "url": None, "query": None},
        routes=[rule], output=output, answer={"schema": {"type": "object"}},
    )  # fmt: skip
    result = surelocal("run", path, "--run-dir", tmp_path / "run")
    assert result.exit_code == 3, result.stderr
    assert pg.ask("SELECT id, status, value->>'said' FROM answers ORDER BY position") == [
        ("1", "done", "a"), ("1", "error", None), ("2", "done", "c\\0d"),
    ]  # fmt: skip
    assert (tmp_path / "run" / "rows.csv").read_text("utf-8").startswith("id,status,")


def test_sqlite_makes_the_results_file_and_validate_does_not(tmp_path: Path) -> None:
    base = sqlite(tmp_path)
    fill(base)
    path = job(tmp_path, base, output={"url": "sqlite:///new.db", "table": "answers"})
    assert surelocal("validate", path).exit_code == 0
    assert not (tmp_path / "new.db").exists()
    run(path, "--limit", 2)
    assert sqlite3.connect(tmp_path / "new.db").execute("SELECT count(*) FROM answers").fetchall()
    nowhere = job(tmp_path, base, output={"url": "sqlite:///no/new.db", "table": "answers"})
    assert f"output.url: there is no folder {tmp_path / 'no'}" in refused(nowhere)


def test_some_of_the_rows_and_then_the_rest_with_results_beside_them(
    tmp_path: Path, base: Base
) -> None:
    fill(base)
    path = job(tmp_path, base, output={"table": "answers"})
    assert len(run(path, "--limit", 2)) == len(table(base)) == 2
    rows = run(path)
    assert [row["id"] for row in rows] == [row[0] for row in table(base)] == [
        f"T-{n}" for n in range(5)
    ]  # fmt: skip
    base.ask("UPDATE tickets SET message = 'changed' WHERE id = 'T-1'")
    assert [row["id"] for row in run(path)] == [row[0] for row in table(base)]


@pytest.mark.process
def test_values_as_templates_show_them(tmp_path: Path, pg: Base) -> None:
    columns = {
        "number": "12.50::numeric", "big": "1e30::numeric", "whole": "7::bigint", "real": "0.5",
        "double": "0.25::float8", "nan": "'NaN'::float8", "yes": "true",
        "day": "date '2026-01-02'", "at": "timestamptz '2026-01-02 03:04:05+00'",
        "hour": "time '03:04'", "long": "interval '1 day 2 hours'",
        "object": """'{"a": [1, null, "é"]}'::jsonb""", "plain": """'{"b": 1.5}'::json""",
        "list": "array['a', 'b']", "nothing": "null::text", "text": "'100% of :x'",
        "uuid": "'5a3b2c10-0000-4000-8000-000000000001'::uuid",
    }  # fmt: skip
    select = ", ".join(f"{value} AS {name}" for name, value in columns.items())
    query = f"SELECT 1 AS id, {select} ORDER BY 1;"
    [record] = job_records(load_job(job(tmp_path, pg, query)).job)
    assert record.problem is None
    seen = dict(record.fields)
    assert seen.pop("at").startswith("2026-01-0")
    assert seen == {
        "id": 1, "number": "12.50", "big": "1" + "0" * 30, "whole": 7, "real": "0.5",
        "double": 0.25, "nan": None, "yes": True, "day": "2026-01-02", "hour": "03:04:00",
        "long": "1 day, 2:00:00", "object": {"a": [1, None, "é"]}, "plain": {"b": 1.5},
        "list": ["a", "b"], "nothing": None, "text": "100% of :x",
        "uuid": "5a3b2c10-0000-4000-8000-000000000001",
    }  # fmt: skip
    assert json.loads(json.dumps(seen)) == seen


def test_bytes_that_nobody_uses_spoil_nothing_and_empty_ids_their_rows(
    tmp_path: Path, base: Base
) -> None:
    kind = "bytea" if base.name == "postgresql" else "blob"
    base.ask(f"CREATE TABLE tickets (id TEXT, message TEXT, photo {kind})")
    photo = r"'\x00ff'" if base.name == "postgresql" else "x'00ff'"
    base.ask(f"INSERT INTO tickets VALUES ('1', 'a', NULL), ('2', 'b', {photo}), (NULL, 'c', NULL)")
    path = job(tmp_path, base, "SELECT * FROM tickets ORDER BY message")
    rows = run(path, status=3)
    assert [row["error"] for row in rows] == [
        None,
        None,
        "row 3: the id column `id` is empty; give it an id",
    ]


def test_text_that_is_no_utf8_spoils_its_own_row(tmp_path: Path) -> None:
    base = sqlite(tmp_path)
    base.ask("CREATE TABLE tickets (id TEXT, message TEXT)")
    base.ask("INSERT INTO tickets VALUES ('1', 'a'), ('2', CAST(x'c3' AS TEXT)), ('3', 'c')")
    rows = run(job(tmp_path, base, "SELECT * FROM tickets ORDER BY id"), status=3)
    assert [row["status"] for row in rows] == ["done", "error", "done"]
    assert "byte 0xc3 is not UTF-8" in rows[1]["error"]


@pytest.mark.process
def test_the_password_is_written_down_nowhere(tmp_path: Path, pg: Base) -> None:
    fill(pg)
    path = job(tmp_path, pg, output={"table": "answers"})
    result = surelocal("run", path, "--run-dir", tmp_path / "run", "--json")
    assert result.exit_code == 0
    assert PASSWORD not in result.output
    for file in (tmp_path / "run").iterdir():
        assert PASSWORD.encode() not in file.read_bytes(), file
    assert PASSWORD_ENV.encode() in (tmp_path / "run" / "ledger.sqlite").read_bytes()


@pytest.mark.process
def test_the_whole_address_from_the_environment(
    tmp_path: Path, pg: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.parse import quote

    fill(pg)
    whole = pg.url.replace(f"${{{PASSWORD_ENV}}}", quote(PASSWORD, safe=""))
    monkeypatch.setenv("CRM_DATABASE", whole)
    path = job(tmp_path, pg, records={"url": "${CRM_DATABASE}"})
    assert len(run(path)) == 5
    assert whole.encode() not in (tmp_path / "run" / "ledger.sqlite").read_bytes()
    monkeypatch.setenv("CRM_DATABASE", whole.replace("127.0.0.1", "nowhere.invalid"))
    said = refused(path)
    assert "records.url: cannot read records.query from postgresql://nowhere.invalid" in said
    assert quote(PASSWORD, safe="") not in said
    monkeypatch.setenv("CRM_DATABASE", "no address, but a secret")
    said = refused(path)
    assert "records.url: it is not a database address" in said
    assert "secret" not in said


@pytest.mark.process
def test_a_wrong_password_and_one_that_is_not_set(
    tmp_path: Path, pg: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job(tmp_path, pg)
    monkeypatch.setenv(PASSWORD_ENV, "wrong horse")
    said = refused(path)
    assert "password authentication failed" in said
    assert "wrong horse" not in said
    monkeypatch.delenv(PASSWORD_ENV)
    assert f"records.url: the environment variable {PASSWORD_ENV} is not set" in refused(path)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/crm",
        "postgresql://me:${PW}secret@host/crm",
        "postgresql+psycopg://:secret@host/crm",
        "postgresql://me@host/crm?password=secret",
        "postgresql://host/crm?x=1&sslpassword=secret",
    ],
)
@pytest.mark.parametrize("key", ["records", "output"])
def test_a_password_in_the_job_is_refused_unsaid(tmp_path: Path, url: str, key: str) -> None:
    base = Base("sqlite:///crm.db", lambda sql: [], "sqlite")
    part = {"url": url, "table": "answers"} if key == "output" else {"url": url}
    with pytest.raises(JobError, match=f"`{key}.url`: contains a password") as caught:
        load_job(job(tmp_path, base, **{key: part}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"query": "SELECT 1 AS id"}, "`records.query`: has no ORDER BY"),
        ({"query": None}, "`url` and `query` belong together"),
        ({"path": "records.csv"}, "give either `path` for a file, or `url` and `query`"),
        ({"format": "csv"}, "`format` and `delimiter` are for files"),
        ({"url": "crm.db"}, "is not a database address; write DIALECT://USER@HOST/DATABASE"),
        ({"url": "sqlite://"}, "SQLite needs a file: sqlite:///crm.db"),
        ({"url": "sqlite:///no.db"}, "records.url: there is no database"),
        ({"url": "nosuch://host/db"}, "records.url: "),
        ({"url": "mysql://host/db"}, "the driver of mysql is not installed"),
        ({"query": "SELECT id FROM nowhere ORDER BY 1"}, "no such table: nowhere"),
        ({"query": "SELECT id AS key FROM tickets ORDER BY id"}, "has no column `id`"),
        ({"query": "SELECT id, 1 AS id FROM tickets ORDER BY 2"}, "the column `id` occurs twice"),
        ({"query": "DELETE FROM tickets RETURNING id -- order by"}, "readonly database"),
        ({"query": "CREATE TABLE other (id TEXT) -- order by"}, "readonly database"),
    ],
)
def test_mistakes_that_validate_names(tmp_path: Path, records: dict[str, Any], said: str) -> None:
    base = sqlite(tmp_path)
    fill(base)
    result = surelocal("validate", job(tmp_path, base, records=records))
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert len(base.ask("SELECT * FROM tickets")) == 5


@pytest.mark.parametrize(
    "query", ["DELETE FROM tickets RETURNING id -- order by", "SELECT pg_sleep(0), 1; ORDER BY 1"]
)
def test_a_query_that_is_no_select(tmp_path: Path, pg: Base, query: str) -> None:
    fill(pg)
    said = refused(job(tmp_path, pg, query))
    assert "records.url: cannot read records.query from postgresql://127.0.0.1" in said
    assert len(pg.ask("SELECT * FROM tickets")) == 5


def test_a_table_that_is_no_table_of_results(tmp_path: Path, base: Base) -> None:
    fill(base)
    said = refused(job(tmp_path, base, output={"table": "tickets"}))
    assert "`output.table`: the table tickets is there already and is no table of results" in said
    assert "it lacks the columns job, position, status" in said
    assert "input should match pattern" not in said.lower()
    odd = job(tmp_path, base, output={"table": "answers; DROP TABLE tickets"})
    assert "`output.table`" in refused(odd)


def test_results_that_cannot_be_written_leave_the_former_ones(tmp_path: Path, base: Base) -> None:
    fill(base)
    path = job(tmp_path, base, output={"table": "answers"})
    run(path)
    former = table(base, "*")
    base.ask("INSERT INTO tickets VALUES ('T-9', 'odd', 'x')")
    base.ask("ALTER TABLE answers ADD COLUMN more TEXT")
    base.ask("CREATE UNIQUE INDEX one ON answers (value)" if base.name == "sqlite" else
             "ALTER TABLE answers ADD CHECK (id != 'T-9')")  # fmt: skip
    if base.name == "sqlite":
        base.ask("UPDATE tickets SET message = 'message 0' WHERE id = 'T-9'")
    said = refused(path, status=1)
    assert "cannot write the table answers to " in said
    assert [row[:-1] for row in table(base, "*")] == former
    assert len(read_rows(tmp_path / "run" / "results.jsonl")) == 6, "the file is written"


@pytest.mark.process
def test_a_server_that_dies_while_it_is_read(
    tmp_path: Path, pg: Base, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    query = "SELECT i AS id, repeat('x', 500) AS m FROM generate_series(1, 50000) i ORDER BY i"
    records = job_records(load_job(job(tmp_path, pg, query)).job)
    next(records)
    server.stop()
    try:
        with pytest.raises(RunFailed, match=r"cannot go on reading records\.query from .* again$"):
            list(records)
        assert caplog.text == "", "what SQLAlchemy logs is no sentence"
    finally:
        server.start()


@contextlib.contextmanager
def locked(server: Server, seconds: float) -> Iterator[None]:
    """Another session locks the table, and goes on after so long."""
    sql = f"BEGIN; LOCK TABLE tickets; SELECT pg_sleep({seconds}); COMMIT"
    holding = threading.Thread(target=server.query, args=("crm", sql))
    holding.start()
    held = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
    jobs.wait_until(lambda: server.query("crm", held))
    yield
    holding.join()


@pytest.mark.process
def test_a_database_that_does_not_answer_is_said_to_be_waited_for(
    tmp_path: Path, pg: Base, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.formats.database_waits.SAY_AFTER_S", 0.3)
    fill(pg)
    with locked(server, 1.5):
        result = surelocal("run", job(tmp_path, pg), "--run-dir", tmp_path / "run")
    assert result.exit_code == 0
    said = (
        r"records\.url: waiting for postgresql://127\.0\.0\.1:\d+/crm to answer records\.query, for"
    )
    assert len(re.findall(said, result.stderr)) == 1 and "holds a lock" in result.stderr


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the driver's cursor: nobody could close it
def test_ctrl_c_ends_the_wait_for_a_database_at_once(tmp_path: Path, pg: Base) -> None:
    query = "SELECT pg_sleep(60)::text AS id ORDER BY id"
    loaded = load_job(job(tmp_path, pg, query)).job

    async def read() -> None:
        next(job_records(loaded))

    stop = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_to_its_end(read(), print)
    assert time.monotonic() - began < 20
    wait = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    jobs.wait_until(lambda: not pg.ask(wait), 10)  # the server does not go on either
    gc.collect()  # here, and not in another test


def test_a_locked_sqlite_file_is_waited_for_and_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.formats.database.LOCKED_S", 1)
    monkeypatch.setattr("runner.formats.database_waits.SAY_AFTER_S", 0.3)
    base = sqlite(tmp_path)
    fill(base)
    holder = sqlite3.connect(tmp_path / "crm.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    said = refused(job(tmp_path, base))
    holder.close()
    assert "waiting for sqlite:///" in said
    assert "database is locked by another program for over 1 s; wait for that" in said
    assert len(run(tmp_path / "job.yaml")) == 5


MEMORY = """
import resource, sys
from pathlib import Path
from runner.job.file import load_job
from runner.records.source import job_records
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
records = job_records(load_job(Path(sys.argv[1])).job)
next(records)
before = used()
count = 1 + sum(1 for _ in records)
print(count, used() - before)
"""


@pytest.mark.process
def test_rows_are_streamed(tmp_path: Path, base: Base) -> None:
    query = (
        "SELECT i AS id, repeat('x', 2000) AS message FROM generate_series(1, 60000) i ORDER BY i"
        if base.name == "postgresql"
        else "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) "
        "SELECT i AS id, hex(zeroblob(1000)) AS message FROM n ORDER BY i"
    )
    path = job(tmp_path, base, query)
    command = [sys.executable, "-c", MEMORY, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    count, grown = map(int, ran.stdout.split())
    assert count == 60_000
    assert grown < 40, "MiB, of 120 that there are"


@pytest.mark.process
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, base: Base) -> None:
    query = (
        "SELECT i AS id, 'm' || i AS message FROM generate_series(1, 20000) i ORDER BY i"
        if base.name == "postgresql"
        else "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "SELECT i AS id, 'm' || i AS message FROM n ORDER BY i"
    )
    path = job(tmp_path, base, query, output={"table": "answers"})
    process = jobs.start(path)

    def begun() -> bool:
        with contextlib.suppress(Exception):
            return bool(jobs.query(tmp_path / "run", "SELECT 1 FROM outcomes LIMIT 1"))
        return False

    jobs.wait_until(begun)
    process.kill()
    process.wait()
    [(before,)] = jobs.query(tmp_path / "run", "SELECT count(*) FROM outcomes")
    assert 0 < before < 20_000
    assert answers(run(path)) == [(str(n), f"m{n}") for n in range(1, 20_001)]
    assert base.ask("SELECT count(*), max(position) FROM answers") == [(20_000, 19_999)]


def test_what_a_certificate_of_this_batch_is_tied_to(tmp_path: Path, base: Base) -> None:
    fill(base)
    whole = load_job(job(tmp_path, base)).job
    before = job_digest(whole)
    assert before == job_digest(whole)
    base.ask("UPDATE tickets SET message = 'changed' WHERE id = 'T-1'")
    assert job_digest(whole) not in (None, before)


@pytest.mark.slow
def test_a_certificate_of_this_very_batch(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = scripted.cases(400, seed=3)
    base.ask("CREATE TABLE tickets (id TEXT PRIMARY KEY, message TEXT, kind TEXT)")
    rows = ", ".join(f"('{one.id}', '{one.row['message']}', 'local')" for one in known)
    base.ask(f"INSERT INTO tickets VALUES {rows}")
    use_engine(monkeypatch, scripted.Model(known))
    path = scripted.job(
        tmp_path, "http://127.0.0.1:9", known, {"target_error": 0.1},
        records={"url": base.url, "query": QUERY}, output={"table": "answers"},
    )  # fmt: skip
    labels = scripted.labels(tmp_path, random.Random(3).sample(known, 150))
    made = scripted.calibrate(path, "--labels", labels)
    assert "at random from this very batch" in made.stderr
    ran = jobs.run(path, jobs.NO_KEY)
    assert "this very batch" in " ".join(ran.summary.trust)
    assert [row["id"] for row in ran.rows.values()] == [row[0] for row in table(base, "id")]
    base.ask("DELETE FROM tickets WHERE id = 'R-0007'")
    other = surelocal("run", path, "--run-dir", tmp_path / "other", "--set", jobs.NO_KEY)
    assert "this very batch" not in other.stderr
    assert "for traffic of which the sample is a random one" in other.stderr


@pytest.mark.process
def test_without_the_extra_a_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = sqlite(tmp_path)
    path = job(tmp_path, base)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    assert "SQLAlchemy, which connects to databases, is not installed" in refused(path)
    assert "pip install 'surelocal[sql]'" in refused(path)
