"""Reads a query's rows from a server-side cursor, with only a part of them in memory.

The transaction is read-only and stays open until the last row is read.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.errors import InputError, RunFailed
from runner.formats.database import Database
from runner.formats.nulls import Unusable
from runner.records.rows import check_header, make_record, native
from runner.types import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

PART_ROWS = 1000
WHERE = "records.query"


def query_columns(database: Database, query: str) -> list[str]:
    with _asked(database, query) as result:
        return list(result.keys())


def query_records(database: Database, query: str, id_column: str) -> Iterator[Record]:
    """One `Record` per row; ``line`` is the row's number from 1.

    Raises:
        InputError: the database cannot be reached, or the query cannot be answered.
        RunFailed: the database failed later.
    """
    with _asked(database, query) as result:
        columns = list(result.keys())
        check_header(WHERE, columns, id_column)
        position = 0
        for rows in _parts(database, result):
            for row in rows:
                yield _record(position, columns, row, id_column)
                position += 1


def _parts(database: Database, result: Any) -> Iterator[Sequence[Sequence[Any]]]:
    parts = result.partitions(PART_ROWS)
    # Reading the first rows checks the query; a later failure is not the query's fault.
    problem: Callable[[], AbstractContextManager[None]] = nullcontext
    while True:
        with problem(), database.waited_for(f"go on with {WHERE}"):
            rows = next(parts, None)
        if rows is None:
            return
        yield rows
        problem = partial(
            database.errors,
            RunFailed,
            f"go on reading {WHERE} from",
            "; finished work is kept: run the same command again",
        )


@contextmanager
def _asked(database: Database, query: str) -> Iterator[Any]:
    options: dict[str, Any] = {
        "stream_results": True,
        "yield_per": PART_ROWS,
        # Unchanged: no `%` or `:name` in the query is a parameter.
        "no_parameters": True,
    }
    engine = database.engine(read_only=True)
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    with (
        database.errors(InputError, f"read {WHERE} from"),
        _connected(database, engine) as connection,
    ):
        asked = connection.execution_options(**options)
        if engine.dialect.driver == "psycopg":
            _bear_odd_times(connection.connection.driver_connection)
        # If reading stops early, the garbage collector closes the connection; in the pool, that
        # could close one still in use.
        driver = connection.connection.driver_connection
        connection.detach()
        try:
            with database.waited_for(f"answer {WHERE}"):
                rows = asked.exec_driver_sql(query.rstrip().rstrip(";"))
        except KeyboardInterrupt:
            if driver is not None:
                driver.close()  # SQLAlchemy only drops it, and the server would continue
            raise
        with rows:
            if not rows.returns_rows:
                raise InputError(f"{WHERE} gives no rows: it must be a SELECT")
            yield rows


def _connected(database: Database, engine: Engine) -> Connection:
    with database.waited_for("take a connection"):
        return engine.connect()


def _bear_odd_times(connection: Any) -> None:
    """Makes a time that Python cannot represent (infinity, BC, after 9999) fail only its row."""
    from psycopg import DataError
    from psycopg.types import datetime as types

    def bearing(loader: Any) -> Any:
        def load(self: Any, data: Any) -> Any:
            try:
                return loader.load(self, data)
            except (DataError, OverflowError):
                return Unusable(f"the time {bytes(data).decode('ascii', 'replace')}")

        return type(loader.__name__, (loader,), {"load": load})

    names = {"date": "DateLoader", "timestamp": "TimestampLoader", "interval": "IntervalLoader"}
    names["timestamptz"] = "TimestamptzLoader"
    for name, loader in names.items():
        connection.adapters.register_loader(name, bearing(getattr(types, loader)))


def _record(position: int, columns: Sequence[str], row: Sequence[Any], id_column: str) -> Record:
    fields = {name: plain(value) for name, value in zip(columns, row, strict=True)}
    made = make_record(position, position + 1, fields, id_column)
    if made.problem is not None:
        made = replace(made, problem=made.problem.replace("line ", "row ", 1))
    return made


def plain(value: Any) -> Any:
    """A database value as a template and JSON can use it. Decimals become text as written:
    12.50."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal) and math.isnan(value):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return native(bytes(value))
    if isinstance(value, Unusable):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
