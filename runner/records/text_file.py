"""Opens a text file of records, plain or gzipped UTF-8, and refuses other kinds of files."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

from runner.errors import InputError

_HEAD_BYTES = 4096
_AS_CSV = "save it as CSV UTF-8, and use that file"
_OTHERS = (
    (b"PK\x03\x04", f"an Excel workbook or another zip archive; in Excel, {_AS_CSV}"),
    (b"\xd0\xcf\x11\xe0", f"an old Excel workbook; in Excel, {_AS_CSV}"),
    (b"PAR1", "a Parquet file; name it .parquet"),
    (b"\x1f\x8b", "gzipped; add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it, or pack it by gzip"),
    (b"BZh", "compressed by bzip2; unpack it, or pack it by gzip"),
    (b"\xfd7zXZ", "compressed by xz; unpack it, or pack it by gzip"),
    (b"%PDF", "a PDF; export the data itself, as CSV UTF-8"),
    (b"SQLite format 3\0", "a SQLite database; name it in records.url, with a records.query"),
)
"""The first bytes of other kinds of files, with the fix for each."""


def open_text(path: Path) -> io.TextIOWrapper:
    """The file's text with its line ends unchanged.

    Undecodable bytes become lone surrogates, so that one bad byte fails only one record.

    Raises:
        InputError: it is another kind of file, or UTF-16 or UTF-32, with or without a BOM.
    """
    packed = path.suffix == ".gz"
    binary = gzip.open(path, "rb") if packed else path.open("rb")  # noqa: SIM115
    try:
        head = binary.read(_HEAD_BYTES)
        if found := _other_kind(head):
            raise InputError(f"{path} is {found}")
        binary.seek(0)
    except BaseException:
        binary.close()
        raise
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _other_kind(head: bytes) -> str | None:
    """What the file is instead of UTF-8 text, with the fix; None if it is UTF-8 text."""
    for begins, what in _OTHERS:
        if head.startswith(begins):
            return what
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))
    if marked or _every_other_is_nul(head):
        width = "32" if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else "16"
        return f"UTF-{width}; save it as UTF-8 (in Excel: 'CSV UTF-8')"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:100].lower()
    if text.startswith((b"<html", b"<!doctype", b"<table", b"<?xml", b"<meta", b"<head")):
        return "a web page or XML, not a table; export it as CSV UTF-8"
    return None


def _every_other_is_nul(head: bytes) -> bool:
    """Whether NULs alternate as in UTF-16 without a BOM, in mostly Latin text or in any table."""
    pairs = len(head) // 2
    few, many = sorted((head[::2].count(0), head[1::2].count(0)))
    return pairs > 1 and (many > pairs * 0.4 or (few == 0 and many > 1 and _with_commas(head)))


def _with_commas(head: bytes) -> bool:
    """Whether delimiters and most line breaks are two bytes, for text in other scripts: a few cells
    of UTF-8 may hold a NUL as well."""
    breaks = head.count(b"\n")
    paired = max(head.count(b"\n\0"), head.count(b"\0\n"))
    return 2 * paired >= breaks and any(
        sign + b"\0" in head or b"\0" + sign in head for sign in (b",", b";", b"\t", b"\n")
    )
