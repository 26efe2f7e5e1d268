"""Searches for all spellings of one named field's value, and checks whether one remains."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from escalation.redact.folding import LETTER, TOGETHER, fold, tokens
from escalation.redact.patterns import LOCAL_DIGITS, key_of

# Replacing a shorter value ("a", "3") would blank out much of any prompt.
LEAST_LENGTH = 2
# From this length on, a value is not part of another word by chance ("ana" in "banana" is).
SURELY_ITSELF = 7
# A value with this many digits is a number, which people group in different ways.
NUMBER_DIGITS = 5

_GAP = r"[\W_]{0,3}"
_PHONE_GAP = r"(?:[\W_]{0,2}\(0\)[\W_]{0,2}|[\W_]{0,3})"
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
_LETTER = re.compile(LETTER)
_LETTERS = re.compile(rf" {LETTER}(?: {LETTER}(?= )){{2,}}")
_IS_TOGETHER = re.compile(f"[{TOGETHER}]")


def worth_hiding(value: str) -> bool:
    folded = fold(value)
    if not tokens(folded):
        return not value.isascii()
    return len(value) >= LEAST_LENGTH or _IS_TOGETHER.search(folded) is not None


class Value:
    """A compiled value. ``phone``: its digits, if it can be a phone number."""

    def __init__(self, value: str) -> None:
        self.folded = fold(value)
        self.spellings = _spellings(value)
        self._lead, self._trail = _edges(self.folded)
        self.phone = key_of("phone", self.folded)
        if self.phone and len(self.phone) < LOCAL_DIGITS:
            self.phone = None
        self._searches = [(re.compile(_expression(s)), s) for s in self.spellings]
        if not self.spellings and self.folded:
            self._searches = [(re.compile(re.escape(self.folded)), [self.folded])]
        last, self._dialled = _phone_expressions(self.phone) if self.phone else ("", "")
        self._last_digits = re.compile(last)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        for search, words in self._searches:
            for start, end in _found(search, words, text):
                # "(555) 0100" is replaced together with its bracket if the text has it.
                opened = text.endswith(self._lead, 0, start)
                closed = text.startswith(self._trail, end)
                yield start - opened * len(self._lead), end + closed * len(self._trail)
        if self._dialled and self._last_digits.search(text):
            # Compiled on demand: it takes ten times as long as everything else here.
            for found in re.finditer(self._dialled, text):
                yield found.span()

    def shows(self, text: Leaving) -> bool:
        """Whether any spelling is left; stricter than `spans`, and independent of it."""
        if any(_stands(words, text) for words in self.spellings):
            return True
        if self.phone and self.phone[-LOCAL_DIGITS:] in text.run_together:
            return True
        return not self.spellings and self.folded in text.folded


class Leaving:
    """A text about to be sent, with NULs for removed parts, prepared for `Value.shows`."""

    def __init__(self, folded: str) -> None:
        words = tokens(folded)
        self.folded = folded
        self.words = f" {' '.join(words)} "
        letters = _LETTERS.finditer(self.words)
        self.spelt = [found[0].replace(" ", "") for found in letters]
        self.run_together = "".join(words)
        self._ends = [0, *accumulate(map(len, words))]

    def at_border(self, place: int) -> bool:
        n = bisect_left(self._ends, place)
        return n < len(self._ends) and self._ends[n] == place

    def within_one(self, start: int, end: int) -> bool:
        return bisect_left(self._ends, start + 1) == bisect_left(self._ends, end)


def _edges(folded: str) -> tuple[str, str]:
    inner = re.search(r"[^\W_](?:.*[^\W_])?", folded, re.DOTALL)
    return (folded[: inner.start()], folded[inner.end() :]) if inner else ("", "")


@lru_cache(maxsize=512)
def compiled(value: str) -> Value:
    return Value(value)


def _spellings(value: str) -> list[list[str]]:
    """The value's spellings as words: as given, ü for ue and ue for ü, and the last word first."""
    plain = fold(value)
    folded = [plain, fold(value.casefold().translate(_UMLAUTS)), re.sub("(?<=[aou])e", "", plain)]
    found = [tokens(each) for each in dict.fromkeys(folded)]
    for words in list(found):
        letters_only = not any(map(str.isdigit, words))
        if 2 <= len(words) <= 3 and letters_only and "@" not in value:
            found.append([words[-1], *words[:-1]])
    return [words for words in found if words]


def _expression(words: list[str]) -> str:
    together = "".join(words)
    if sum(map(str.isdigit, together)) >= NUMBER_DIGITS:
        parts = list(together)
    else:
        parts = [p for word in words for p in (word if _IS_TOGETHER.match(word) else [word])]
    after = ""
    if len(together) < SURELY_ITSELF and words[-1].isdigit():
        after = r"(?!\d)"
    elif len(together) < SURELY_ITSELF and _LETTER.match(words[-1]):
        # "Annas Auto": the genitive without an apostrophe.
        after = rf"(?=s?(?!{LETTER}))" if len(words[-1]) > 2 else f"(?!{LETTER})"
    return _GAP.join(map(re.escape, parts)) + after


def _found(search: re.Pattern[str], words: list[str], text: str) -> Iterator[tuple[int, int]]:
    first = words[0][0]
    whole = sum(map(len, words)) < SURELY_ITSELF and not _IS_TOGETHER.match(first)
    place = 0
    # The preceding text is checked here: a pattern that begins with its letters is found faster.
    while found := search.search(text, place):
        if whole and _goes_on(text, found.start(), first):
            place = found.start() + 1
        else:
            yield found.span()
            place = found.end()


def _goes_on(text: str, start: int, first: str) -> bool:
    """Whether ``start`` is inside a word or a number that began earlier."""
    before = text[start - 1 : start]
    if first.isdigit():
        return before.isdigit()
    # A line break in JSON text is two characters, and the second is a letter.
    return bool(_LETTER.match(before)) and text[max(0, start - 2) : start] not in _LINE_ENDS


_LINE_ENDS = {"\\n", "\\r", "\\t", "\\f", "\\b"}


def _phone_expressions(digits: str) -> tuple[str, str]:
    """Patterns for the last digits, and for the whole number with optional leading digits and
    dialling prefixes."""
    before = ""
    for digit in digits[:-LOCAL_DIGITS]:
        before = f"(?:{before}{digit}{_PHONE_GAP})?"
    last = _PHONE_GAP.join(digits[-LOCAL_DIGITS:])
    trunk = rf"\(?0\)?{_PHONE_GAP}"
    abroad = rf"(?:\+|00|011)[\W_]?\d{{1,4}}{_PHONE_GAP}(?:{trunk})?"
    dialled = rf"(?:{abroad}|{trunk}|\d{{1,4}})?"
    return last, rf"(?=[\d+(])(?<!\d){dialled}{before}{last}(?!\d)"


def _stands(words: list[str], text: Leaving) -> bool:
    if f" {' '.join(words)} " in text.words:
        return True
    value = "".join(words)
    together = _IS_TOGETHER.search(value) is not None
    if len(value) < SURELY_ITSELF and not together:
        return False
    start = text.run_together.find(value)
    while start >= 0:
        end = start + len(value)
        # Not across two words by chance, as "Martins" in "smart insurance".
        if together or text.at_border(start) or text.at_border(end) or text.within_one(start, end):
            return True
        start = text.run_together.find(value, start + 1)
    return False
