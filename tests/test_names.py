"""Names in ordinary letters: none leaves in whatever spelling, and words that are no names stay."""

from __future__ import annotations

import html
import quopri
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.redact import Redactor, restore
from runner.answering.prompts import Renderer
from runner.errors import RecordError
from runner.types import Completion, Constraint, Message, Prompt, Record
from tests.letters import (
    FIRST,
    HELD_BACK,
    LAST,
    NOBODY,
    SPELLINGS,
    WORDS_FIRST,
    WORDS_LAST,
    Spelling,
    plain,
)

_SMALL = {"van", "der", "de", "la"}


def sent(fields: Mapping[str, str], text: str) -> str | None:
    """What leaves of a text; None where nothing does."""
    prompt = Prompt((Message("user", text),))
    redactor = Redactor(tuple(fields), (), lambda record: prompt)
    record = Record(0, "R-1", fields, 1)
    try:
        return redactor.redact(prompt, redactor.placeholders(record)).messages[0].content
    except RecordError as error:
        assert error.reason == "redaction_failed"
        return None


def readings(text: str) -> Iterator[str]:
    """A text as its reader could see it."""
    for encoded in (text, quopri.decodestring(text.encode()).decode("utf-8", "replace")):
        decoded = html.unescape(unquote(encoded))
        for shown in (decoded, re.sub(r"<[^>]*>", "", decoded), decoded.replace("-\n", "")):
            bare = plain(shown).casefold()
            yield "".join(c for c in bare if unicodedata.category(c) != "Cf")


def words(name: str) -> list[str]:
    found = re.split(r"[\s'’\-]+", plain(name).casefold())
    return [word for word in found if len(word) > 1 and word not in _SMALL]


def shows(name: str, left: str) -> bool:
    """Whether a word of a name stands anywhere, at a word's beginning, or, if longer, within."""
    left = re.sub(r"\[[A-Z_0-9]+\]", "\0", left)
    return any(
        re.search(rf"(?<![^\W\d_]){re.escape(word)}", text) or (len(word) > 3 and word in text)
        for text in readings(left)
        for word in words(name)
    )


def trials(table: dict[str, Spelling], every: int) -> tuple[list[str], int, int]:
    """What leaked, how many were refused, and of how many: each ``every``-th, in turn."""
    leaked, refused, tried = list[str](), 0, 0
    for n, (first, last) in enumerate(product(FIRST, LAST)):
        for m, (kind, spell) in enumerate(table.items()):
            if (n + m) % every:
                continue
            whole = {"name": f"{first} {last}"}
            fields = whole if n % 2 else {"first_name": first, "last_name": last}
            text = spell(first, last)
            # "like" begins as Li does, and stands in the letter itself.
            hidden = [f for f in (first, last) if not shows(f, spell("Qqqq", "Wwww"))]
            left = sent(fields, text)
            tried += 1
            refused += left is None
            if left is not None and any(shows(name, left) for name in hidden):
                leaked.append(f"{kind}: {first} {last}: {left}")
    return leaked, refused, tried


@pytest.mark.slow
@pytest.mark.parametrize("table", [SPELLINGS, HELD_BACK], ids=["known", "held back"])
def test_no_spelling_of_a_name_leaves(table: dict[str, Spelling]) -> None:
    leaked, refused, tried = trials(table, every=7)
    assert not leaked
    assert refused <= tried / 10


@pytest.mark.slow
@pytest.mark.parametrize("table", [SPELLINGS, HELD_BACK], ids=["known", "held back"])
def test_no_spelling_of_any_of_the_names_leaves(table: dict[str, Spelling]) -> None:
    leaked, refused, tried = trials(table, every=1)
    assert tried == 400 * len(table)
    assert not leaked
    assert refused <= tried / 10


# Written into a name these are not seen, or make another of its spellings.
UNSEEN = ["\u00ad", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u202a", "\u2069", "\ufe0f",
          "\u034f", "=\n", "=\r\n", "<b>", "</i>", "<wbr>", '<span class="x">', "&shy;", "&#8203;",
          "&zwnj;", "\u3164", "%C2%AD", "\\u200b"]  # fmt: skip
forms = st.sampled_from(
    [str, str.upper, str.lower, str.title, plain]
    + [lambda s, form=form: unicodedata.normalize(form, s) for form in ("NFD", "NFC", "NFKC")]
)


@settings(deadline=None, max_examples=150)
@given(
    name=st.tuples(st.sampled_from(FIRST), st.sampled_from(["Smith", "Müller", "Novák", "Øster"])),
    form=forms,
    unseen=st.lists(st.sampled_from(UNSEEN), min_size=1, max_size=12),
    before=st.sampled_from(["", "Dear ", "it's ", "(", "1. ", "über "]),
)
def test_what_is_not_seen_hides_no_name(name, form, unseen, before) -> None:  # type: ignore[no-untyped-def]
    for part in name:
        spelt = form(part)
        step = max(1, len(spelt) // len(unseen))
        text = "".join(
            c + (unseen[n // step % len(unseen)] if n % step == 0 else "")
            for n, c in enumerate(spelt)
        )
        left = sent({"name": " ".join(name)}, f"{before}{text}, bye")
        if left is not None:
            assert re.sub(r"[\W_]|\[NAME[_0-9]*\]", "", plain(before) + "bye").casefold() == re.sub(
                r"<[^>]*>|\[NAME[_0-9]*\]|&#?\w+;|%C2%AD|\\u200b|[\W_]", "", plain(left)
            ).casefold().replace("\u3164", "")


def misread(encoding: str) -> Spelling:
    """UTF-8 taken for another encoding; bytes that it lacks are control codes, as in browsers."""

    def spell(first: str, last: str) -> str:
        text = f"{first} {last}"
        return "".join(
            bytes([byte]).decode(encoding, "ignore") or chr(byte) for byte in text.encode()
        )

    return spell


def without(mark: Callable[[str], str]) -> Spelling:
    """What stands in the place of each letter that an old encoding lacks."""
    return lambda first, last: "".join(c if c.isascii() else mark(c) for c in f"{first} {last}")


MISTAKEN: dict[str, Spelling] = {
    "as Latin-1": misread("latin-1"),
    "as Windows-1252": misread("cp1252"),
    "capitals as Windows-1252": lambda f, s: misread("cp1252")(f.upper(), s.upper()),
    "a mark for a letter": without(lambda c: "\ufffd"),
    "a mark for a byte": without(lambda c: "\ufffd" * len(c.encode())),
    "a question mark": without(lambda c: "?"),
    "question marks": without(lambda c: "?" * len(c.encode())),
    "a line": without(lambda c: "_"),
    "nothing": without(lambda c: ""),
    "bytes in Python": lambda f, s: str(f"{f} {s}".encode()).replace("b'", ""),
    "braces": without(lambda c: f"\\u{{{ord(c):x}}}"),
    "eight digits": without(lambda c: f"\\U{ord(c):08x}"),
}
ACCENTED = ["María", "Zoë", "Jürgen", "Renée", "Seán", "Björn", "Tomáš", "Łukasz", "Müller",
            "García", "Novák", "Nguyễn", "Øster", "Dvořák", "Françoise", "Şahin"]  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKEN)
def test_a_name_whose_encoding_was_mistaken_does_not_leave(kind: str) -> None:
    few = set()
    for first, last in product(ACCENTED, ACCENTED):
        text = MISTAKEN[kind](first, last)
        for fields in ({"name": f"{first} {last}"}, {"first_name": first, "last_name": last}):
            left = sent(fields, f"From {text}, hello")
            if left is not None:
                few |= {word for word in text.split() if word in left}
    # Of Zoë and the like too little is left to know them by.
    assert all(sum(map(str.isalpha, plain(word))) < 3 for word in few), few


@pytest.mark.parametrize("name", ["Noé Manú", "Thé Ré", "Ané Gué"])
def test_what_is_left_of_a_name_is_no_word_of_a_letter(name: str) -> None:
    text = "No? Man? Why not the man? Re: an item, can it go to the bar_or a gu_est? Th? R?"
    assert sent({"name": name}, text) == text


WRAPPED = ["Ольга Щербакова", "Παπαδοπούλου Ίρις", "María José García Márquez", "王小明 田中太郎"]


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("quoted", ["", ">", "> > "])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\n"])
def test_a_line_of_quoted_printable_may_end_within_a_letter(
    name: str, quoted: str, end: str
) -> None:
    given = "".join(f"={byte:02X}" for byte in name.encode())
    for length in range(3, 60, 3):
        lines = [given[at : at + length] for at in range(0, len(given), length)]
        left = sent({"name": name}, f"Dear {f'={end}{quoted}'.join(lines)}, hello")
        assert left in (None, "Dear [NAME], hello"), left


@pytest.mark.parametrize("code", [*range(1, 9), *range(14, 27), 127, *range(128, 160), 0x640])
def test_a_control_code_hides_no_name(code: int) -> None:
    if chr(code).isspace():
        return
    left = sent({"name": "Seán Novák"}, f"it is Se{chr(code)}án, {chr(code).join('Novák')}!")
    assert left == "it is [NAME]!"
    arabic = {"name": "\u0645\u062d\u0645\u062f"}
    assert sent(arabic, chr(code).join(arabic["name"])) == "[NAME]"


def test_an_accent_tells_a_name_from_a_word() -> None:
    for name, word in (("Văn An", "Văn"), ("Zoë Groß", "Groß"), ("Jón Máy", "Máy")):
        left = sent({"name": name}, f"N:{word};x, a {plain(word).lower()}")
        assert left == f"N:[NAME_1];x, a {plain(word).lower()}"


@pytest.mark.parametrize(
    "name",
    ["May Stone", "Will Rose", "Rose Young", "Will Stone", "Mark Long", "An Do", "Grace King",
     "Order Customer", "Jane Smith", "Jan Novák", "Ana Baker"],
)  # fmt: skip
@pytest.mark.parametrize("whole", [True, False], ids=["one field", "two"])
def test_words_that_name_nobody_stay(name: str, whole: bool) -> None:
    first, last = name.split()
    fields = {"name": name} if whole else {"first_name": first, "last_name": last}
    letters = NOBODY.splitlines()
    left = [sent(fields, letter) for letter in letters]
    assert None not in left
    changed = sum(len(re.findall(r"\[[A-Z_0-9]+\]", each or "")) for each in left)
    assert changed <= 0.01 * len(NOBODY.split())


@pytest.mark.parametrize("first", ["Will", "May", "Rose"])
@pytest.mark.parametrize("last", ["Stone", "Young", "Brown"])
@pytest.mark.parametrize(
    "letter",
    ["Thanks, {f}", "thanks,\n{f} {l}", "Dear {f}, it is me", "This is {f}, hello",
     "Mrs {l} called",
     "mr. {s} called", "I am {f} {l}.", "it's {f} again", "My name is {f}.", "J. {l} paid",
     "{l}, {f}", "please call {f}'s phone", "hi {f}, i am here", "login: {h}.{s}@example.org",
     "Best regards\n{f} A. {l}", "ask for {f} {l} at once", "@{h}{s}87", "{f}", "Name: {f}\nx"],
)  # fmt: skip
def test_a_name_that_is_a_word_goes_where_it_names(first: str, last: str, letter: str) -> None:
    text = letter.format(f=first, l=last, h=first.lower(), s=last.lower())
    for fields in ({"name": f"{first} {last}"}, {"first_name": first, "last_name": last}):
        left = sent(fields, text)
        assert left is not None
        assert first not in left and last not in left and last.lower() not in left


@pytest.mark.parametrize("gap", [" ", ".", "-", "_", ". ", " - ", "*", ", ", "\u00b7", " </b>"])
def test_a_name_spelt_out_goes_however_short(gap: str) -> None:
    for name in ("Li", "Bo Xu", "An Do", "May", "Jane Wu", "Ng"):
        for form in (str, str.upper, str.lower):
            text = f"It is {' '.join(gap.join(form(word)) for word in name.split())}, at 5 p.m."
            left = sent({"name": name}, text)
            parts = left and re.fullmatch(r"It is ((\[NAME(_\d)?\]\W*)+), at 5 p\.m\.", left)
            assert left is None or parts, (text, left)
            assert left is not None or len(max(name.split(), key=len)) > 2


@pytest.mark.parametrize("name", ["Im", "Na", "Ma", "La", "Pm", "Li"])
def test_letters_that_stand_alone_by_custom_are_no_name(name: str) -> None:
    text = "I'm here, n/a, il m'a dit, l'a vu; at 5 p.m., i.e. late. I\u2019m like you, list it."
    assert sent({"name": name}, text) == text


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("Jane Smith", "Jane Smith, SMITH, JANE; Jane's", "[NAME], [NAME]; [NAME_1]'s"),
        ("Jane Smith", "J. Smith or J.S. or Jane A. Smith", "[NAME_1] or [NAME_2] or [NAME_3]"),
        ("Jane Smith", "jsmith; smithj; drjane", "[NAME_1]; [NAME_2]; [NAME_3]"),
        ("Petr Novák", "Nováková; Petra; Novákovi", "[NAME_1]; [NAME_2]; [NAME_3]"),
        ("Иван Петров", "Ивану Петрову", "[NAME_1]"),
        ("Matti Virtanen", "Matin ja Virtasen auto", "[NAME_1] ja [NAME_2] auto"),
        ("Γιώργος", "του Γιώργου", "του [NAME_1]"),
        ("田中 太郎", "田中様と太郎さん", "[NAME_1]様と[NAME_2]さん"),
        ("דוד כהן", "לדוד", "ל[NAME_1]"),
        ("Sean O'Brien", "O’Brien, OBrien, o brien", "[NAME_1], [NAME_2], [NAME_1]"),
        ("Ann Smith-Jones", "smith jones; Jones", "[NAME_1]; [NAME_2]"),
        ("Will Stone", "Will you pay? I may. The stone will fall.", None),
        ("May Long", "on 3 May, in May, May 5; it may take long", None),
    ],
)
def test_each_form_has_a_placeholder_and_comes_back(name: str, text: str, left: str | None) -> None:
    prompt = Prompt((Message("user", text),))
    redactor = Redactor(("name",), (), lambda record: prompt)
    placeholders = redactor.placeholders(Record(0, "R-1", {"name": name}, 1))
    (message,) = redactor.redact(prompt, placeholders).messages
    assert message.content == (text if left is None else left)
    back = restore(Completion(message.content, "m", "stop"), placeholders).text
    for placeholder, value in placeholders.found.items():
        assert placeholder not in back and value in back and value in text


@pytest.mark.parametrize("name", ["Customer", "Order", "Mark", "May", "Answer"])
def test_the_jobs_own_words_stay(name: str) -> None:
    system = "Answer as the shop. Order numbers stay. Mark each Customer by label: May or June."
    user = "Customer: {{ name }}\n{% if name %}Order{% endif %}: {{ text }}\nLabels: May, Mark."
    renderer = Renderer(system, user, Constraint(labels=("May", "Mark")))
    record = Record(0, "R-1", {"name": name, "text": f"thanks, {name}"}, 1)
    redactor = Redactor(("name",), (), renderer.render)
    left = redactor.redact(renderer.render(record), redactor.placeholders(record)).messages
    assert [m.content for m in left] == [
        system,
        "Customer: [NAME]\nOrder: thanks, [NAME]\nLabels: May, Mark.",
    ]
    assert left[0].cacheable
    answer = restore(Completion("May", "m", "stop"), redactor.placeholders(record))
    assert answer.text == "May"


def test_what_was_looked_through_is_not_taken_for_what_has_other_words_of_its_own() -> None:
    text = "Anna: thanks, Anna"
    record = Record(0, "R-1", {"name": "Anna"}, 1)
    seen = Prompt((Message("user", text, own=((0, 4),)),))
    redactor = Redactor(("name",), (), lambda record: seen)
    placeholders = redactor.placeholders(record)
    for own, left in (((0, 4),), "Anna: thanks, [NAME]"), ((), "[NAME]: thanks, [NAME]"):
        other = Prompt((Message("user", text, own=own),))
        assert redactor.redact(other, placeholders).messages[0].content == left


@pytest.mark.parametrize(
    "user",
    ["{{ name | upper }}", "{% filter upper %}by {{ name }}{% endfilter %}", "{{ name[:99] }}",
     "{% set x %}by {{ name }}{% endset %}{{ x }}", "{{ 'by ' ~ name }}", "{{ [name] | tojson }}",
     "{% macro m(x) %}by {{ x }}{% endmacro %}{{ m(name) }}", "{{ name.split()[0] }} x {{ name }}",
     "{% if name %}Jane{% endif %} {{ name }}", "{% for c in name %}{{ c }}{% endfor %}",
     "{{ record.name }}", "{{ record }}", "{{ '%s' | format(name) }}"],
)  # fmt: skip
def test_whatever_a_template_does_with_a_name_is_the_records(user: str) -> None:
    renderer = Renderer(None, user, Constraint())
    for name in ("Jane Smith", "Jane"):
        record = Record(0, "R-1", {"name": name}, 1)
        redactor = Redactor(("name",), (), renderer.render)
        prompt = redactor.redact(renderer.render(record), redactor.placeholders(record))
        own = "Jane" if "}Jane{" in user else ""
        assert "jane" not in prompt.messages[0].content.removeprefix(own).casefold()


def test_initials_are_of_the_fields_that_name_people() -> None:
    fields = {"first_name": "Jane", "last_name": "Smith", "region": "Europe"}
    assert sent(fields, "signed, J.S., in the U.S.") == "signed, [FIRST_NAME_1], in the U.S."


def test_words_as_names_over_all_pairs() -> None:
    for first, last in product(WORDS_FIRST, WORDS_LAST):
        left = sent({"name": f"{first} {last}"}, f"I am {first} {last}, or {last}, {first}.")
        assert left == "I am [NAME], or [NAME]."
