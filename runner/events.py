"""What a command says, for machines: with `--log-format json`, one JSON object per line on stderr.

`tell` is for whoever has something to tell that a program may act on. Without `as_json` these are
records of the standard library's logger ``surelocal``, which nobody hears unless they ask to.
With it, nothing else reaches stderr: whatever a library, a child process or an engine writes there
becomes a line of the same kind.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO, Any, Protocol, TextIO

from runner.notices import Event, Level, Notice, notice

LOGGER = logging.getLogger("surelocal")
LOGGER.addHandler(logging.NullHandler())

_SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST_SECRET = 8
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_JOIN_S = 2.0


class OnLine(Protocol):
    """Who hears a line that somebody has written to stderr: raw text, and no event."""

    def __call__(self, line: str, /) -> None: ...


_bound: dict[str, Any] = {}
_structured = False


def structured() -> bool:
    """Whether stderr is for machines."""
    return _structured


def bind(**fields: Any) -> None:
    """Gives every later line of this command these fields, ``run_dir`` say."""
    _bound.update(fields)


def tell(given: Notice) -> None:
    """Tells of something, by its event, its level and its fields."""
    if LOGGER.isEnabledFor(given.level):
        more = {"event": given.event, "fields": given.fields}
        LOGGER.log(given.level, given.text, extra=more)


@contextmanager
def as_json() -> Iterator[None]:
    """Until the block ends, stderr carries events and nothing else."""
    global _structured
    root, level, usual = logging.getLogger(), LOGGER.level, sys.stderr
    handler = logging.StreamHandler(usual)
    handler.setFormatter(_Formatter(_secrets()))
    try:
        with diverted(_of_engine) if is_real_stderr(usual) else nullcontext(usual) as out:
            handler.setStream(out)
            root.addHandler(handler)
            LOGGER.setLevel(logging.INFO)
            logging.captureWarnings(True)
            _structured = True
            sys.stderr = lines = _Lines()
            try:
                yield
            finally:
                lines.close()
                sys.stderr = usual
        # What others had written until now has been told by the end of that block.
    finally:
        root.removeHandler(handler)
        LOGGER.setLevel(level)
        logging.captureWarnings(False)
        _bound.clear()
        _structured = False


@contextmanager
def diverted(hear: OnLine) -> Iterator[TextIO]:
    """Lets ``hear`` have, line by line, what this process and its children write to stderr;
    yields a way to the true one. Of a line that overwrites itself the last state is heard."""
    true = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    read, write = os.pipe()
    end = os.urandom(16).hex().encode()
    os.dup2(write, 2)
    os.close(write)
    thread = threading.Thread(target=_listen, args=(read, end, hear), name="stderr", daemon=True)
    thread.start()
    try:
        yield true
    finally:
        # By a mark: a child that lives on has the pipe too, so that it may never end.
        with suppress(OSError):
            os.write(2, b"\n" + end + b"\n")
        os.dup2(true.fileno(), 2)
        thread.join(_JOIN_S)
        true.close()


def _listen(read: int, end: bytes, hear: OnLine) -> None:
    with os.fdopen(read, "rb") as pipe:
        for raw in pipe:
            line = raw.rstrip(b"\r\n")
            if line == end:
                return
            text = _COLOUR.sub("", line.rpartition(b"\r")[2].decode("utf-8", "replace")).rstrip()
            # Whatever goes wrong in telling of it, whoever writes must not wait for ever.
            with suppress(Exception):
                if text:
                    hear(text)


def uncoloured(text: str) -> str:
    """Without a terminal's codes for colours and the like."""
    return _COLOUR.sub("", text)


def _of_engine(line: str) -> None:
    found = _LEVEL.search(line[:80])
    tell(notice(Event.ENGINE, line, Level[found[1]] if found else None))


def is_real_stderr(stderr: IO[str]) -> bool:
    """Whether it is the one that child processes have too; a test or a notebook has its own."""
    try:
        return stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        return False


class _Lines(io.TextIOBase):
    """Python's own stderr: what is printed there becomes an event."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._begun = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._tell(line)
        return len(text)

    def close(self) -> None:
        if not self.closed:
            self._tell(self._begun)
        super().close()

    def _tell(self, line: str) -> None:
        if said := _COLOUR.sub("", line).strip():
            tell(notice(Event.NOTICE, said))


class _Formatter(logging.Formatter):
    """One object on one line. Keys from the environment are cut out, wherever they stand."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", Event.LOG),
            "message": record.getMessage(),
        }
        if "event" not in record.__dict__:
            line["logger"] = record.name
        line |= {**_bound, **getattr(record, "fields", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(line, default=_plain)
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _plain(value: object) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)


def _secrets() -> tuple[str, ...]:
    """As they would stand in JSON, the longest first: one may be part of another."""
    found = {
        json.dumps(value.strip())[1:-1]
        for name, value in os.environ.items()
        if _SECRET.search(name) and len(value.strip()) >= _SHORTEST_SECRET
    }
    return tuple(sorted(found, key=len, reverse=True))
