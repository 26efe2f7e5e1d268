"""Where a record's names stand in a text: whole, in part, declined, glued, by their initials."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from escalation.redact.context import asks, names_someone
from escalation.redact.folding import LETTER, View, fold, tokens
from escalation.redact.names import (
    LONGEST_ENDING,
    Word,
    english,
    initials,
    is_name,
    is_word,
    of_people,
    words_of,
)

# From here on a word is not part of another by chance: at its beginning or end, and anywhere.
GLUED, INSIDE = 4, 7
MOST_BETWEEN = re.compile(
    rf"(?:[^\w;:!?]|_){{0,3}}"
    rf"(?:(?:{LETTER}\.?|de|la|van|der|den|von|of|el|al|bin|da|dos?)[\W_]{{1,3}}){{0,3}}"
)
_BESIDE = re.compile(r"(?:[^\w.!?;:]|_){0,6}")
_INITIALS = re.compile(
    r"(?:(?<![\w'’])[^\W\d_]\.[ \-]?){1,3}$|(?<![\w'’])[B-HJ-ZÀ-Þ][ \-]$|\b[ODL]['’]$|\bMa?c ?$"
)
_INITIALS_BEHIND = re.compile(
    r",?[ \-]?(?:[A-ZÀ-Þ]\.[ \-]?){1,3}(?<! )(?<!-)|,? [B-HJ-ZÀ-Þ](?!['’\w\\])"
)
_JOINTS = frozenset(" .,-'’")
_NO_NAMES = frozenset(["us", "am", "pm", "ie", "eg", "ps", "uk", "po", "dc", "la", "ny", "id", "tv", "nb", "vs", "ca", "no", "st"])


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
        self._single = {p for p, v in named.items() if v.isalpha() and is_name(v)}
        self._values = {p: sorted(tokens(fold(v))) for p, v in named.items()}
        self._initials: dict[str, str] = {}
        for field, value in named.items():
            if is_name(value):
                self._initials[field] = initials(value)
                for word in words_of(value, of_people(field)):
                    self._known.append(_Known(word, field, len(self._known)))
        self._all = [w for p, v in named.items() if is_name(v) for w in self._values[p]]
        self._letters = set("".join(self._initials.values()))
        self._exact: dict[str, _Known] = {}
        self._stems: dict[str, list[tuple[_Known, frozenset[str] | None]]] = {}
        for known in self._known:
            for spelling in known.word.spellings:
                self._exact.setdefault(spelling, known)
            for stem, rests in known.word.stems:
                self._stems.setdefault(stem, []).append((known, rests))

    def cover(self, field: str) -> bool:
        """Whether a field's whole value is found here as well: a single word, or none but words of
        the language."""
        found = [known.word.doubtful for known in self._known if known.field == field]
        return bool(found) and (all(found) or field in self._single)

    def doubtful(self, field: str) -> bool:
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
                or (
                    any(hit.known is each.known for each in cluster) and not self._doubled(hit, hit)
                )
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
        first, last = sorted((one, other), key=lambda hit: hit.start)
        between = seen.text[first.end : last.start]
        if len(between) > MOST_BETWEEN:
            return False
        if one.known is other.known and not self._doubled(one, other):
            return False
        starts = [text[seen.original(hit.start, hit.end)[0]].isupper() for hit in (first, last)]
        if re.fullmatch(r"\s+[a-z]\.?\s+", between):
            return all(starts) or other.sure
        if not _BESIDE.fullmatch(between):
            return False
        if other.sure or all(starts):
            return True
        in_order = first.known.order < last.known.order
        return (in_order or self._doubled(first, last)) and "," not in between

    def _doubled(self, one: _Hit, other: _Hit) -> bool:
        """Rose Rose has a name that says so."""
        same = one.known.word.spellings[0]
        return one.known is other.known and self._all.count(same) > 1

    def _initial_before(self, hit: _Hit, seen: View, text: str) -> bool:
        start, end = seen.original(hit.start, hit.end)
        before = text[max(0, start - 4) : start]
        initial = before.rstrip(" .-")
        if not initial or initial[-2:-1].isalnum() or fold(initial[-1]) not in self._letters:
            return False
        if asks(text, start, end):
            return False
        if before[len(initial) :] == " ":
            return initial[-1].isupper() and initial[-1] not in "AI" and text[start].isupper()
        return before[len(initial) :] in (".", ". ", ".-")

    def _span(self, cluster: list[_Hit], seen: View, text: str) -> NameSpan:
        field = cluster[0].known.field
        found = tokens(seen.text[cluster[0].start : cluster[-1].end])
        start, end = seen.original(cluster[0].start, cluster[-1].end)
        first, last = start, end
        before = text[max(0, start - 12) : start]
        if before[-1:] in _JOINTS or before[-1:].isalpha():
            initial = _INITIALS.search(before)
            start -= len(initial[0]) if initial and self._is_initial(initial[0]) else 0
        if text[end : end + 1] in _JOINTS:
            initial = _INITIALS_BEHIND.match(text, end)
            end = initial.end() if initial and self._is_initial(initial[0]) else end
        whole = (start, end) == (first, last) and (
            sorted(found) == self._values[field]
            or (field in self._single and "".join(found) in self._exact)
        )
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
                for found in re.finditer(rf"{dotted}(?!\w)\.?", text):
                    if not re.match(r"[\w.]", text[found.start() - 1 : found.start()]):
                        yield NameSpan(*found.span(), field, False)


def _outer(hits: list[_Hit]) -> list[_Hit]:
    """Without those that stand within another."""
    kept: list[_Hit] = []
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
        self._borders = _Borders(seen)
        self._exact = exact
        self._stems = stems
        self._letters = letters
        raw = [(at, at + len(s), k) for s, k in exact.items() for at in _places(s, seen.text)]
        self._raw = sorted(raw, key=lambda each: (each[0], -each[1]))
        self._starts: dict[int, _Known] = {start: k for start, _, k in raw}
        self._ends: dict[int, _Known] = {end: k for _, end, k in raw}

    def hits(self) -> Iterator[_Hit]:
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

    def _as_it_is(self, start: int, end: int, known: _Known) -> _Hit | None:
        word, long = known.word, end - start
        if word.together:
            return _Hit(start, end, known, sure=not word.doubtful)
        left = start in self._borders or self._ends.get(start, known) is not known
        right = end in self._borders or self._starts.get(end, known) is not known
        possessive = long > 2 and self._text.startswith("s", end) and end + 1 in self._borders
        if left and (right or possessive):
            return _Hit(start, end, known, sure=not word.doubtful)
        initial = right and self._text[start - 1] in self._letters and start - 1 in self._borders
        if not initial and (word.doubtful or long < (GLUED if left or right else INSIDE)):
            return None
        first, last = self._borders.around(start, end)
        token = self._text[first:last]
        if token in english() if initial else is_word(token):
            return None
        return _Hit(start if left else first, end if right else last, known, sure=True)

    def _declined(
        self, start: int, stem: int, forms: list[tuple[_Known, frozenset[str] | None]]
    ) -> Iterator[_Hit]:
        end = self._borders.around(start, stem)[1]
        rest, token = self._text[stem:end], self._text[start:end]
        possessive = token[-1:] == "s" and token[:-1] in self._exact and len(token) > 3
        if not rest or len(token) < 3 or possessive:
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


class _Borders:
    """Where words begin and end in a text, seams among them."""

    def __init__(self, seen: View) -> None:
        self._text = seen.text
        self._in_order = seen.seams
        self._seams = frozenset(seen.seams)

    def __contains__(self, place: int) -> bool:
        if place in self._seams or place <= 0:
            return True
        return not (_LETTER.match(self._text, place - 1) and _LETTER.match(self._text, place))

    def around(self, start: int, end: int) -> tuple[int, int]:
        """Where the words that a span stands in begin and end, as far as words go."""
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
