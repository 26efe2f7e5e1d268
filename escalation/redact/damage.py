"""What a text comes to where a program took its bytes for another encoding's.

Exports of many years hold García as GarcÃ­a, Garc?a, Garc\ufffda or Garca: each is still read as the
name that it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

LEAST_LEFT = 3
"""So many letters must be left beside the lost ones: "No?" is no Noé."""


def misread(text: str) -> Iterator[str]:
    """Its UTF-8 taken for Latin-1, or for Windows' own."""
    if not text.isascii():
        given = text.encode("utf-8", "replace")
        yield given.decode("latin-1")
        yield "".join(_WINDOWS[byte] for byte in given)


def lost(word: str) -> Iterator[str]:
    """With a mark, or nothing, where it had a letter that some encoding lacks."""
    left = "".join(filter(str.isascii, word))
    if left == word or len(left) < LEAST_LEFT:
        return
    yield left
    for mark in ("\ufffd", "?", "_"):
        yield "".join(char if char.isascii() else mark for char in word)
    for mark in ("\ufffd", "?"):  # one for each byte
        yield "".join(char if char.isascii() else mark * len(char.encode()) for char in word)
    runs = groupby(word, str.isascii)
    yield "".join("".join(run) if plain else "\ufffd" for plain, run in runs)


def _windows(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_WINDOWS = [_windows(byte) for byte in range(256)]
