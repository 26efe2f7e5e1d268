"""The results files of runs: noted in the trail when written, and later checked against it.

The note comes before the file takes its place, since a kill may come between: until it is there,
the former file is as good. A file that has what the ledger would write now is as good, too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from runner.ledger import Ledger
from runner.ledger.meta import ResultsFile
from runner.ledger.trail import OUTCOME

Write = Callable[[Path, str, bool], object]
"""Writes the results anew: into this file, in this format, raw or not."""


@dataclass(frozen=True, slots=True)
class Checked:
    """``problem``: what is not as it was written, None where all is; ``notes``: what is old."""

    problem: str | None
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Noting:
    """One file that is being written, as ``fmt``."""

    ledger: Ledger
    path: Path
    fmt: str
    raw: bool

    def begin(self, whole: Path) -> None:
        """Notes what is about to take the file's place."""
        self.ledger.commit()  # so that the trail has all that is in it
        folder = self.ledger.folder
        noted = self.ledger.meta.results or {}
        files = {n: file for n, file in noted.items() if _place(folder, n).exists()}
        name, new = _name(folder, self.path), _hash(whole)
        known = files.pop(name, None)
        former = known.sha256 if known is not None and known.sha256 != new else None
        # Last, as the one that must be there.
        files[name] = ResultsFile(new, self.ledger.trail.last(OUTCOME), self.fmt, self.raw, former)
        self.ledger.meta.results = files

    def done(self) -> None:
        """It is there."""
        files = self.ledger.meta.results or {}
        name = _name(self.ledger.folder, self.path)
        if name in files and files[name].former:
            self.ledger.meta.results = {**files, name: replace(files[name], former=None)}


def check(ledger: Ledger, write: Write) -> Checked:
    """Whether the results files are as they were written."""
    before, checked = None, Checked(None, [])
    while (files := ledger.meta.results or {}) != before:  # a run may have written one meanwhile
        before, checked = files, _check(ledger, files, write)
        if checked.problem is None:
            break
    return checked


def _check(ledger: Ledger, files: dict[str, ResultsFile], write: Write) -> Checked:
    notes: list[str] = []
    last = ledger.trail.last(OUTCOME)
    for number, (name, known) in enumerate(files.items(), start=1):
        path = _place(ledger.folder, name)
        try:
            has = _hash(path)
        except OSError as error:
            if number < len(files) and isinstance(error, FileNotFoundError):
                continue  # of a former run, with another name
            why = f"cannot be read ({error.strerror}); run again, and it is written anew"
            return Checked(f"the results file {path} {why}", notes)
        if has == known.sha256 and known.after == last:
            continue
        if has in (known.sha256, known.former):
            notes.append(f"{path} was written before the last change; run again, and it has all")
        elif (line := _differs(path, known, write)) is not None:
            return Checked(f"the results file {path} was changed{line}", notes)
    return Checked(None, notes)


def _differs(path: Path, known: ResultsFile, write: Write) -> str | None:
    """Where the file is not what the ledger would write now; None where it is."""
    with tempfile.TemporaryDirectory() as folder:
        right = Path(folder) / path.name
        write(right, known.format, known.raw)
        if _hash(right) == _hash(path):
            return None
        if path.suffix == ".parquet":
            return ""
        with right.open("rb") as ours, path.open("rb") as theirs:
            for number, (own, other) in enumerate(zip_longest(ours, theirs), start=1):
                if own != other:
                    what = "is not what the ledger has"
                    what = "was put in" if own is None else "was taken out" if not other else what
                    return f": line {number:,} {what}"
    return ""


def _name(folder: Path, path: Path) -> str:
    """Inside the run directory without it, since that may be moved."""
    whole, own = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return str(whole.relative_to(own) if whole.is_relative_to(own) else whole)


def _place(folder: Path, name: str) -> Path:
    return folder / name


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
