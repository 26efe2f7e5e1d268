"""Redacted values: none leaves, and every one is back in the answer."""

from __future__ import annotations

import json
import re
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
    r"(\+[0-9]{1,2} )?(\([0-9]{3}\) |[0-9]{3}-)[0-9]{3}-[0-9]{4}", fullmatch=True
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


@settings(deadline=None, max_examples=60)
@given(name=names, email=emails, phone=phones, data=st.data())
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
    for placeholder in ("[NAME]", "[EMAIL]", "[PHONE]"):
        left = left.replace(placeholder, " ")
    for value in fields.values():
        assert not shows(value, left)
        long = sum(map(str.isalnum, value)) >= SURELY_ITSELF  # or else part of a word by chance
        assert not long or value not in left


@settings(deadline=None, max_examples=60)
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
    assert redacted(fields, "ana@x.org or bob@y.org") == ["[MAIL] or [MAIL 2]"]


def test_words_that_only_contain_a_value_stay() -> None:
    assert redacted({"name": "Ana", "n": "3"}, "a banana for Ana, 3 of them") == [
        "a banana for [NAME], 3 of them"
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [("Renée Dupont", "renee dupont called"), ("renee.d@x.org", "mail renee d x org"),
     ("(555) 010-0199", "call 5550100199"), ("José", "JOSE\u0301 here"), ("田中太郎", "田中 太郎")],
)  # fmt: skip
def test_other_spellings_keep_the_record_here(value: str, text: str) -> None:
    with pytest.raises(RecordError) as caught:
        redacted({"field": value}, text)
    assert value not in str(caught.value)


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
        ["misspelt"], name="Renée Dupont", email="r@d.fr", phone=None, extra="RENEE DUPONT"
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
    assert ran.ends()["misspelt"] == ("review", "redaction_failed")
    assert query(ran.run_dir, "SELECT COUNT(*) FROM attempts") == [(3,)]
