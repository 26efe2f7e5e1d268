"""Opens a run directory's ledger: exclusively for writing, or for reading during a run."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from runner import private
from runner.errors import RunDirError, RunFailed
from runner.ledger import places
from runner.ledger.migrating import FORMER, migrate
from runner.ledger.store import Ledger

SCHEMA = f"""
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE outcomes (
  position INTEGER PRIMARY KEY, record_id TEXT NOT NULL, digest TEXT NOT NULL,
  status TEXT NOT NULL, value TEXT NOT NULL, decided_by TEXT, reason TEXT, waits_for TEXT,
  confidence REAL, field_confidence TEXT NOT NULL, model TEXT, cost INTEGER NOT NULL,
  error TEXT, closed_estimate INTEGER NOT NULL, words TEXT);
CREATE INDEX outcomes_by_id ON outcomes (record_id, position);
CREATE INDEX outcomes_waiting ON outcomes (waits_for, position) WHERE status = 'waiting';
CREATE INDEX outcomes_by_end ON outcomes (status, decided_by, reason, waits_for, words);
CREATE TABLE held (
  position INTEGER PRIMARY KEY, line INTEGER NOT NULL, fields TEXT NOT NULL, answer TEXT,
  expected_loss REAL);
CREATE TABLE audits (
  position INTEGER PRIMARY KEY, record_id TEXT NOT NULL, wrong INTEGER NOT NULL,
  local_value TEXT NOT NULL, other_value TEXT NOT NULL, judge TEXT NOT NULL,
  alarms INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE reviews (
  position INTEGER NOT NULL, record_id TEXT NOT NULL, who TEXT NOT NULL, at REAL NOT NULL,
  value TEXT NOT NULL, note TEXT NOT NULL);
CREATE INDEX reviews_by_position ON reviews (position);
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, position INTEGER NOT NULL, record_id TEXT NOT NULL,
  provider TEXT NOT NULL, model TEXT NOT NULL, url TEXT NOT NULL, bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL, state TEXT NOT NULL, reserved INTEGER NOT NULL, cost INTEGER,
  usage TEXT, request_id TEXT, problem TEXT, begun_at REAL NOT NULL, ended_at REAL,
  batch INTEGER);
CREATE INDEX attempts_by_state ON attempts (state);
CREATE INDEX attempts_by_batch ON attempts (batch) WHERE batch IS NOT NULL;
CREATE INDEX attempts_by_position ON attempts (position);
CREATE TABLE batches (
  id INTEGER PRIMARY KEY, requests INTEGER NOT NULL, state TEXT NOT NULL, remote_id TEXT,
  begun_at REAL NOT NULL, ended_at REAL, short INTEGER NOT NULL, problem TEXT);
CREATE TABLE trail (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, position INTEGER, ref,
  note TEXT, content BLOB, hash BLOB NOT NULL);
{places.SCHEMA}
PRAGMA user_version = 5;
COMMIT;
"""
VERSION = 5
LEDGER = "ledger.sqlite"
CACHE_KIB = 32 << 10
CHECKPOINT_PAGES = 8192


@contextmanager
def open_ledger(run_dir: Path, *, create: bool = True) -> Iterator[Ledger]:
    """Opens a run directory's ledger, alone: a second process gets a `RunDirError`."""
    path = run_dir / LEDGER
    try:
        if not create and not path.exists():
            raise RunDirError(f"{run_dir} is not a run directory: it has no ledger.sqlite")
        private.own_folder(run_dir)
        lock = open(run_dir / "lock", "a", opener=private.opener)  # noqa: SIM115
    except OSError as error:
        raise RunDirError(f"cannot use {run_dir} as a run directory: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunDirError(f"another surelocal is at work in {run_dir}") from None
        try:
            # Its -wal and -shm get the mode that it has.
            database = sqlite3.connect(private.made(path))
            try:
                ledger = _prepare(database, path)
                yield ledger
                ledger.commit()
            finally:
                database.close()
        except sqlite3.DatabaseError as error:
            raise RunFailed(f"{path}: {error}") from None


def _prepare(database: sqlite3.Connection, path: Path) -> Ledger:
    database.execute("PRAGMA journal_mode = WAL")
    # FULL: a reservation survives a power cut, not only a killed process.
    database.execute("PRAGMA synchronous = FULL")
    # Ids come in no order: the pages of their index are kept, and not copied at every commit.
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    version = _version(database, path)
    if version == 0:
        database.executescript(SCHEMA)
    elif version == FORMER:
        migrate(database, path.parent)
    return Ledger(database, path.parent)


def _version(database: sqlite3.Connection, path: Path) -> int:
    """0 for a ledger that is still empty."""
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, FORMER, VERSION):
        raise RunDirError(
            f"{path} is of ledger version {version}, this surelocal writes {VERSION}; take a new "
            "--run-dir, or the surelocal that made it"
        )
    return version


def _for_reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


@contextmanager
def read_ledger(run_dir: Path) -> Iterator[Ledger]:
    """Opens a ledger for reading only, also while a run writes to it; one of the former version
    is first brought to this one."""
    path = run_dir / LEDGER
    if not path.exists():
        raise RunDirError(f"{run_dir} is not a run directory: it has no {LEDGER}")
    try:
        with closing(_for_reading(path)) as database:
            version = _version(database, path)
        if version == FORMER:
            with open_ledger(run_dir, create=False):
                pass
        with closing(_for_reading(path)) as database:
            if version == 0:
                raise RunDirError(f"{run_dir} holds no run yet: its first one has only begun")
            yield Ledger(database, run_dir)
    except sqlite3.DatabaseError as error:
        raise RunFailed(f"{path}: {error}") from None
