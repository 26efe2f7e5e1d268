"""Connects to a job's databases through SQLAlchemy, without exposing passwords.

An address may name environment variables, ``${NAME}``. The job keeps it unexpanded, so a stored job
contains the names.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import private
from runner.errors import InputError, MissingExtra, UsageError
from runner.formats.database_waits import waited_for

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

CONNECT_S, GONE_S, LOCKED_S = 20, 60, 30
_NAME = re.compile(r"\$\{(\w+)\}")
_LOGIN = re.compile(r"^[\w+]+://[^:/]*:(?P<password>[^@]*)@")
_SECRETS = re.compile(r"[?&](?:\w*password|\w*secret|\w*token)=(?P<password>[^&#]*)", re.IGNORECASE)
FIX = "replace it by the name of an environment variable, as in user:${DB_PASSWORD}@host"


def check_address(url: str) -> str:
    """Returns the address if it contains no password.

    Raises:
        ValueError: it contains a password, which the run directory would store, or is not an
            address.
    """
    if _NAME.fullmatch(url):
        return url
    if not re.match(r"^[A-Za-z][\w+]*://", url):
        raise ValueError(
            "is not a database address; write DIALECT://USER@HOST/DATABASE, or ${NAME} for an "
            "environment variable that holds one"
        )
    for found in (_LOGIN.search(url), *_SECRETS.finditer(url)):
        if found and not _NAME.fullmatch(found["password"]):
            raise ValueError(f"contains a password, which would be stored; {FIX}")
    return url


class Database:
    """A job's database. ``key`` is the address's key in the job, for messages."""

    def __init__(self, url: str, folder: Path, key: str) -> None:
        self._key = key
        self._folder = folder
        try:
            import sqlalchemy
        except ImportError:
            raise MissingExtra("SQLAlchemy, which connects to databases,", "sql") from None
        text = _NAME.sub(self._value, url) if _NAME.fullmatch(url) else url
        self._secrets = {text} if text != url else set()
        try:
            parsed = sqlalchemy.make_url(text)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise UsageError(f"{key}: it is not a database address") from None
        self._url = self._expanded(parsed)
        self._secrets |= {self._url.password} if self._url.password else set()

    def _value(self, found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if not value:
            raise UsageError(
                f"{self._key}: the environment variable {found[1]} is not set; set it to its part "
                "of the address"
            )
        return value

    def _expanded(self, url: URL) -> URL:
        """Expands each part separately, so that a value cannot alter the address's structure."""
        name = url.drivername
        if name in ("postgresql", "postgres"):
            name = "postgresql+psycopg"  # not SQLAlchemy 2.0's default
        expand: dict[str, Any] = {
            part: _NAME.sub(self._value, value)
            for part in ("username", "password", "host", "database")
            if (value := getattr(url, part)) is not None
        }
        query = dict(url.query)
        for key, value in url.query.items():
            if isinstance(value, str) and _NAME.search(value):
                query[key] = expanded = _NAME.sub(self._value, value)
                self._secrets.add(expanded)
        return url.set(drivername=name, **expand, query=query)

    def __str__(self) -> str:
        """The address for messages, without login and settings."""
        where = self._url.host or ""
        port = f":{self._url.port}" if self._url.port else ""
        return f"{self._url.get_backend_name()}://{where}{port}/{self._url.database or ''}"

    def engine(self, *, read_only: bool) -> Engine:
        """An engine, which connects with the first query. An SQLite file is relative to the job's
        folder, and must exist to be read."""
        import sqlalchemy
        from sqlalchemy.pool import NullPool

        if self._url.get_backend_name() == "sqlite":
            return self._sqlite(read_only=read_only)
        try:
            return sqlalchemy.create_engine(
                self._url, poolclass=NullPool, hide_parameters=True, connect_args=self._deadlines()
            )
        except ImportError as error:
            raise UsageError(
                f"{self._key}: the driver of {self._url.drivername} is not installed ({error}); "
                "`pip install 'surelocal[sql]'` brings PostgreSQL's"
            ) from None
        except sqlalchemy.exc.ArgumentError as error:
            raise UsageError(f"{self._key}: {self.said(error)}") from None

    def _deadlines(self) -> dict[str, int]:
        """The driver's timeouts for an unreachable server, unless the address sets them."""
        if self._url.get_driver_name() not in ("psycopg", "psycopg2"):
            return {}
        usual = {
            "connect_timeout": CONNECT_S,
            "keepalives_idle": 20,
            "keepalives_interval": 10,
            "keepalives_count": 4,
            "tcp_user_timeout": GONE_S * 1000,
        }
        return {name: value for name, value in usual.items() if name not in self._url.query}

    def _sqlite(self, *, read_only: bool) -> Engine:
        import sqlalchemy
        from sqlalchemy.pool import NullPool

        path = self._file()
        if read_only and not path.is_file():
            raise InputError(f"{self._key}: there is no database {path}")
        mode = "ro" if read_only else "rwc"
        if not read_only and not path.exists():
            with suppress(OSError):  # SQLite reports it
                private.made(path)

        def connect() -> sqlite3.Connection:
            made = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=LOCKED_S)
            # A text that is not UTF-8 then fails only its record.
            made.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            return made

        return sqlalchemy.create_engine(
            "sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True
        )

    def _file(self) -> Path:
        name = self._url.database
        if not name or name == ":memory:":
            raise UsageError(f"{self._key}: SQLite needs a file: sqlite:///crm.db")
        return (self._folder / name).resolve()

    def to_be_made(self) -> bool:
        """Whether it is an SQLite file that the first write will create.

        Raises:
            UsageError: it cannot be created, since its folder does not exist.
        """
        if self._url.get_backend_name() != "sqlite" or self._file().exists():
            return False
        if not self._file().parent.is_dir():
            raise UsageError(f"{self._key}: there is no folder {self._file().parent}")
        return True

    def waited_for(self, doing: str) -> AbstractContextManager[None]:
        """Reports during a long wait what the database is doing."""
        return waited_for(f"{self._key}: waiting for {self} to {doing}", str(self))

    @contextmanager
    def errors(self, kind: type[Exception], doing: str, fix: str = "") -> Iterator[None]:
        """Turns errors of the database or its driver into a ``kind`` with a message."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            said = self.said(error)
            if "database is locked" in said:
                said += (
                    f" by another program for over {LOCKED_S} s; wait for that program or end it"
                )
            raise kind(f"{self._key}: cannot {doing} {self}: {said}{fix}") from None

    def said(self, error: BaseException) -> str:
        """The first line of the driver's message, without secrets."""
        original = getattr(error, "orig", None) or error
        lines = [line.strip() for line in str(original).splitlines() if line.strip()]
        text = lines[0] if lines else type(original).__name__
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text
