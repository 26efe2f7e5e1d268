"""Names that read like an escape, or stand in a login: found for what they are."""

from __future__ import annotations

import re

import pytest

from escalation.redact import Redactor, restore
from runner.types import Completion, Message, Prompt, Record
from tests.test_names import sent


@pytest.mark.parametrize(
    "text",
    ["user={};", "a=Be={}", "100%{}", "a=%{}", "CORP\\{}", "C:\\Users\\{}\\x", "\\\\srv\\{}",
     "&#x20{}", "{}=0A{}", "%0A{}", "=3A{}", "\\n{}", "x=20{}=20", "title={}>"],
)  # fmt: skip
def test_a_name_that_reads_like_an_escape_is_a_name(text: str) -> None:
    for name in (
        "Cecil",
        "Fabian",
        "Benno",
        "Ebba",
        "Edda",
        "Bea",
        "Abby",
        "Robert",
        "Nina",
        "Tove",
    ):
        for spelt in (name, name.lower(), name.upper()):
            left = sent({"surname": name}, text.replace("{}", spelt))
            assert left is not None and not re.search(name, left, re.IGNORECASE), (left, spelt)


@pytest.mark.parametrize("text", ["login delacruza01", "@DeLaCruz", "j.delacruz", "leea01 x"])
def test_a_login_of_a_surname_and_an_initial_goes(text: str) -> None:
    left = sent({"name": "Ana Lee" if "lee" in text else "Ana de la Cruz"}, text)
    assert left is not None and not re.search("cruz|lee", left, re.IGNORECASE)


@pytest.mark.parametrize(
    "text",
    ["jane<b>@</b>example.org", "jane @ example.org", "jane@ example.org", "jane=40example.org",
     "jane!host@example.org", "jane#tag@example.org", "jane~x@example.org", "jane*x@example.org",
     "<b>+49</b> 170 1234567", "DE89<b>3704</b>00440532013000", "DE89+3704+0044+0532+0130+00",
     "DE89\n> 3704 0044 0532 0130 00", "DE89\u00a03704_0044_0532_0130_00"],
)  # fmt: skip
def test_an_address_or_a_number_is_found_across_tags_and_gaps(text: str) -> None:
    prompt = Prompt((Message("user", f"reach me: {text}, please"),))
    redactor = Redactor((), ("email", "phone", "iban"), lambda record: prompt)
    placeholders = redactor.placeholders(Record(0, "R-1", {}, 1))
    (message,) = redactor.redact(prompt, placeholders).messages
    assert re.fullmatch(r"reach me: (<b>)?\[[A-Z]+_1\], please", message.content)
    back = restore(Completion(message.content, "m", "stop"), placeholders).text
    assert back == f"reach me: {text}, please"
