"""Where a record's names stand in a text: whole, in part, declined, glued, by their initials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from escalation.redact.context import names_someone
from escalation.redact.folding import LETTER, View, fold, tokens
from escalation.redact.names import (
    LONGEST_ENDING,
    Word,
    initials,
    is_name,
    is_word,
    of_people,
    words_of,
)

# From here on a word is not part of another by chance: at its beginning or end, and anywhere.
GLUED, INSIDE = 4, 7
LONGEST_TOKEN = 40
_LETTER = re.compile(LETTER)
_SPELT = re.compile(rf"(?<!{LETTER}){LETTER}(?:[\s\-_*]{{1,3}}{LETTER}(?!{LETTER})){{2,}}")
# Between two words of one name: an initial or a particle may stand there.
_BETWEEN = re.compile(
    r"[\W_]{0,3}(?:(?:[^\W\d_]\.?|de|la|van|der|den|von|of|el|al|bin|da|dos?)[\W_]{1,3}){0,3}"
)
_BESIDE = re.compile(r"[^\w.!?;:]{0,3}|_")
_INITIALS = re.compile(
    r"(?:(?<!\w)[^\W\d_]\.[ \-]?){1,3}$|(?<!\w)[^\W\d_AI][ \-]$|\b[ODL]['’]$|\bMa?c ?$"
)
_INITIALS_BEHIND = re.compile(
    r",?[ \-]?(?:[A-ZÀ-Þ]\.[ \-]?){1,3}(?<! )(?<!-)|,? [B-HJ-ZÀ-Þ](?!['’\w])"
)
_NO_NAMES = frozenset("us am pm ie eg ps uk po dc la ny id tv nb vs ca no st".split())


class NameSpan(NamedTuple):
    """``whole``: the field's value itself, no part or form of it."""

    start: int
    end: int
    field: str
    whole: bool


@dataclass(frozen=True, slots=True)
class _Known:
    word: Word
    field: str
    order: int


@dataclass(frozen=True, slots=True)
class _Hit:
    start: int
    end: int
    known: _Known
    sure: bool


class Names:
    """``named``: placeholder → the value of a named field."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._known: list[_Known] = []
        self._values = {p: sorted(tokens(fold(v))) for p, v in named.items()}
        self._initials: dict[str, str] = {}
        for field, value in named.items():
            if is_name(value):
                self._initials[field] = initials(value)
                for word in words_of(value, of_people(field)):
                    self._known.append(_Known(word, field, len(self._known)))
        self._letters = set("".join(self._initials.values()))
        self._exact: dict[str, _Known] = {}
        self._stems: dict[str, list[tuple[_Known, frozenset[str] | None]]] = {}
        for known in self._known:
            for spelling in known.word.spellings:
                self._exact.setdefault(spelling, known)
            for stem, rests in known.word.stems:
                self._stems.setdefault(stem, []).append((known, rests))

    def doubtful(self, field: str) -> bool:
        """Whether all words of a value are also words of the language."""
        found = [known.word.doubtful for known in self._known if known.field == field]
        return bool(found) and all(found)

    def glued(self, least: int) -> list[str]:
        """What to look for within addresses."""
        return [s for s in self._exact if len(s) >= least and s.isalpha()]

    def remain(self, words: str, spelt: list[str]) -> str | None:
        """The field of a name that stands among a text's words, or is spelt out there."""
        for spelling, known in self._exact.items():
            if known.word.doubtful or not spelling.isalpha():
                continue
            if f" {spelling} " in words or (
                len(spelling) > 2 and any(spelling in each for each in spelt)
            ):
                return known.field
        return None

    def spans(self, seen: View, text: str) -> Iterator[NameSpan]:
        if not self._known:
            return
        hits = _outer([*_Finder(seen, self._exact, self._stems, self._letters).hits()])
        cluster: list[_Hit] = []
        for hit in self._settled(hits, seen, text):
            apart = cluster and (
                hit.known.field != cluster[-1].known.field
                or not _BETWEEN.fullmatch(seen.text, cluster[-1].end, hit.start)
            )
            if apart:
                yield self._span(cluster, seen, text)
                cluster = []
            cluster.append(hit)
        if cluster:
            yield self._span(cluster, seen, text)
        yield from self._initialled(text)

    def _settled(self, hits: list[_Hit], seen: View, text: str) -> Iterator[_Hit]:
        """Without the doubtful that name nobody."""
        for n, hit in enumerate(hits):
            beside = hits[max(0, n - 1) : n] + hits[n + 1 : n + 2]
            if (
                hit.sure
                or any(self._together(hit, other, seen, text) for other in beside)
                or self._initial_before(hit, seen, text)
                or names_someone(text, *seen.original(hit.start, hit.end))
            ):
                yield hit

    def _together(self, one: _Hit, other: _Hit, seen: View, text: str) -> bool:
        """Whether two hits beside each other make a name, one of them doubtful."""
        if one.known.word is other.known.word:
            return False
        first, last = sorted((one, other), key=lambda hit: hit.start)
        between = seen.text[first.end : last.start]
        starts = [text[seen.original(hit.start, hit.end)[0]].isupper() for hit in (first, last)]
        if re.fullmatch(r"\s+[a-z]\.?\s+", between):
            return all(starts) or other.sure
        if not _BESIDE.fullmatch(between):
            return False
        if other.sure or all(starts):
            return True
        return first.known.order < last.known.order and "," not in between

    def _initial_before(self, hit: _Hit, seen: View, text: str) -> bool:
        start, _ = seen.original(hit.start, hit.end)
        before = re.search(r"(?<!\w)([^\W\d_])(\.[ \-]?| )$", text[max(0, start - 4) : start])
        if not before or fold(before[1]) not in self._letters:
            return False
        if before[2] == " ":
            return before[1].isupper() and before[1] not in "AI" and text[start].isupper()
        return True

    def _span(self, cluster: list[_Hit], seen: View, text: str) -> NameSpan:
        field = cluster[0].known.field
        found = tokens(seen.text[cluster[0].start : cluster[-1].end])
        start, end = seen.original(cluster[0].start, cluster[-1].end)
        first, last = start, end
        before = _INITIALS.search(text[max(0, start - 12) : start])
        if before and self._is_initial(before[0]):
            start -= len(before[0])
        behind = _INITIALS_BEHIND.match(text, end)
        if behind and self._is_initial(behind[0]):
            end = behind.end()
        whole = (start, end) == (first, last) and sorted(found) == self._values[field]
        return NameSpan(start, end, field, whole)

    def _is_initial(self, found: str) -> bool:
        """With a full stop any may be a middle name's; without one, a letter of the name's own."""
        return (
            "." in found
            or "'" in found
            or "’" in found
            or "c" in found
            or (fold(found.strip(", -")) in self._letters)
        )

    def _initialled(self, text: str) -> Iterator[NameSpan]:
        """J.S., where both stand for the name's words; not in small letters, nor U.S."""
        whole = "".join(self._initials.values())
        for field, letters in [*self._initials.items(), (next(iter(self._initials), ""), whole)]:
            if len(letters) < 2 or (len(letters) == 2 and letters in _NO_NAMES):
                continue
            for ends in {letters, letters[0] + letters[-1]} - _NO_NAMES:
                dotted = r"\.[ \-]?".join(re.escape(c.upper()) for c in ends)
                for found in re.finditer(rf"(?<![\w.]){dotted}(?!\w)\.?", text):
                    yield NameSpan(*found.span(), field, False)


def _outer(hits: list[_Hit]) -> list[_Hit]:
    """Without those that stand within another."""
    kept: list[_Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end, not hit.sure)):
        if not kept or hit.end > kept[-1].end:
            kept.append(hit)
        elif hit.sure and (hit.start, hit.end) == (kept[-1].start, kept[-1].end):
            kept[-1] = replace(kept[-1], sure=True)
    return kept


class _Finder:
    """Finds a record's name words in one text, in time linear in its length."""

    def __init__(
        self,
        seen: View,
        exact: Mapping[str, _Known],
        stems: Mapping[str, list[tuple[_Known, frozenset[str] | None]]],
        letters: set[str],
    ) -> None:
        self._text = seen.text
        self._is_seam = frozenset(seen.seams)
        self._exact = exact
        self._stems = stems
        self._letters = letters
        self._raw = [(at, s, k) for s, k in exact.items() for at in _places(s, seen.text)]
        self._starts: dict[int, _Known] = {at: k for at, s, k in self._raw}
        self._ends: dict[int, _Known] = {at + len(s): k for at, s, k in self._raw}

    def hits(self) -> Iterator[_Hit]:
        for at, spelling, known in self._raw:
            hit = self._as_it_is(at, at + len(spelling), known)
            if hit is not None:
                yield hit
        for stem, forms in self._stems.items():
            for at in _places(stem, self._text):
                if self._border(at) or at in self._ends:
                    yield from self._declined(at, at + len(stem), forms)
        yield from self._spelt()

    def _as_it_is(self, start: int, end: int, known: _Known) -> _Hit | None:
        word, long = known.word, end - start
        if word.together:
            return _Hit(start, end, known, sure=not word.doubtful)
        left = self._border(start) or self._ends.get(start, known) is not known
        right = self._border(end) or self._starts.get(end, known) is not known
        possessive = long > 2 and self._text[end : end + 1] == "s" and self._border(end + 1)
        if left and (right or possessive):
            return _Hit(start, end, known, sure=not word.doubtful)
        if word.doubtful:
            return None
        first, last = self._before(start), self._behind(end)
        if right and self._text[first:start] in self._letters:
            return _Hit(first, end, known, sure=True)
        if long >= (GLUED if left or right else INSIDE) and not is_word(self._text[first:last]):
            return _Hit(start if left else first, end if right else last, known, sure=True)
        return None

    def _declined(
        self, start: int, stem: int, forms: list[tuple[_Known, frozenset[str] | None]]
    ) -> Iterator[_Hit]:
        end = self._behind(stem)
        rest, token = self._text[stem:end], self._text[start:end]
        if not rest or len(token) < 3 or (rest == "s" and token[:-1] in self._exact):
            return
        for known, rests in forms:
            fits = len(rest) <= LONGEST_ENDING if rests is None else rest in rests
            if fits and not is_word(token):
                yield _Hit(start, end, known, sure=True)

    def _spelt(self) -> Iterator[_Hit]:
        """J a n e."""
        for run in _SPELT.finditer(self._text):
            places = [n for n in range(*run.span()) if _LETTER.match(self._text, n)]
            joined = "".join(self._text[n] for n in places)
            for spelling, known in self._exact.items():
                for at in _places(spelling, joined) if len(spelling) > 2 else ():
                    end = places[at + len(spelling) - 1] + 1
                    yield _Hit(places[at], end, known, sure=True)

    def _border(self, place: int) -> bool:
        if place in self._is_seam or not 0 < place < len(self._text):
            return True
        before, behind = _LETTER.match(self._text, place - 1), _LETTER.match(self._text, place)
        return not (before and behind)

    def _behind(self, place: int) -> int:
        """Where the word ends that goes on here."""
        last = min(len(self._text), place + LONGEST_TOKEN)
        end = place
        while end < last and not self._border(end):
            end += 1
        return end

    def _before(self, place: int) -> int:
        start, least = place, max(0, place - LONGEST_TOKEN)
        while start > least and not self._border(start):
            start -= 1
        return start


def _places(wanted: str, text: str) -> Iterator[int]:
    at = text.find(wanted)
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)
