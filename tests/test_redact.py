"""Redacted values: none leaves, and every one is back in the answer."""

from __future__ import annotations

import contextlib
import json
import re
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.redact import SURELY_ITSELF, Redactor, restore
from runner.errors import RecordError
from runner.types import Completion, Message, Prompt, Record
from tests.jobs import KEY, query, records, run, write_job
from tests.stand_in import StandIn

names = st.sampled_from(
    ["Ana", "José", "O'Brien", "Jean-Luc", "Nguyễn", "田中", "สมชาย", "Email", "van der Berg",
     "Zoë", "STRASSE", "Straße", "İpek", "anna", "Message", "de", "محمد", "Name 2", "[NAME]"]
)  # fmt: skip
emails = st.from_regex(r"[a-z]{1,8}[._]?[a-z0-9]{1,6}@[a-z]{2,8}\.(org|com)", fullmatch=True)
phones = st.from_regex(
    r"(\+[0-9]{1,2} )?(\([2-9][0-9]{2}\) |[2-9][0-9]{2}-)[0-9]{3}-[0-9]{4}", fullmatch=True
)
glue = st.sampled_from([" ", ", ", "'s ", "\n", ": ", "=", "さんは", "/", "", "_", "x", "…", "("])
spellings = st.sampled_from(
    [str, str.upper, str.lower, str.title, lambda v: v.replace(" ", "\u00a0 ")]
)
words = st.sampled_from(["my card", "is", "hello", "banana", "ordered", "", "[EMAIL]", "1", "ana"])


def spelt(value: str, spell: Callable[[str], str]) -> str:
    return spell(value)


def record(fields: dict[str, Any]) -> Record:
    return Record(0, "R-1", fields, 1)


def redacted(fields: dict[str, Any], *texts: str, of: tuple[str, ...] = ()) -> list[str]:
    redactor = Redactor(of or tuple(fields))
    prompt = Prompt(tuple(Message("user", text) for text in texts))
    found = redactor.redact(prompt, redactor.placeholders(record(fields)))
    return [message.content for message in found.messages]


def bare(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def shows(value: str, text: str) -> bool:
    """Whether a value stands in a text as words of its own, in any case or spacing."""
    words = r"\s+".join(map(re.escape, bare(value).split()))
    return re.search(rf"(?<![^\W_]){words}(?![^\W_])", bare(text)) is not None


# A name that is an ordinary word too is one by its context: tests/test_names.py.
ORDINARY = {"Message", "Email"}


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(name=names.filter(lambda name: name not in ORDINARY), email=emails, phone=phones,
       data=st.data())  # fmt: skip
def test_no_value_is_left_in_any_prompt(name: str, email: str, phone: str, data: Any) -> None:
    fields = {"name": name, "email": email, "phone": phone}
    pieces = st.one_of(words, st.sampled_from(list(fields.values())).flatmap(
        lambda value: spellings.map(partial(spelt, value))))  # fmt: skip
    parts = data.draw(st.lists(st.tuples(pieces, glue), max_size=8))
    text = "".join(a + b for a, b in parts)
    try:
        (left,) = redacted(fields, text)
    except RecordError as error:
        assert error.reason == "redaction_failed"
        assert not any(value in str(error) for value in (email, phone))
        return
    left = re.sub(r"\[(NAME|EMAIL|PHONE)(_[0-9]+)?\]", " ", left)
    for value in fields.values():
        assert not shows(value, left)
        long = sum(map(str.isalnum, value)) >= SURELY_ITSELF  # or else part of a word by chance
        assert not long or value not in left


@settings(deadline=None, max_examples=80)
@given(fields=st.fixed_dictionaries({"name": names, "email": emails, "phone": phones}),
       wrap=st.sampled_from(["{}", '{{"text": "{}", "list": ["{}", 1]}}']))  # fmt: skip
def test_values_come_back_as_they_were(fields: dict[str, str], wrap: str) -> None:
    if "[NAME]" in fields.values():
        return
    text = f"{fields['name']}, write to {fields['email']} or call {fields['phone']}!"
    (left,) = redacted(fields, text)
    answer = Completion(wrap.replace("{{", "{").replace("}}", "}").replace("{}", left), "m", "stop")
    back = restore(answer, Redactor(tuple(fields)).placeholders(record(fields))).text
    if wrap == "{}":
        assert back == text
    else:
        assert json.loads(back) == {"text": text, "list": [text, 1]}


def test_what_is_inside_lists_and_objects_goes_too() -> None:
    fields = {"contact": {"mail": "ana@x.org", "phones": ["555-0100", 5550199]}, "ok": True}
    assert redacted(fields, "ana@x.org 555-0100 5550199 true") == [
        "[CONTACT.MAIL] [CONTACT.PHONES.1] [CONTACT.PHONES.2] true"
    ]


def test_fields_whose_names_differ_in_case_only_are_two() -> None:
    fields = {"Mail": "ana@x.org", "mail": "bob@y.org"}
    assert redacted(fields, "ana@x.org or bob@y.org") == ["[MAIL] or [MAIL_2]"]


def test_words_that_only_contain_a_value_stay() -> None:
    assert redacted({"name": "Ana", "n": "3"}, "a banana for Ana, 3 of them") == [
        "a banana for [NAME], 3 of them"
    ]


@pytest.mark.parametrize(
    ("value", "text", "left"),
    [
        ("Renée Dupont", "renee dupont, RENÉE  DUPONT", "[F], [F]"),
        ("Renée Dupont", "Dupont, Renée called", "[F] called"),
        ("José", "JOSE\u0301 here", "[F] here"),
        ("Müller", "Mueller or Muller", "[F] or [F]"),
        ("Mueller", "Herr Müller", "Herr [F]"),
        ("Łukasz", "lukasz's", "[F]'s"),
        ("Anna", "Annas Auto, hannah", "[F]s Auto, hannah"),
        ("Anna", "@anna_1985 anna85", "@[F]_1985 [F]85"),
        ("Anna", '{"text": "hello\\nAnna"}', '{"text": "hello\\n[F]"}'),
        ("O'Brien", "o\u2019brien, OBrien, O\\u0027Brien", "[F], [F], [F]"),
        ("Zoë Wu", "Zo&euml;&nbsp;Wu zo%C3%AB%20wu zoe+wu", "[F] [F] [F]"),
        ("Renée", "Re\u200bne\u0301e!", "[F]!"),
        ("田中太郎", "田中 太郎さん", "[F]さん"),
        ("李", "李先生", "[F]先生"),
        ("Al", "Al, et al. also", "[F], et [F]. also"),
        ("AB12345", "ab-123-45 or AB 12345", "[F] or [F]"),
        ("12345678", "no. 1234-5678 or 12 34 56 78", "no. [F] or [F]"),
        (12345, "12 345 and 123456", "[F] and 123456"),
        ("renee.d@x.org", "mail renee d x org", "mail [F]"),
        ("ana@x.org", "ana (at) x (dot) org", "[F]"),
        ("ana@x.org", "write joana@x.org, or ana@x.org.", "write [EMAIL_1], or [F]."),
        ("(555) 010-0199", "call 5550100199", "call [F]"),
    ],
)
def test_other_spellings_go_too(value: object, text: str, left: str) -> None:
    assert redacted({"f": value}, text) == [left]


@pytest.mark.parametrize("value", ["+49 170 1234567", "0170/1234567", "0049 (0)170 123 45 67"])
@pytest.mark.parametrize(
    "text",
    ["0170/123 45 67", "00491701234567", "+49 (0) 170-1234567", "+49 170 1234567", "01701234567",
     "(0170) 1234567", "170 1234567", "+49.170.123.45.67", "\uff10170 1234567"],
)  # fmt: skip
def test_a_phone_number_goes_however_it_is_written(value: str, text: str) -> None:
    assert redacted({"p": value}, f"Ring {text}, or 4711.") == ["Ring [P], or 4711."]


def test_an_address_with_a_name_in_it_goes_as_a_whole() -> None:
    fields = {"first": "Anna", "last": "Schmidt"}
    text = "Anna: anna.schmidt@example.com, annaschmidt%40example.com, it@schmidt-gmbh.de, a@b.com"
    assert redacted(fields, text) == ["[FIRST]: [EMAIL_1], [EMAIL_2], [EMAIL_3], a@b.com"]


def test_each_value_has_one_placeholder_and_each_placeholder_one_value() -> None:
    fields = {"name": "Anna", "nick": "ANNA", "email": "anna@x.org", "phone": "0170 1234567"}
    texts = (
        "anna, ANNA@X.ORG, bob@y.org, +49 170 1234567; [EMAIL_1]?",
        "bob@y.org and eve@y.org, 030/2312599, +49 30 2312599, call +44 20 7946 0018",
    )
    assert patterned(fields, *texts) == [
        "[NAME], [EMAIL], [EMAIL_2], [PHONE]; [EMAIL_1]?",
        "[EMAIL_2] and [EMAIL_3], [PHONE_1], [PHONE_1], call [PHONE_2]",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [("Renée Dupont", "r.e.n.é.e d.u.p.o.n.t"), ("+49 170 1234567", "id 99917012345670"),
     ("anna@x.org", "an na@x org"), ("田中太郎", "田 (((( 中太 (((( 郎")],
)  # fmt: skip
def test_what_is_not_recognised_keeps_the_record_here(value: str, text: str) -> None:
    with pytest.raises(RecordError) as caught:
        redacted({"field": value}, text)
    assert caught.value.reason == "redaction_failed" and value not in str(caught.value)


def test_words_that_meet_by_chance_keep_no_record_here() -> None:
    assert redacted({"name": "Martins"}, "smart insurance") == ["smart insurance"]


def test_what_is_the_same_for_all_stays_as_it_is_unless_it_names_someone() -> None:
    system = Message("system", "Answer Mark's mail to help@shop.com.", cacheable=True)
    prompt = Prompt((system, Message("user", "from bob@y.org")))

    def sent(name: str) -> Message:
        redactor = Redactor(["name"], ["email"], lambda record: prompt)
        one = record({"name": name})
        return redactor.redact(prompt, redactor.placeholders(one)).messages[0]

    assert sent("Anna") == system
    assert sent("Mark") == Message("system", "Answer [NAME]'s mail to help@shop.com.")


def patterned(fields: dict[str, Any], *texts: str) -> list[str]:
    prompt = Prompt(tuple(Message("user", text) for text in texts))
    redactor = Redactor(tuple(fields), ["email", "phone", "iban", "card"], lambda record: prompt)
    left = redactor.redact(prompt, redactor.placeholders(record(fields)))
    answer = Completion(json.dumps([m.content for m in left.messages]), "m", "stop")
    back = json.loads(restore(answer, redactor.placeholders(record(fields))).text)
    for text, again in zip(texts, back, strict=True):
        assert "[PHONE" not in again and again.count("@") == text.count("@")
    return [message.content for message in left.messages]


pieces = st.one_of(
    words,
    emails,
    phones.filter(lambda phone: phone[0] != "+"),
    st.sampled_from(["DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111"]),
)


gaps = st.sampled_from([" ", ", ", "\n", ": ", "…", " ("])


@settings(deadline=None, max_examples=80)
@given(name=names, parts=st.lists(st.tuples(pieces, gaps), max_size=8))
def test_what_is_put_back_is_what_was_taken(name: str, parts: list[tuple[str, str]]) -> None:
    text = "".join(a + b for a, b in parts)
    prompt = Prompt((Message("user", text),))
    fields = {"name": name}
    redactor = Redactor(("name",), ["email", "phone", "iban", "card"], lambda record: prompt)
    placeholders = redactor.placeholders(record(fields))
    (left,) = redactor.redact(prompt, placeholders).messages
    again = restore(Completion(left.content, "m", "stop"), placeholders).text
    same = (re.sub(r"[\W_]", "", bare(each)) for each in (again, text))
    assert next(same) == next(same)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["Für Anna Müller: ", "a.", "a@", "1 ", "0 1", "+1 (415", "4111 ", "%41", "a@b.b.b."]
)
def test_a_long_message_takes_time_by_its_length_only(unit: str) -> None:
    fields = {"name": "Anna", "phone": "+49 170 1234567", "ones": "1" * 10}

    def seconds(length: int) -> float:
        text = (unit * length)[:length]
        begun = time.process_time()
        with contextlib.suppress(RecordError):
            patterned(fields, text) if "@" not in unit else redacted(fields, text)
        return time.process_time() - begun

    seconds(1000)
    assert seconds(100_000) < 6  # Quadratic would be minutes; alone it is some 0.5 s.


@pytest.mark.process
def test_end_to_end_nothing_leaves_and_the_answer_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    people = [("Ana López", "ana@x.org", "555-0100"), ("田中", "tanaka@y.jp", "+81 3 5550 0769")]
    rows = [
        row | {"name": name, "email": email, "phone": phone}
        for n, (name, email, phone) in enumerate(people)
        for row in records([f"R-{n}"])
    ]
    rows += records(
        ["spelt out"],
        name="Renée Dupont",
        email="r@d.fr",
        phone="none",
        extra="R.E.N.E.E D.U.P.O.N.T",
    )
    rows += records(["plain"])
    user = "{{ message }} {{ name }}さん {{ email | upper }} tel:{{ phone }} {{ extra }}"
    full = {"name": "nobody", "email": "none", "phone": "", "extra": ""}
    with StandIn(tmp_path, oracle=lambda text: f"Dear {text.split('> ')[1]}") as api:
        job = write_job(
            tmp_path / "job", api.url, [full | row for row in rows], {"concurrency": 2},
            prompt={"user": user}, answer="text", privacy={"redact": ["name", "email", "phone"]},
        )  # fmt: skip
        ran = run(job)
        sent = "".join(request.raw for request in api.bill.requests())
        assert len(api.bill.requests()) == 3
    for name, email, phone in people:
        for value in (name, email, email.upper(), phone):
            assert value not in sent and json.dumps(value)[1:-1] not in sent
    assert "dupont" not in sent.casefold()
    assert ran.rows["R-0"]["value"] == (
        "Dear where is my card Ana Lópezさん ana@x.org tel:555-0100"
    )
    assert ran.ends()["spelt out"] == ("review", "redaction_failed")
    assert query(ran.run_dir, "SELECT COUNT(*) FROM attempts") == [(3,)]
