"""Result rows in a database's table.

A row is known by its job's name and its record's position. All of a job's rows are put in anew, in
one transaction: whoever reads meanwhile sees the former ones, a rerun leaves the same rows, and the
rows of other jobs stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from runner.errors import RunFailed, UsageError
from runner.formats.database import Database
from runner.job import Job
from runner.results.rows import COLUMNS, row
from runner.types import Outcome

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

_AT_ONCE = 1000
KEY = ("job", "position")


def write_table(outcomes: Iterable[Outcome], job: Job) -> int:
    """Replaces the job's rows; makes the table where there is none. Returns their number.

    Raises:
        RunFailed: the database does not take them; then it has the former ones.
    """
    database = _database(job)
    rows = (
        {"job": job.name, "position": at, **_stored(row(one))} for at, one in enumerate(outcomes)
    )
    count = 0
    doing = f"write the table {job.output.table} to"
    safe = "; the run itself is safe: run the same command again"
    with database.errors(RunFailed, doing, safe):
        engine = database.engine(read_only=False)
        if problem := _problem(database, engine, job):
            raise RunFailed(f"output.table: {problem}")
        table = _table(job)
        with engine.begin() as connection:
            with database.waited_for(f"empty the table {job.output.table}"):
                table.create(connection, checkfirst=True)
                connection.execute(table.delete().where(table.c.job == job.name))
            while part := list(islice(rows, _AT_ONCE)):
                with database.waited_for(f"fill the table {job.output.table}"):
                    connection.execute(table.insert(), part)
                count += len(part)
    return count


def table_problem(job: Job) -> str | None:
    """The problem with the job's table that is detectable before a run; None if there is none.

    Raises:
        UsageError: the database cannot be reached.
    """
    database = _database(job)
    if database.to_be_made():
        return None
    with database.errors(UsageError, "reach"):
        return _problem(database, database.engine(read_only=False), job)


def _problem(database: Database, engine: Engine, job: Job) -> str | None:
    from sqlalchemy import inspect

    schema, name = _names(job)
    looking = database.waited_for(f"say what the table {job.output.table} is")
    with looking, engine.connect() as connection:
        seen = inspect(connection)
        if not seen.has_table(name, schema):
            return None
        has = {column["name"] for column in seen.get_columns(name, schema)}
    if missing := [name for name in (*KEY, *COLUMNS) if name not in has]:
        return (
            f"the table {job.output.table} is there already and is no table of results: it lacks "
            f"the columns {', '.join(missing)}; name another"
        )
    return None


def _database(job: Job) -> Database:
    if job.output.url is not None:
        return Database(job.output.url, job.folder, "output.url")
    assert job.records.url is not None
    return Database(job.records.url, job.folder, "records.url")


def _names(job: Job) -> tuple[str | None, str]:
    schema, _, name = str(job.output.table).rpartition(".")
    return schema or None, name


def _table(job: Job) -> Table:
    from sqlalchemy import JSON, Column, Double, Integer, MetaData, String, Table, Text
    from sqlalchemy.dialects.postgresql import JSONB

    json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    kinds: dict[str, Any] = {
        "value": json, "field_confidence": json, "confidence": Double(), "cost_usd": Double(),
    }  # fmt: skip
    schema, name = _names(job)
    return Table(
        name,
        MetaData(schema=schema),
        Column("job", String(200), primary_key=True),
        Column("position", Integer, primary_key=True, autoincrement=False),
        *(Column(each, kinds.get(each, Text())) for each in COLUMNS),
    )


def _stored(value: Any) -> Any:
    """Without the one character that PostgreSQL's texts cannot hold."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_stored(name): _stored(each) for name, each in value.items()}
    return [_stored(each) for each in value] if isinstance(value, list) else value
