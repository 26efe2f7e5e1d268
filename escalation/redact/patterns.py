"""Finds e-mail addresses, phone numbers, IBANs and card numbers in a text, from any field.

It works on folded text (`escalation.redact.folding`), in time linear in its length. Matches are
validated: an IBAN by its country's length and its check digits, a card number by its network's
first digits and its check digit, a phone number by its shape and its number of digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from escalation.redact.folding import TOGETHER, all_of


class Found(NamedTuple):
    """One match. ``key`` is the same for all spellings of the same value."""

    start: int
    end: int
    kind: str
    key: str


_AT = r"(?:@ ?| @ |\s?[(\[{]\s?at\s?[)\]}]\s?)"
_DOT = r"(?:\.|\s?[(\[{]\s?dot\s?[)\]}]\s?)"
_WORD = rf"[^\W{TOGETHER}]"
_ALNUM = rf"[^\W_{TOGETHER}]"
# Scripts that may write a name directly before an address's digits or Latin letters; not kana.
_NAMING = "\u0590-\u06ff\u30a0-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_LOCAL = rf"(?:{_WORD}|[{_NAMING}])"
# Possessive and limited to mail's lengths: otherwise, long runs of dots and letters backtrack.
_EMAIL = re.compile(
    rf"(?:(?<!{_LOCAL}){_LOCAL}(?:{_LOCAL}|[.+'\-!#$*^~]){{0,63}}+"
    rf"|(?<!\w)\w(?:\w|[.+'\-!#$*^~]){{0,63}}+(?<=[{TOGETHER}])){_AT}"
    rf"(?:(?:[^\W_]|-){{1,63}}+{_DOT}){{1,8}}"
    rf"(?:[^\W\d_{TOGETHER}](?:-{{0,2}}{_ALNUM}){{1,23}}+|[{TOGETHER}]{{2,12}})"
)
_ANY_AT = re.compile(r"[@(\[{](?:(?<=@)|\s?at\s?[)\]}])")


def _emails(text: str) -> Iterator[Found]:
    if not _ANY_AT.search(text):
        return
    for found in _EMAIL.finditer(text):
        key = re.sub(_AT, "@", re.sub(_DOT, ".", found[0]))
        yield Found(found.start(), found.end(), "email", key)


# The gap between two digits of one number.
_GAP = r"[ ()./\-\u2010-\u2015]{0,3}"
# Not the end of an order number: ORD-0123456789, #0123456789.
_FRESH = rf"(?<!{_WORD})(?<!#)(?<!{_WORD}[-_/])"
_PHONE = re.compile(
    r"(?=[\d+(])(?:"
    # +49 170 1234567, 0049 170 1234567, 011 49 170 1234567
    rf"(?<!{_WORD})(?<!\+)(?:\+|00|011[ -]){_GAP}[1-9](?:{_GAP}\d){{6,14}}(?![\d:])"
    # 0170/123 45 67, (0170) 1234567: the 0 that goes before an area code
    rf"|{_FRESH}\(?0[1-9](?:{_GAP}\d){{7,10}}(?![\d:])"
    # (11) 91234-5678
    rf"|(?<!{_WORD})\(\d{{2,4}}\) ?\d(?:[ .-]?\d){{5,9}}(?![\d:])"
    # 312-555-0100, 1 (312) 555.0100
    rf"|{_FRESH}(?:1[-. ]{{1,2}})?(?:\([2-9]\d\d\)[-. ]?|[2-9]\d\d[-./ ])"
    r"[2-9]\d\d[-. ]\d{4}(?![\d:])"
    r")"
    # tel. 612 345 678
    rf"|(?=[cfhmptw])(?<!{_WORD})(?:tel(?:efono)?|(?:tele)?(?:ph|f)one?|mob(?:ile?)?|fax|handy"
    r"|cell(?:phone|ulare?)?|movil|celular|portable|whatsapp)"
    r"(?: (?:number|no|nr))?(?: is)?[\s:.()]{1,4}"
    rf"(?P<told>\d(?:{_GAP}\d){{6,12}})(?![\d:])"
)
_PHONE_STARTS = re.compile(
    r"[\d+(cfhmptw](?:(?<=[\d+(])|(?=el|hone|one|ob|ax|andy|ov|ortable|hatsapp))"
)
_DATE = re.compile(r"(?:\d{4}([-./])\d\d?\1\d\d?|\d\d?([-./])\d\d?\2(?:\d{4}|\d\d))(?![\d./-])")
_ROUND = re.compile(r"(?:[ .]000){2}$")


def phone_key(number: str) -> str:
    """The digits without the dialling prefix: +44 (0)20 → 4420, 020 → 20."""
    digits = re.sub(r"\D", "", number.replace("(0)", ""))
    return digits.lstrip("0") or digits


def same_phone(one: str, other: str) -> bool:
    """Whether two keys can be the same number, with and without country or area code."""
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= LOCAL_DIGITS and long.endswith(short))


LOCAL_DIGITS = 7


def _phones(text: str) -> Iterator[Found]:
    for found in all_of(_PHONE, _PHONE_STARTS, text):
        group = "told" if found["told"] else 0
        number = found[group]
        if _DATE.match(number) or _ROUND.search(number):
            continue
        yield Found(found.start(group), found.end(group), "phone", phone_key(number))


# The lengths in the IBAN registry, by country.
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "no", 16: "be", 18: "dk fi fk fo gl nl sd", 19: "mk si",
        20: "at ba ee kz lt lu mn xk", 21: "ch hr li lv", 22: "bg bh cr de gb ge ie me rs va",
        23: "ae gi il iq om so tl", 24: "ad cz es md pk ro sa se sk tn vg",
        25: "ly pt st", 26: "is tr", 27: "bi dj fr gr it mc mr sm", 28: "al az by cy do gt hn "
        "hu lb ni pl sv", 29: "br eg ps qa ua", 30: "jo kw mu ye", 31: "mt sc", 32: "lc",
        33: "ru",
    }.items()
    for code in codes.split()
}  # fmt: skip
# Any gap that mail and forms insert: the check digits validate the match.
_IBAN_GAP = r"[\s.\-+_/>]{0,3}"
# Matched from the check digits, since digits are rarer than letters.
_IBAN = re.compile(
    rf"\d(?<=([a-z]{{2}})\d)(?:(?<=iban..\d)|(?<!{_ALNUM}..\d))\d(?={_IBAN_GAP}[a-z0-9])"
)


@cache
def _rest(length: int) -> re.Pattern[str]:
    return re.compile(rf"(?:{_IBAN_GAP}[a-z0-9]){{{length}}}(?!{_ALNUM})")


def _ibans(text: str) -> Iterator[Found]:
    for found in _IBAN.finditer(text):
        start = found.start() - 2
        length = _IBAN_LENGTHS.get(found[1])
        rest = _rest(length - 4).match(text, found.end()) if length else None
        if rest is None:
            continue
        key = re.sub(r"[^a-z0-9]", "", text[start : rest.end()])
        if int("".join(str(int(c, 36)) for c in key[4:] + key[:4])) % 97 == 1:
            yield Found(start, rest.end(), "iban", key)


_DIGITS = re.compile(r"\d+")
_CARD_GAP = r"[ .\-\u2010-\u2015]{0,2}"
_CARD = re.compile(
    r"(?<!\d)(?=2[2-7]|3[04-9]|4|5[0-8]|6)(?:"
    rf"(?P<base>\d{{4}}(?:{_CARD_GAP}\d{{4}}){{2}}{_CARD_GAP}\d{{1,4}})(?:{_CARD_GAP}\d{{1,3}})?"
    rf"|\d{{4}}{_CARD_GAP}\d{{6}}{_CARD_GAP}\d{{4,5}}|\d{{13,19}})(?!\d)"
)


def _cards(text: str) -> Iterator[Found]:
    for found in all_of(_CARD, _DIGITS, text):
        # The group after a card's sixteen digits may belong to something else: "… 1111 12/27".
        for end in (found.end(), found.end("base")):
            key = re.sub(r"\D", "", text[found.start() : end]) if end > 0 else ""
            if len(key) >= 13 and text[end : end + 1].isdigit() is False and _luhn(key):
                yield Found(found.start(), end, "card", key)
                break


_DOUBLED = str.maketrans("0123456789", "0246813579")


def _luhn(digits: str) -> bool:
    return sum(map(int, digits[-1::-2] + digits[-2::-2].translate(_DOUBLED))) % 10 == 0


# The order matters: the best-validated kinds first, and phone numbers in the rest.
FINDERS: dict[str, Callable[[str], Iterator[Found]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "phone": _phones,
}


def without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with the spans replaced by NULs; its length is the same."""
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], "\0" * (end - start)]
        at = end
    return "".join([*pieces, text[at:]])


def key_of(kind: str, folded: str) -> str | None:
    """The key of a value if the whole value is of this kind; otherwise None."""
    if kind == "phone":
        digits = sum(map(str.isdigit, folded))
        plain = re.fullmatch(r"[\d\s()./+\-\u2010-\u2015]+", folded)
        return phone_key(folded) if plain and LOCAL_DIGITS <= digits <= 18 else None
    found = next(FINDERS[kind](folded), None)
    return found.key if found and (found.start, found.end) == (0, len(folded)) else None
