"""What a call costs: against the stand-in's own table, which shares no line with ours."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.providers.prices import OVERHEAD_TOKENS, price_date, price_of, times
from runner.errors import UsageError
from runner.job import Escalation, Price
from runner.types import Usage
from tests.stand_in.prices import CHAT_MODELS, MODELS, chat_price_usd, price_usd

NAMES = sorted(name for name in MODELS if not re.search(r"-\d{8}$", name))
models = st.sampled_from(NAMES)
tokens = st.one_of(st.integers(0, 300), st.integers(0, 150_000))
LISTED = date(2026, 11, 18)


def on_the_wire(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
    }


@settings(deadline=None)
@given(model=models, usage=st.builds(Usage, tokens, tokens, tokens, tokens, tokens))
def test_costs_are_exact_for_every_model(model: str, usage: Usage) -> None:
    assert price_of(Escalation(model=model)).cost(usage) == price_usd(model, on_the_wire(usage))


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("prompt", [99_999, 100_000, 100_001])
def test_the_step_to_the_long_prompt_price_is_in_its_place(model: str, prompt: int) -> None:
    price = price_of(Escalation(model=model))
    for usage in (Usage(prompt, 7), Usage(1, 7, cache_read=prompt - 1), Usage(0, 7, prompt)):
        assert price.cost(usage) == price_usd(model, on_the_wire(usage))


@settings(deadline=None)
@given(
    model=models,
    request_bytes=st.integers(1, 250_000),
    max_tokens=st.integers(1, 5000),
    parts=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_no_reply_costs_more_than_the_worst_case(
    model: str, request_bytes: int, max_tokens: int, parts: list[float]
) -> None:
    # Any prompt of up to a token a byte and the overhead, split any way over the cache.
    total = int((request_bytes + OVERHEAD_TOKENS) * parts[0])
    written, read = (int(total * part / 2) for part in parts[1:3])
    output = int(max_tokens * parts[3])
    usage = Usage(total - written - read, output, cache_write_5m=written, cache_read=read)
    price = price_of(Escalation(model=model))
    us = times("anthropic", {"inference_geo": "us"})
    assert us == Decimal("1.1")
    assert price.cost(usage) * us <= price.worst_case(request_bytes, max_tokens)
    dearest = Usage(0, max_tokens, cache_write_5m=request_bytes + OVERHEAD_TOKENS)
    assert price.cost(dearest) * us == price.worst_case(request_bytes, max_tokens)


def chat_usage(usage: Usage) -> dict[str, Any]:
    prompt = usage.input_tokens + usage.cache_write_5m + usage.cache_read
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m,
        },
    }


def chat_escalation(model: str) -> Escalation:
    return Escalation.model_validate({"provider": "openai", "model": model})


@settings(deadline=None)
@given(
    model=st.sampled_from(sorted(CHAT_MODELS)),
    usage=st.builds(Usage, tokens, tokens, tokens, st.just(0), tokens),
)
def test_costs_are_exact_for_gpt_and_gemini(model: str, usage: Usage) -> None:
    if model.startswith("gemini"):  # which counts no writing
        usage = Usage(usage.input_tokens, usage.output_tokens, cache_read=usage.cache_read)
    price = price_of(chat_escalation(model), LISTED)
    assert price.cost(usage) == chat_price_usd(model, chat_usage(usage))


@pytest.mark.parametrize("model", sorted(CHAT_MODELS))
def test_long_prompts_of_gpt_and_gemini_have_their_price(model: str) -> None:
    price = price_of(chat_escalation(model), LISTED)
    above = price.long_above or 272_000
    for prompt in (above - 1, above, above + 1):
        for usage in (Usage(prompt, 7), Usage(1, 7, cache_read=prompt - 1)):
            assert price.cost(usage) == chat_price_usd(model, chat_usage(usage))
    assert (price.long is not None) == (model.startswith("gpt") or "pro" in model)
    size, most = above + 10, 100
    assert price.worst_case(size, most) >= price.cost(Usage(size, most))


def test_a_regional_address_of_openai_costs_a_tenth_more() -> None:
    plain, usage = price_of(chat_escalation("gpt-6.1-sol")), Usage(300_000, 7, cache_read=5)
    own = {"price": {"input": 2, "output": 10}}
    for host, more, given_ in (
        ("eu.api.openai.com", "1.1", {}), ("US.API.OpenAI.com.", "1.1", {}),
        ("api.openai.com", "1", {}), ("notapi.openai.com", "1", {}),
        ("eu.api.openai.com", "1", own),
    ):  # fmt: skip
        job = {"provider": "openai", "model": "gpt-6.1-sol", "base_url": f"https://{host}/v1"}
        price = price_of(Escalation.model_validate({**job, "api_key_env": "K", **given_}))
        if given_:
            assert price.cost(Usage(10**6, 10**6)) == 12
            continue
        assert price.cost(usage) == plain.cost(usage) * Decimal(more)
        assert price.worst_case(9, 9) == plain.worst_case(9, 9) * Decimal(more)
        assert price.in_batch().cost(usage) * 2 == price.cost(usage)


def test_a_price_that_rises_counts_before_a_run_can_last_that_long() -> None:
    flash = chat_escalation("gemini-3.8-flash")
    costs = [
        price_of(flash, day).cost(Usage(1_000_000, 1_000_000, cache_read=1_000_000))
        for day in (LISTED, date(2026, 12, 24), date(2026, 12, 25), date(2027, 6, 1))
    ]
    assert costs == [Decimal("4.575"), Decimal("4.575"), Decimal("9.15"), Decimal("9.15")]


@pytest.mark.parametrize("name", [*NAMES, *sorted(CHAT_MODELS)])
def test_a_batch_costs_half_of_everything(name: str) -> None:
    given_ = Escalation(model=name) if name in NAMES else chat_escalation(name)
    price = price_of(given_, LISTED)
    for usage in (Usage(10, 7, 5, 3, 11), Usage(300_000, 7, 5, 3, 11)):
        assert price.in_batch().cost(usage) * 2 == price.cost(usage)
    assert price.in_batch().worst_case(400_000, 9) * 2 == price.worst_case(400_000, 9)


def test_only_a_server_of_ones_own_is_free() -> None:
    local = {"provider": "local", "model": "Qwen/Qwen3-32B", "base_url": "http://big:8000/v1"}
    free = price_of(Escalation.model_validate(local))
    assert free.cost(Usage(10**9, 10**9)) == free.worst_case(10**9, 10**9) == 0
    priced = {**local, "price": {"input": "0.5", "output": 0}}
    assert price_of(Escalation.model_validate(priced)).cost(Usage(10**6)) == Decimal("0.5")
    for given_ in ({"model": "Qwen/Qwen3-32B"}, {"base_url": "http://big:8000/v1"}):
        unknown = {"provider": "openai", "model": "m", "api_key_env": "K", **given_}
        with pytest.raises(UsageError, match=r"no price is known for .*gpt-6\.1-sol.*gemini"):
            price_of(Escalation.model_validate(unknown))


def test_an_unknown_model_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(UsageError, match=r"claude-9; known are .*claude-sonnet-5-5.*price"):
        price_of(Escalation(model="claude-9"))


def test_a_job_brings_its_own_prices() -> None:
    own = Price(input=Decimal("0.123456"), output=Decimal(3), cache_read=Decimal("0.5"))
    price, us = price_of(Escalation(model="claude-9", price=own)), Decimal("1.1")
    assert price.cost(Usage(1000, 100)) == Decimal("0.000423456")
    # What is left out counts as dear as caching gets; a read can even cost more than fresh input.
    assert price.cost(Usage(cache_write_5m=10)) == price.cost(Usage(20))
    assert price.worst_case(9000, 0) == Decimal(9_500) * Decimal("0.5") * us / 1_000_000
    known = price_of(Escalation(model="claude-sonnet-5-5", price=own))
    assert known.cost(Usage(1000)) == price.cost(Usage(1000))


def test_prices_finer_than_the_ledger_are_refused() -> None:
    own = Price(input=Decimal("0.0000001"), output=Decimal(1))
    with pytest.raises(UsageError, match="6 decimals"):
        price_of(Escalation(price=own))


def test_the_prices_have_a_date() -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", price_date())
