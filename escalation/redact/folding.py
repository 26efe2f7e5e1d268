"""Texts as redaction compares them: without case, accents, escapes and invisible characters."""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from urllib.parse import unquote

# Scripts whose words stand together, or take particles without a space: Hebrew and Arabic, Thai to
# Burmese, Khmer, Hangul, kana, Han. There a neighbouring letter does not end the search.
TOGETHER = (
    "\u0590-\u06ff\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
LETTER = rf"[^\W\d_{TOGETHER}]"
_TOKEN = re.compile(rf"[{TOGETHER}]+|\d+|{LETTER}+|\0")
_ESCAPE = re.compile(
    r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,31});"
    r"|%[2-7][0-9a-f]|(?:%[c-f][0-9a-f](?:%[89ab][0-9a-f]){1,3})"
    r"|\\u[0-9a-f]{4}",
    re.IGNORECASE,
)
# Letters with a stroke, and the dotless i, which Unicode does not take apart.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "\u0131": "i"}
    | {"æ": "ae", "œ": "oe"}
)


class _Folds(dict[str, str]):
    """Character → what it is compared as; filled as characters are met."""

    def __missing__(self, char: str) -> str:
        if char.isdecimal():
            folded = str(unicodedata.decimal(char))
        else:
            apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
            kept = (c for c in apart if not unicodedata.combining(c))
            folded = "".join(c for c in kept if unicodedata.category(c) != "Cf").translate(_PLAIN)
        self[char] = folded
        return folded


_FOLDS = _Folds()


def fold(text: str) -> str:
    return "".join(map(_FOLDS.__getitem__, text))


def tokens(folded: str) -> list[str]:
    """Runs of letters, of digits, and the NUL that stands where something was taken out."""
    return _TOKEN.findall(folded)


@dataclass(frozen=True, slots=True)
class View:
    """A text as it is compared, and where in the original each part of it stands.

    ``ends[i]`` is where the i-th piece of the original ends in ``text``, ``origins[i]`` where it
    begins in the original; both are ``None`` where the two texts run in step.
    """

    text: str
    ends: Sequence[int] | None = None
    origins: Sequence[int] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original, whole characters and their accents, behind a span of this."""
        if self.ends is None or self.origins is None:
            return start, end
        last = bisect_left(self.ends, end)
        after = bisect_right(self.ends, self.ends[last])
        return self.origins[bisect_right(self.ends, start)], self.origins[after]


def view(text: str) -> View:
    if text.isascii() and not _ESCAPE.search(text):
        return View(text.lower())
    pieces: list[str] = []
    origins: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(text):
        pieces += map(_FOLDS.__getitem__, text[at : escape.start()])
        pieces.append(_unescaped(escape[0]))
        origins += range(at, escape.start() + 1)
        at = escape.end()
    pieces += map(_FOLDS.__getitem__, text[at:])
    origins += range(at, len(text) + 1)
    return View("".join(pieces), list(accumulate(map(len, pieces))), origins)


@lru_cache(maxsize=1024)
def _unescaped(escape: str) -> str:
    if escape[0] == "&":
        return fold(html.unescape(escape))
    return fold(unquote(escape) if escape[0] == "%" else chr(int(escape[2:], 16)))
