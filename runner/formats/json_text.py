"""Values as JSON text, by encoders that are made once.

A run writes some six such texts a record, and `json.dumps` makes an encoder at every call: that
alone takes as long as the rest of it.

Two names are CPython's own and not in its documents, ``c_make_encoder`` and ``scanstring``: tried
on 3.11 to 3.14, and `tests/test_insides.py` holds them to the `json` of every day.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as _json
from json.decoder import scanstring as _scanned  # type: ignore[attr-defined]
from typing import Any

_make = getattr(_json, "c_make_encoder", None)  # only CPython has it


def json_encoder(
    separators: tuple[str, str] = (",", ":"), *, sort_keys: bool = False
) -> Callable[[Any], str]:
    """Writes what `json.dumps` does with these settings, all characters as they are, and what JSON
    has no form for as text."""
    if _make is None:
        return json.JSONEncoder(
            ensure_ascii=False, separators=separators, sort_keys=sort_keys, default=str
        ).encode
    item, key = separators
    # In its order: no look-out for cycles, default, texts, no indent, separators, keys, no skipping
    # of odd keys, NaN as it is.
    encode = _make(None, str, _json.encode_basestring, None, key, item, sort_keys, False, True)
    return lambda value: "".join(encode(value, 0))


compact = json_encoder()
"""JSON without spaces."""

_read = json.JSONDecoder().raw_decode


def read_compact(text: str) -> Any:
    """What `compact` wrote, without a look for spaces around it."""
    return _read(text)[0]


def read_string(text: str, at: int) -> tuple[str, int]:
    """The JSON string whose first character (after its quote) is ``at``, and where it ends.

    Raises:
        ValueError: it is none.
    """
    value, end = _scanned(text, at, True)
    return value, end
