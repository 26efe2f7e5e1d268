"""A new job to start from: `surelocal init`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from runner.errors import UsageError
from runner.starter.own import guess, own_job

FILES = ("job.yaml", "records.csv")


@dataclass(frozen=True, slots=True)
class Started:
    """What was written, what was guessed for it, and what the records show, in words."""

    paths: list[Path]
    guessed: list[str]
    notes: list[str]


def write_starter(folder: Path, records: Path | None = None) -> Started:
    """Writes a starter job with five records, or one over the file ``records``, which stays where
    it is; refuses to overwrite anything.

    Raises:
        UsageError: a file is already there, the folder cannot be written, or ``records`` cannot be
            read.
    """
    guessed: list[str] = []
    notes: list[str] = []
    if records is None:
        texts = {name: files(__name__).joinpath(name).read_bytes() for name in FILES}
    else:
        found = guess(records)
        guessed, notes = found.told(), found.notes
        texts = {"job.yaml": own_job(folder, records, found).encode()}
    for name in texts:
        if (folder / name).exists():
            raise UsageError(f"{folder / name} is already there; take another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_bytes(text)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None
    return Started([folder / name for name in texts], guessed, notes)
