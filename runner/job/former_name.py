"""What was made while the product was called localfirst goes on.

A run directory holds the name nowhere. A day's spend does, and so does the mark by which a batch of
OpenAI's is found again whose id was lost.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from runner import private

FORMER_NAME = "localfirst"


def spend_file(path: Path) -> Path:
    """The path of the day's spend; a file in the former name's folder is linked to from there.

    It is not moved: a run of the former version may be at work in it, and the cap is for both.
    """
    former = path.parent.parent / FORMER_NAME / path.name
    if path.is_symlink() and not path.exists():
        path.unlink(missing_ok=True)  # the former file was deleted; a new one begins here
    if former.exists() and not path.exists():
        with suppress(OSError):  # another run was first, or opening it says what is wrong
            private.folder(path.parent)
            path.symlink_to(former)
    return path
