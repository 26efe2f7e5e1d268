"""A new job to start from: `localfirst init`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from runner.errors import UsageError

FILES = ("job.yaml", "records.csv")


def write_starter(folder: Path) -> list[Path]:
    """Writes the starter job and records; refuses to overwrite anything.

    Raises:
        UsageError: a file is already there, or the folder cannot be written.
    """
    targets = [folder / name for name in FILES]
    for path in targets:
        if path.exists():
            raise UsageError(f"{path} is already there; take another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in targets:
            path.write_bytes(files(__name__).joinpath(path.name).read_bytes())
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None
    return targets
