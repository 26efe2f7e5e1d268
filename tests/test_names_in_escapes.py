"""Names that read like an escape, or stand in a login: found for what they are."""

from __future__ import annotations

import re

import pytest

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
