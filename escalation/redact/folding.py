"""Folds texts for comparison: without case, accents, escapes, markup or invisible characters."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from urllib.parse import unquote_to_bytes

# Scripts that write words without spaces, or attach particles to them: Hebrew and Arabic, Thai to
# Burmese, Khmer, Hangul, kana, Han. There, a match may be next to another letter.
TOGETHER = (
    "\u0590-\u06ff\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
LETTER = rf"[^\W\d_{TOGETHER}]"
# Most folded words consist of a to z, which is matched faster.
_TOKEN = re.compile(rf"[a-z]+(?!{LETTER})|\d+|{LETTER}+|[{TOGETHER}]+|\0")
# Invisible characters: control codes, joiners, direction marks, fillers, and what only lengthens a
# word. NUL is used by this module.
_UNSEEN = "\x01-\x08\x0e-\x1a\x7f-\x84\x86-\x9f\u0640"
_UNSEEN += "\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
_UNSEEN += "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef"
# A line of quoted-printable ends so, and the next one may begin as a mail's answer does.
_SOFT_END = r"=[ \t]*\r?\n(?:>[> ]*)?"
_ESCAPES = (
    r"&(?:amp;)*(?:#\d{1,7};?|#x[0-9a-f]{1,6};?|[a-z]{2,31};)"
    r"|%0[9ad]|%[2-7][0-9a-f]|%[c-f][0-9a-f](?:%[89ab][0-9a-f]){1,3}|%[c-f][0-9a-f]"
    # Quoted-printable: letters of two bytes, runs of them, what old mail programs send, line ends.
    rf"|=[0-9a-f]{{2}}(?:(?:{_SOFT_END})?=[0-9a-f]{{2}})+"
    rf"|=(?:[c-f][0-9a-f]|0[9ad]|2[07a-f]|3[a-f]|40|5[b-f])(?!\d)|{_SOFT_END}"
    r"|\\u000[01][0-9a-f]{4}|\\u[0-9a-f]{4}|\\u\{[0-9a-f]{1,6}\}|\\x[0-9a-f]{2}|\\[nrtfb]"
    r"|(?<=[^\W\d_])[-\u2010\u00ad]\r?\n[ \t>]*(?=[^\W\d_])"
    rf"|[{_UNSEEN}]+"
)
_TAGS = r"</?[a-z!][^<>]{0,1000}>|&lt;/?[a-z](?:[^<>&]|&quot;){0,200}&gt;|(?<=\w)(?:\*+|~~|`)(?=\w)"
_ESCAPE = re.compile(_ESCAPES, re.IGNORECASE)
_SOFT = re.compile(_SOFT_END)
_ESCAPE_OR_TAG = re.compile(f"{_TAGS}|{_ESCAPES}", re.IGNORECASE)
_TAG = re.compile(_TAGS, re.IGNORECASE)
# The first characters of escapes and of tags: searched first, since most text has neither.
_ESCAPE_STARTS = re.compile(rf"[&%=\\\-\u2010{_UNSEEN}]")
_STARTS = re.compile(rf"[<*~`&%=\\\-\u2010{_UNSEEN}]")
_BLOCK = re.compile(
    r"(?:<|&lt;)/?(?:br|p|div|t[dhr]|li|[uo]l|h[1-6r]|table|tbody|body|pre|blockquote|option)\b",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
# Stroked letters and the dotless i, which Unicode does not decompose; apostrophes; hyphens.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "\u0131": "i"}
    | {"æ": "ae", "œ": "oe", "þ": "th"}
    | dict.fromkeys("\u2018\u2019\u02bc\u02bb\u2032\u00b4`", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_NOTHING = re.compile(f"[{_UNSEEN}]")
# An escape whose letters could belong to a name.
_LIKE_A_NAME = re.compile(r"&#x?[0-9a-f]|%[c-f][0-9a-f]|%[2-7][a-f]|=[0-9a-f]{2}|\\[a-z]", re.I)


class _Folds(dict[str, str]):
    """Character → its folded form; filled on demand."""

    def __missing__(self, char: str) -> str:
        if char.isdecimal():
            folded = str(unicodedata.decimal(char))
        elif _NOTHING.match(char):
            folded = ""
        else:
            apart = unicodedata.normalize(
                "NFKD", unicodedata.normalize("NFKD", char.translate(_PLAIN)).casefold()
            )
            # Drops marks: accents, and vowel signs above or below a letter.
            kept = (c for c in apart if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
            folded = "".join(kept).translate(_PLAIN)
        self[char] = folded
        return folded


_FOLDS = _Folds()


def fold(text: str) -> str:
    return "".join(map(_FOLDS.__getitem__, text))


def tokens(folded: str) -> list[str]:
    """Runs of letters, runs of digits, and the NUL that replaces removed text."""
    return _TOKEN.findall(folded)


@dataclass(frozen=True, slots=True)
class View:
    """A folded text, with the position of each part in the original.

    ``ends[i]`` is where the i-th piece of the original ends in ``text``, ``origins[i]`` where it
    begins in the original; both are ``None`` if the two texts have the same positions. ``seams``
    are places where a word may end although a letter follows: text between them was removed, or a
    capital begins.
    """

    text: str
    ends: Sequence[int] | None = None
    origins: Sequence[int] | None = None
    seams: Sequence[int] = ()

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The original's span, in whole characters with their accents, for a span of ``text``."""
        if self.ends is None or self.origins is None:
            return start, end
        last = bisect_left(self.ends, end)
        first, after = bisect_right(self.ends, start), bisect_right(self.ends, self.ends[last])
        last += 1
        # A longer piece, such as a tag after the word, is not included.
        while last < after and self.origins[last + 1] - self.origins[last] == 1:
            last += 1
        return self.origins[first], self.origins[last]


def views(text: str) -> Iterator[View]:
    """The text unescaped, and also without tags if it has some: a name can be in or across one."""
    yield view(text)
    if next(all_of(_TAG, _STARTS, text), None):
        yield view(text, tags=False)


def to_the_letter(text: str) -> Iterator[View]:
    """The text with its escapes left in, if any: a name can look like one, as in ``user=Cecil``."""
    if _LIKE_A_NAME.search(text):
        yield _folded(text, [])


def all_of(wanted: re.Pattern[str], starts: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Like `finditer`, but tried only where ``starts`` matches, which is faster to search for."""
    at = 0
    while start := starts.search(text, at):
        found = wanted.match(text, start.start())
        if found:
            yield found
        at = found.end() if found else start.end()


def view(text: str, *, tags: bool = True) -> View:
    escapes, starts = (_ESCAPE, _ESCAPE_STARTS) if tags else (_ESCAPE_OR_TAG, _STARTS)
    return _folded(text, [*all_of(escapes, starts, text)])


def _folded(text: str, escaped: Sequence[re.Match[str]]) -> View:
    """Folds the text; ``escaped`` are its escapes (and tags) to replace."""
    capitals = [found.start() for found in _CAMEL.finditer(text)]
    if not escaped:
        if text.isascii():
            return View(text.lower(), seams=capitals)
        folded = [*map(_FOLDS.__getitem__, text)]
        if {*map(len, folded)} <= {1}:
            return View("".join(folded), seams=capitals)
    pieces: list[str] = []
    origins: list[int] = []
    seams: list[int] = []
    at = 0
    for escape in escaped:
        pieces += map(_FOLDS.__getitem__, text[at : escape.start()])
        pieces.append(_unescaped(escape[0]))
        if pieces[-1] in _SEAM:
            seams.append(len(pieces) - 1)
        origins += range(at, escape.start() + 1)
        at = escape.end()
    pieces += map(_FOLDS.__getitem__, text[at:])
    origins += range(at, len(text) + 1)
    ends = list(accumulate(map(len, pieces)))
    seams += (bisect_left(origins, each) - 1 for each in capitals)
    return View("".join(pieces), ends, origins, sorted({ends[each] for each in seams}))


# A line break in JSON text is two characters, and the second is a letter.
_SEAM = {"", "\\n", "\\r", "\\t", "\\f", "\\b"}


@lru_cache(maxsize=4096)
def _unescaped(escape: str) -> str:
    first = escape[0]
    if first == "&" and not _TAG.fullmatch(escape):
        return fold(html.unescape(re.sub("(?i)&(?:amp;)+", "&", escape)))
    if first in "<&*~`":
        return " " if _BLOCK.match(escape) else ""
    if first == "\\":
        return escape if len(escape) == 2 else fold(_of_code(int(escape[2:].strip("{}"), 16)))
    if first == "=":
        escape = _SOFT.sub("", escape)
    if escape and first in "%=":
        given = unquote_to_bytes(escape.replace("=", "%"))
        try:
            return fold(given.decode())
        except UnicodeDecodeError:
            return fold(given.decode("latin-1"))
    return ""


def _of_code(code: int) -> str:
    return chr(code) if code <= sys.maxunicode else ""
