"""Finds every place in a text where a word of a record's names may occur."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from escalation.redact.folding import LETTER, View
from escalation.redact.names import LONGEST_ENDING, Word, english, is_word, listed

# From this length on, a word is not part of another by chance: at its edge, or anywhere inside.
GLUED, INSIDE = 4, 7
LONGEST_TOKEN = 40
_LETTER = re.compile(LETTER)
_RUN = re.compile(f"{LETTER}{{0,{LONGEST_TOKEN}}}")
# Matched from just after the first letter, since gaps are rarer than letters.
_SPELT = re.compile(
    rf"[\s\-_*](?<={LETTER}[\s\-_*])(?<!{LETTER}{LETTER}[\s\-_*])"
    rf"[\s\-_*]{{0,2}}{LETTER}(?!{LETTER})(?:[\s\-_*]{{1,3}}{LETTER}(?!{LETTER}))+"
)
# Two single letters with a gap between, except "I'm" for the name Im and "n/a" for the name Na.
_APART = r"(?:[^\w'/\0]|_){1,20}"
_NO_PAIRS = listed("a.m p.m i.e e.g u.s u.k p.s")
Forms = Mapping[str, list[tuple["Known", frozenset[str] | None]]]


@dataclass(frozen=True, slots=True)
class Known:
    word: Word
    field: str
    order: int


@dataclass(frozen=True, slots=True)
class Hit:
    start: int
    end: int
    known: Known
    sure: bool


@lru_cache(maxsize=512)
def spelt_pair(name: str) -> re.Pattern[str]:
    """A pattern for a spelt-out name of two letters; it begins with a letter to be found fast."""
    one, other = map(re.escape, name)
    return re.compile(f"{one}(?<!{LETTER}{one}){_APART}{other}(?!{LETTER})")


def outer(hits: list[Hit]) -> list[Hit]:
    """The hits that do not lie within another one."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end, not hit.sure)):
        if not kept or hit.end > kept[-1].end:
            kept.append(hit)
        elif (
            hit.sure
            and not kept[-1].sure
            and (hit.start, hit.end) == (kept[-1].start, kept[-1].end)
        ):
            kept[-1] = replace(kept[-1], sure=True)
    return kept


class Finder:
    """Finds a record's name words in one text, in time linear in the text's length."""

    def __init__(
        self,
        seen: View,
        exact: Mapping[str, Known],
        stems: Forms,
        letters: set[str],
    ) -> None:
        self._text = seen.text
        self._borders = _Borders(seen)
        self._exact = exact
        self._stems = stems
        self._letters = letters
        raw = [(at, at + len(s), k) for s, k in exact.items() for at in _places(s, seen.text)]
        self._raw = sorted(raw, key=lambda each: (each[0], -each[1]))
        self._starts: dict[int, Known] = {start: k for start, _, k in raw}
        self._ends: dict[int, Known] = {end: k for _, end, k in raw}

    def hits(self) -> Iterator[Hit]:
        done, taken = 0, set[int]()
        for start, end, known in self._raw:
            hit = self._as_it_is(start, end, known) if end > done else None
            if hit is not None:
                done = hit.end if hit.sure else done
                taken.add(hit.start)
                yield hit
        for stem, forms in self._stems.items():
            for at in _places(stem, self._text):
                if at not in taken and at in self._borders:
                    yield from self._declined(at, at + len(stem), forms)
        yield from self._spelt()

    def _as_it_is(self, start: int, end: int, known: Known) -> Hit | None:
        word, long = known.word, end - start
        if word.together:
            return Hit(start, end, known, sure=not word.doubtful)
        left = start in self._borders or self._ends.get(start, known) is not known
        right = end in self._borders or self._starts.get(end, known) is not known
        possessive = long > 2 and self._text.startswith("s", end) and end + 1 in self._borders
        if left and (right or possessive):
            return Hit(start, end, known, sure=not word.doubtful)
        initial = right and self._text[start - 1] in self._letters and start - 1 in self._borders
        behind = left and self._text[end : end + 1] in self._letters and end + 1 in self._borders
        initial = initial or (behind and not is_word(self._text[start : end + 1]))
        if not initial and (word.doubtful or long < (GLUED if left or right else INSIDE)):
            return None
        first, last = self._borders.around(start, end)
        token = self._text[first:last]
        if token in english() if initial else is_word(token):
            return None
        return Hit(start if left else first, end if right else last, known, sure=True)

    def _declined(
        self, start: int, stem: int, forms: list[tuple[Known, frozenset[str] | None]]
    ) -> Iterator[Hit]:
        end = self._borders.around(start, stem)[1]
        rest, token = self._text[stem:end], self._text[start:end]
        possessive = token[-1:] == "s" and token[:-1] in self._exact and len(token) > 3
        if not rest or len(token) < 3 or possessive:
            return
        for known, rests in forms:
            fits = len(rest) <= LONGEST_ENDING if rests is None else rest in rests
            if fits and not is_word(token):
                yield Hit(start, end, known, sure=True)

    def _spelt(self) -> Iterator[Hit]:
        """Spelt-out names: "J a n e", "L-i"."""
        for spelling, known in self._exact.items():
            if len(spelling) == 2 and not known.word.together and spelling.isalpha():
                for pair in spelt_pair(spelling).finditer(self._text):
                    if pair[0] not in _NO_PAIRS:
                        yield Hit(*pair.span(), known, sure=True)
        for run in _SPELT.finditer(self._text):
            places = [n for n in range(run.start() - 1, run.end()) if _LETTER.match(self._text, n)]
            joined = "".join(self._text[n] for n in places)
            for spelling, known in self._exact.items():
                for at in _places(spelling, joined) if len(spelling) > 2 else ():
                    end = places[at + len(spelling) - 1] + 1
                    yield Hit(places[at], end, known, sure=True)


class _Letters(dict[str, bool]):
    """Character → whether it is a letter; filled on demand."""

    def __missing__(self, char: str) -> bool:
        self[char] = letter = bool(_LETTER.match(char))
        return letter


_IS_LETTER = _Letters()


class _Borders:
    """Where words begin and end in a text, including at seams."""

    def __init__(self, seen: View) -> None:
        self._text = seen.text
        self._in_order = seen.seams
        self._seams = frozenset(seen.seams)

    def __contains__(self, place: int) -> bool:
        if place <= 0 or place >= len(self._text) or place in self._seams:
            return True
        return not (_IS_LETTER[self._text[place - 1]] and _IS_LETTER[self._text[place]])

    def around(self, start: int, end: int) -> tuple[int, int]:
        """The span extended to the borders of the words it lies in, by at most `LONGEST_TOKEN`."""
        run = _RUN.match(self._text, end)
        back = _RUN.match(self._text[max(0, start - LONGEST_TOKEN) : start][::-1])
        first, last = start - (back.end() if back else 0), run.end() if run else end
        if self._in_order:
            before, behind = bisect_right(self._in_order, start), bisect_left(self._in_order, end)
            first = max(first, self._in_order[before - 1] if before else 0)
            last = min(last, *self._in_order[behind : behind + 1], last)
        return first, last


def _places(wanted: str, text: str) -> Iterator[int]:
    at = text.find(wanted)
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)
