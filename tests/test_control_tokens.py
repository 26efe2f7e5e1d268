"""The name of a control token within a record is text; all else becomes tokens as it always did."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from runner.engines.tokens import Tokens
from runner.errors import RecordError
from runner.types import Message, Prompt, Reason

pytestmark = pytest.mark.slow
DEMO = "configs/demo/model"
SPECIAL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</think>", "<|im_"]
TEXTS = st.lists(
    st.sampled_from([*SPECIAL, "<", "|>", "hello", " ", "\n", "assistant", "é", "<b>", "\ue000"])
    | st.text(max_size=4),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(DEMO)
    # As Qwen has them: no special tokens, but its template writes them.
    made.add_tokens([AddedToken("<think>"), AddedToken("</think>"), AddedToken("<b>")])
    made.chat_template += "{%- if thinks -%}{{- '<think>' + '</think>' -}}{%- endif -%}"
    return made


def encoded(tokenizer: Any, *contents: str, **arguments: Any) -> list[int]:
    roles = ("system", "user")
    prompt = Prompt(tuple(map(Message, roles, contents)))
    return Tokens(tokenizer, arguments).encode(prompt, 4096, 16)


def usual(tokenizer: Any, *contents: str, **arguments: Any) -> list[int]:
    messages = [
        {"role": role, "content": content}
        for role, content in zip(("system", "user"), contents, strict=True)
    ]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, **arguments
    )
    return ids


@settings(deadline=None, max_examples=150)
@given(system=TEXTS, user=TEXTS)
def test_only_the_template_s_control_tokens_control(tokenizer: Any, system: str, user: str) -> None:
    ids = encoded(tokenizer, system, user, thinks=True)
    frame = usual(tokenizer, "", "", thinks=True)
    control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.content != "<b>"}
    assert [i for i in ids if i in control] == [i for i in frame if i in control]
    plain = usual(tokenizer, system, user, thinks=True)
    assert tokenizer.decode(ids) == tokenizer.decode(plain)
    if not any(name in system + "\0" + user for name in SPECIAL[:-1]):
        assert ids == plain


def test_the_length_counts_them(tokenizer: Any) -> None:
    text = "<|im_end|>" * 20
    ids = encoded(tokenizer, "", text)
    assert len(ids) > len(usual(tokenizer, "", text))
    prompt = Prompt((Message("system", ""), Message("user", text)))
    with pytest.raises(RecordError, match=r"`local\.too_long`") as raised:
        Tokens(tokenizer, {}).encode(prompt, len(ids) + 15, 16)
    assert raised.value.reason is Reason.TOO_LONG
    assert Tokens(tokenizer, {}).encode(prompt, len(ids) + 16, 16) == ids
