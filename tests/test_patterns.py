"""What the patterns take for an e-mail address, a phone number, an IBAN, a card number."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.redact import folding, patterns
from escalation.redact.folding import fold, view
from escalation.redact.patterns import FINDERS, key_of, same_phone
from runner.job import Privacy


def found(text: str, *kinds: str) -> list[str]:
    """What is found, as it stands in the text; of two, one inside the other, the outer."""
    seen = view(text)
    spans = [
        seen.original(each.start, each.end)
        for kind in kinds or FINDERS
        for each in FINDERS[kind](seen.text)
    ]
    outer = [
        (start, end)
        for start, end in sorted(spans)
        if not any(s <= start and end <= e and (s, e) != (start, end) for s, e in spans)
    ]
    return [text[start:end] for start, end in outer]


EMAILS = [
    "anna.schmidt@example.com", "o'brien+crm@mail.example.co.uk", "JOSÉ@müller.de", "a@b.io",
    "first_last-3@sub-domain.example.museum", "иван@почта.рф", "x@xn--bcher-kva.example",
    "anna (at) example (dot) com", "anna[at]example.org", "anna%40example.com",
    "anna&#64;example.com",
]  # fmt: skip
# Where no space goes before, what stands there could be theirs.
FOREIGN = [
    "田中@例え.jp",
    "田中.taro@example.jp",
    "\u05d3\u05d5\u05d31@example.co.il",
    "محمد@مثال.إختبار",
    "anna@例え.com",
    "李小龍88@xn--fsq.tw",
    "김민수@example.kr",
    "たろう@example.jp",
]
PHONES = [
    "+49 170 1234567", "+49 (0)30 23125-123", "0049 170 1234567", "0170/123 45 67", "01701234567",
    "030 23125-123", "(030) 23125123", "+33 6 39 98 12 34", "01 99 00 12 34", "01.99.00.12.34",
    "020 7946 0018", "(01632) 960123", "+44 7700 900123", "(202) 555-0143", "1-206-555-0111",
    "312.555.0143", "+1 415-555-0143", "+1 (415) 555-0143", "+61 2 5550 0769", "(02) 7010 1234",
    "+81 3-5550-0769", "03-5550-0769", "+39 06 1234 5678", "+34 612 345 678", "(11) 91234-5678",
    "+55 11 91234-5678", "+91 98765 43210", "+41 44 668 18 00", "+32 470 12 34 56",
    "+48 601 234 567", "+7 912 345-67-89", "+86 138 0013 8000", "+\u0664\u0669 170 1234567",
    "\uff0b49 170 1234567", "+49\u00a0170\u20111234567",
]  # fmt: skip
IBANS = [
    "DE89 3704 0044 0532 0130 00", "DE89370400440532013000", "de89-3704-0044-0532-0130-00",
    "GB29 NWBK 6016 1331 9268 19", "FR14 2004 1010 0505 0001 3M02 606", "NO93 8601 1117 947",
    "MT84 MALT 0110 0001 2345 MTLC AST0 01S", "ES9121000418450200051332",
    "IT60 X054 2811 1010 0000 0123 456", "NL91 ABNA 0417 1643 00", "CH93 0076 2011 6238 5295 7",
    "PL61 1090 1014 0000 0712 1981 2874", "BE68 5390 0754 7034", "SA03 8000 0000 6080 1016 7519",
    "BR18 0036 0305 0000 1000 9795 493C 1", "AT61 1904 3002 3457 3201",
]  # fmt: skip
CARDS = [
    "4111 1111 1111 1111", "4111111111111111", "4111-1111-1111-1111", "5555 5555 5555 4444",
    "2223 0031 2200 3222", "3782 822463 10005", "378282246310005", "6011 1111 1111 1117",
    "3530 1113 3330 0000", "3056 930902 5904", "6200 0000 0000 0005", "4222222222222",
]  # fmt: skip
NOTHING = [
    # Dates, times, prices, sizes, versions, coordinates.
    "on 2025-03-04", "on 04.03.2025 10:15", "04/03/2025", "03-04-25 to 09-04-25",
    "2025-03-04T08:30",
    "from 08:00-17:30", "09.30 - 12.30", "1.234.567,89 EUR", "$12,345,678.90", "0.1234567890",
    "+20 000 000 users", "+1 000 000", "+12.5%", "version 1.22.333.4444", "52.520008, 13.404954",
    "10.0.0.138", "192.168.100.200", "1024x768", "100 000 000", "lotto 5 12 19 26 33 41",
    # Order numbers and ids; sixteen digits that fail the check digit, an IBAN with a wrong one.
    "order 4711", "ORD-0123456789", "#0123456789", "order 4111 1111 1111 1112", "T-0001",
    "1234567890123456", "7234567890123456", "DE89370400440532013001", "XX89370400440532013000",
    "DE12", "invoice 2024/000123", "ISBN 978-3-16-148410-0", "SKU AB12-3456-7890",
    "550e8400-e29b-41d4-a716-446655440000",
    # Nearly addresses.
    "@anna", "me @ work", "a@b", "50% @ 3.5 each", "x@1.2", "user@localhost", "look at example.com",
]  # fmt: skip
REAL = [("email", e) for e in EMAILS] + [("phone", p) for p in PHONES]
REAL += [("iban", i) for i in IBANS] + [("card", c) for c in CARDS]


@pytest.mark.parametrize(("kind", "text"), REAL)
@pytest.mark.parametrize(
    "around", ["{}", "My data: {}.", "({}), please", "これは{} です", "a,{};b"]
)
def test_what_people_write_is_found_whole(kind: str, text: str, around: str) -> None:
    (one,) = found(around.format(text), kind)
    assert one.strip("()") == text.strip("()")


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("around", ["{}", "My data: {}.", "({}), please", "a,{};b", "これ {} です"])
def test_addresses_of_any_script_are_found_whole(text: str, around: str) -> None:
    assert found(around.format(text), "email") == [text]
    assert found(f"これは{text} です", "email")[0].endswith(text)


@pytest.mark.parametrize("text", NOTHING)
@pytest.mark.parametrize("around", ["{}", "about {}, please", "{}\n{}"])
def test_what_is_none_of_them_stays(text: str, around: str) -> None:
    assert found(around.replace("{}", text)) == []


@pytest.mark.parametrize(
    ("text", "finds"),
    [
        ("paid with 4111 1111 1111 1111 12/27", ["4111 1111 1111 1111"]),
        ("IBAN:DE89 3704 0044 0532 0130 00 BIC", ["DE89 3704 0044 0532 0130 00"]),
        ("two: 0170 1234567, 0171 7654321", ["0170 1234567", "0171 7654321"]),
        ("0170 1234567 0171 7654321", ["0170 1234567", "0171 7654321"]),
        ("+49 170 1234567 and", ["+49 170 1234567"]),
        ("+49 170 1234567 471100", ["+49 170 1234567"]),
        ("04.03.2025 05.03.2025", []),
        ("tel. 612 345 678 or Mobile: 8812 3456", ["612 345 678", "8812 3456"]),
        ("mail a@b.com,c@d.org;e@f.net", ["a@b.com", "c@d.org", "e@f.net"]),
        ("<mailto:a@b.com?subject=x>", ["a@b.com"]),
        ("ÄÖÜ ß &amp; ﬁne +49 170 1234567 İ", ["+49 170 1234567"]),
    ],
)
def test_what_stands_beside_is_left_alone(text: str, finds: list[str]) -> None:
    assert found(text) == finds


def flipped(text: str, place: int) -> str:
    digits = [n for n, c in enumerate(text) if c.isdigit() and n > 3]
    n = digits[place % len(digits)]
    return text[:n] + str((int(text[n]) + 1) % 10) + text[n + 1 :]


@settings(deadline=None)
@given(
    st.sampled_from([("iban", i) for i in IBANS] + [("card", c) for c in CARDS]), st.integers(0, 99)
)
def test_one_wrong_digit_is_no_iban_and_no_card(real: tuple[str, str], place: int) -> None:
    kind, text = real
    wrong = flipped(text, place)
    assert text not in found(wrong, kind) and wrong not in found(wrong, kind)


@pytest.mark.parametrize(("kind", "text"), REAL)
def test_two_spellings_have_one_key(kind: str, text: str) -> None:
    folded = fold(text) if "%" not in text and "&" not in text else view(text).text
    key = key_of(kind, folded)
    assert key and key == key_of(kind, folded.upper().lower())
    if kind in ("iban", "card"):
        assert key_of(kind, key) == key


def test_numbers_are_the_same_with_and_without_what_is_dialled_first() -> None:
    written = ["+49 170 1234567", "0170/123 45 67", "0049 (0)170 1234567", "1234567"]
    keys = [key_of("phone", each) or "" for each in written]
    assert all(same_phone(one, other) for one in keys for other in keys)
    assert not same_phone(keys[0], key_of("phone", "+49 171 1234567") or "")
    assert not same_phone("567", keys[0])


@settings(deadline=None)
@given(st.text(st.sampled_from("aA1ßéİ\u0301\u200bﬁ€&;%4c3# \\u0e田"), max_size=30))
def test_a_view_leads_back_to_whole_characters(text: str) -> None:
    seen = view(text)
    for start in range(len(seen.text)):
        first, after = seen.original(start, start + 1)
        assert 0 <= first < after <= len(text)
        assert seen.text[start] in view(text[first:after]).text
    if seen.text:
        first, after = seen.original(0, len(seen.text))
        assert view(text[first:after]).text == seen.text and view(text[after:]).text == ""


def test_a_job_can_name_the_patterns_that_there_are() -> None:
    annotation = Privacy.model_fields["patterns"].annotation
    assert set(get_args(get_args(annotation)[0])) == set(FINDERS) == set(Privacy().patterns)


SCRAPS = st.sampled_from(
    ["&amp;", "&lt;p&gt;", "<b>", "</b>", "<", "%41", "%", "=\n", "=C3=BC", "\\n", "\\u0041", "-\n",
     "\u00ad", "\u200b", "**", "~~", "`", "tel. ", "hotel", "mobile ", "phone ", "+49 170 1234567",
     "0170/1234567", "(415) 555-0100", "4111 1111 1111 1111", "4", "55", "(", "a", "é", " ", "."]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(SCRAPS, max_size=9).map("".join))
def test_looking_for_beginnings_first_finds_the_same(text: str) -> None:
    for wanted, starts in (
        (folding._ESCAPE, folding._ESCAPE_STARTS), (folding._ESCAPE_OR_TAG, folding._STARTS),
        (patterns._PHONE, patterns._PHONE_STARTS), (patterns._CARD, patterns._DIGITS),
    ):  # fmt: skip
        there = [each.span() for each in folding.all_of(wanted, starts, text)]
        assert there == [each.span() for each in wanted.finditer(text)]
