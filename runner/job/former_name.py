"""Compatibility with files made while the product was called localfirst.

A run directory does not contain the name. The spend file does, and so does the mark by which an
OpenAI batch is found again if its id was lost.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from runner import private

FORMER_NAME = "localfirst"


def spend_file(path: Path) -> Path:
    """The path of the spend file; becomes a link if there is a file in the former name's folder.

    That file is not moved: a run of the former version may use it, and the cap covers both.
    """
    former = path.parent.parent / FORMER_NAME / path.name
    if path.is_symlink() and not path.exists():
        path.unlink(missing_ok=True)  # the former file was deleted; start a new one
    if former.exists() and not path.exists():
        with suppress(OSError):  # another run was first, or opening it reports the error
            private.folder(path.parent)
            path.symlink_to(former)
    return path
