"""Files and folders for their owner alone, however the umask is: they hold what customers wrote."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600


def opener(path: str, flags: int) -> int:
    """For `open`: whatever it makes, or writes to, is the owner's alone; devices stay as they
    are."""
    file = os.open(path, flags, FILE)
    if stat.S_ISREG(os.fstat(file).st_mode):
        with suppress(OSError):  # another's file that we may write to
            os.fchmod(file, FILE)
    return file


def made(path: Path) -> Path:
    """The file is there, for a library that opens it by its path."""
    if path.exists():
        # Not opened: to close it again would take a database's locks from this process.
        _close(path)
    else:
        os.close(opener(str(path), os.O_WRONLY | os.O_CREAT))
    return path


def folder(path: Path) -> Path:
    """The folder is there, and each one that was made for it is the owner's alone."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        with suppress(FileExistsError):
            one.mkdir(FOLDER)
            one.chmod(FOLDER)  # a umask may have taken away even more
    path.mkdir(exist_ok=True)  # says what is wrong where it is no folder
    return path


def own_folder(path: Path) -> Path:
    """The folder is there and, with the files in it, closed to others, where former versions left
    them open. What belongs to somebody else stays as it is."""
    _close(folder(path))
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                _close(Path(entry.path))
    return path


def _close(path: Path) -> None:
    with suppress(OSError):
        mode = path.stat().st_mode
        if mode & 0o077 and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            path.chmod(stat.S_IMODE(mode) & ~0o077)
