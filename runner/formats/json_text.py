"""Writes values as JSON text, with encoders that are made once.

A run writes about six such texts per record. `json.dumps` makes an encoder at every call, which
takes as long as the encoding itself.

Two names are undocumented parts of CPython, ``c_make_encoder`` and ``scanstring``. They were tested
on 3.11 to 3.14, and `tests/test_insides.py` compares them with `json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as _json
from json.decoder import scanstring as _scanned  # type: ignore[attr-defined]
from typing import Any

_make = getattr(_json, "c_make_encoder", None)  # CPython only


def json_encoder(
    separators: tuple[str, str] = (",", ":"), *, sort_keys: bool = False
) -> Callable[[Any], str]:
    """An encoder like `json.dumps` with these settings, without ASCII escapes; values without a
    JSON form become text."""
    if _make is None:
        return json.JSONEncoder(
            ensure_ascii=False, separators=separators, sort_keys=sort_keys, default=str
        ).encode
    item, key = separators
    # Its arguments: no check for cycles, default, strings, no indent, separators, sort_keys,
    # skipkeys, allow_nan.
    encode = _make(None, str, _json.encode_basestring, None, key, item, sort_keys, False, True)
    return lambda value: "".join(encode(value, 0))


compact = json_encoder()
"""JSON without spaces."""

_read = json.JSONDecoder().raw_decode


def read_compact(text: str) -> Any:
    """Reads what `compact` wrote; does not allow surrounding space."""
    return _read(text)[0]


def read_string(text: str, at: int) -> tuple[str, int]:
    """The JSON string whose first character (after the quote) is at ``at``, and where it ends.

    Raises:
        ValueError: it is not a JSON string.
    """
    value, end = _scanned(text, at, True)
    return value, end
