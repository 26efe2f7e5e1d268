"""What the ledger keeps of the run as a whole: each key once, with its type and how it is written.

``ledger.meta.pace`` reads one, and to assign it writes it down, and commits. A stored text is of no
use but through here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar

from runner.ledger.trail import META, Trail

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Audited:
    """The running audit: how many accepted answers were checked, how many of these were wrong, and
    how many alarms that raised."""

    checked: int
    wrong: int
    alarms: int


@dataclass(frozen=True, slots=True)
class Looks:
    """Further looks over all runs: at how many answers, how many decisions they changed, and the
    seconds that their requests took."""

    looked: int = 0
    changed: int = 0
    seconds: float = 0

    def __add__(self, more: Looks) -> Looks:
        return Looks(
            self.looked + more.looked, self.changed + more.changed, self.seconds + more.seconds
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """Sums over the runs that came to their end. ``tokens`` are those generated here,
    ``generating_s``: since the model was there."""

    records: int = 0
    seconds: float = 0
    tokens: int = 0
    generating_s: float = 0

    def __add__(self, more: Pace) -> Pace:
        return Pace(
            self.records + more.records,
            self.seconds + more.seconds,
            self.tokens + more.tokens,
            self.generating_s + more.generating_s,
        )

    @property
    def records_a_second(self) -> float | None:
        return self.records / self.seconds if self.seconds else None

    @property
    def tokens_a_second(self) -> float | None:
        return self.tokens / self.generating_s if self.tokens and self.generating_s else None

    def gpu_usd(self, per_hour: Decimal) -> Decimal:
        return per_hour * Decimal(str(self.seconds)) / 3600


@dataclass(frozen=True, slots=True)
class ResultsFile:
    """A results file as it was written. ``after``: the last entry of the trail that speaks of an
    outcome. ``former``: the hash of the file that it is about to replace, until it has."""

    sha256: str
    after: int
    format: str
    raw: bool
    former: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class _Key(Generic[T]):
    """A key of the table. ``read`` is given "" where nothing was written yet."""

    def __init__(self, name: str, read: Callable[[str], T], write: Callable[[T], str]) -> None:
        self._name = name
        self._read = read
        self._write = write

    def __get__(self, meta: Meta, owner: type[Meta]) -> T:
        return self._read(meta._text(self._name))

    def __set__(self, meta: Meta, value: T) -> None:
        meta._put(self._name, self._write(value))


def _or_none(text: str) -> str | None:
    return text or None


def _or_empty(text: str | None) -> str:
    return text or ""


def _loaded(text: str) -> Any:
    return json.loads(text) if text else None


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _flag(word: str) -> tuple[Callable[[str], bool], Callable[[bool], str]]:
    return (lambda text: text == word), (lambda value: word if value else "")


def _audited(text: str) -> Audited | None:
    return Audited(**json.loads(text)) if text else None


def _looks(text: str) -> Looks | None:
    return Looks(*json.loads(text)) if text else None


def _pace(text: str) -> Pace | None:
    return Pace(*json.loads(text)) if text else None


def _sums(value: Looks | Pace | None) -> str:
    return "" if value is None else json.dumps(astuple(value))


def _files(text: str) -> dict[str, ResultsFile] | None:
    return {n: ResultsFile(**file) for n, file in json.loads(text).items()} if text else None


class Meta:
    """The ``meta`` table. ``commit`` is the ledger's own, over everything pending."""

    job = _Key[dict[str, Any] | None]("job", _loaded, _plain)
    """The job as `runner.job.Job.written` gives it: without a login."""
    login = _Key[str | None]("login", _or_none, _or_empty)
    """The job's key whose address was given with a login, which is written down nowhere."""
    identity = _Key[dict[str, Any] | None]("identity", _loaded, json.dumps)
    """What another job must share to go on here: `runner.job.Job.identity`."""
    served = _Key[bool]("served", *_flag("yes"))
    """Whether a server answered requests here, and no batch."""
    certificate = _Key[list[dict[str, Any]] | None]("certificate", _loaded, json.dumps)
    """`escalation.certify.accepted.Trust.stated`."""
    audit = _Key[Audited | None](
        "audit", _audited, lambda value: "" if value is None else json.dumps(asdict(value))
    )
    """None where nothing is audited."""
    shift_alarm = _Key[bool]("shift", *_flag("alarm"))
    """Whether the records came to differ from the labelled ones."""
    looks = _Key[Looks | None]("looks", _looks, _sums)
    pace = _Key[Pace | None]("pace", _pace, _sums)
    slowest = _Key[list[tuple[int, float]]](
        "slowest", lambda text: [(p, s) for p, s in json.loads(text or "[]")], json.dumps
    )
    """(position, seconds) of the records that the local model took longest for, the longest
    first."""
    stopped = _Key[str | None]("stopped", _or_none, _or_empty)
    """Why nothing more was sent to the closed model, where something ended it early."""
    drawn = _Key[frozenset[int]](
        "drawn",
        lambda text: frozenset(json.loads(text or "[]")),
        lambda value: json.dumps(sorted(value)),
    )
    """The positions of all records that were ever drawn at random for people."""
    results = _Key[dict[str, ResultsFile] | None](
        "results",
        _files,
        lambda value: _plain({n: file.as_json() for n, file in (value or {}).items()}),
    )
    """Where a results file is, in the run directory or from the root → how it was written; the last
    is the one that must be there. None where none was written yet."""
    spend_mark = _Key[str | None]("spend", _or_none, _or_empty)
    """Identifies this run directory in the spend file of the daily cap."""
    journal_mark = _Key[str | None]("journal", _or_none, _or_empty)
    """Identifies this ledger to the courier's files beside it."""
    batch_mark = _Key[str | None]("batches", _or_none, _or_empty)
    """Identifies this run directory's batches at a provider."""

    __slots__ = ("_commit", "_db", "_trail")

    def __init__(
        self, connection: sqlite3.Connection, trail: Trail, commit: Callable[[], None]
    ) -> None:
        self._db = connection
        self._trail = trail
        self._commit = commit

    def _text(self, key: str) -> str:
        """As it is stored; "" where it is not."""
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def _put(self, key: str, text: str) -> None:
        """Stores it, with an entry where it is another than before, and commits."""
        with self._trail.writing():
            changed = self._db.execute(
                "INSERT INTO meta VALUES (?,?) ON CONFLICT (key) DO UPDATE SET "
                "value=excluded.value WHERE value != excluded.value",
                (key, text),
            ).rowcount
            if changed:
                self._trail.add(META, None, (key, text), ref=key)
        self._commit()
