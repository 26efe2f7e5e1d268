"""What every engine holds to: real vLLM, real transformers, a real vLLM server."""

from __future__ import annotations

import asyncio
import math
from statistics import median

import pytest

from runner.answering.check import Checker
from runner.engines.self_test import logprob_problem
from runner.engines.transformers.engine import TransformersEngine
from runner.engines.vllm.engine import VllmEngine
from runner.errors import RecordError
from runner.types import Completion, Constraint, Engine, Reason, Sampling
from tests.engines.asking import AS_JSON, GREEDY, INTENTS, SLOW, Server, answers, messages, prompts

pytestmark = SLOW

# --- the same answers, with the same confidence ---


def test_three_engines_agree(
    server_process: str,
    vllm_engine: VllmEngine,
    transformers_engine: TransformersEngine,
    server: Server,
) -> None:
    asked = prompts(messages(200))
    checker = Checker(AS_JSON)
    first, *others = (
        [checker.check(completion) for completion in answers(engine, asked)]
        for engine in (vllm_engine, transformers_engine, server)
    )
    assert all(answer.valid for answer in first)
    for other in others:
        same = [(a, b) for a, b in zip(first, other, strict=True) if a.value == b.value]
        apart = [
            abs(a.field_confidence[field] - b.field_confidence[field])
            for a, b in same
            for field in ("intent", "domain")
        ]
        assert len(same) >= 0.99 * len(asked)
        assert median(apart) < 1e-3
        assert sum(each > 1e-3 for each in apart) <= 4


def test_labels_agree(vllm_engine: VllmEngine, transformers_engine: TransformersEngine) -> None:
    asked = prompts(messages(40), Constraint(labels=INTENTS))
    of_vllm, of_transformers = (answers(e, asked) for e in (vllm_engine, transformers_engine))
    assert {completion.text for completion in of_vllm} <= set(INTENTS)
    assert [c.text for c in of_vllm] == [c.text for c in of_transformers]
    for one, other in zip(of_vllm, of_transformers, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert one.usage == other.usage


# --- what every engine holds to ---


def test_pieces_join_to_the_text(engine: Engine) -> None:
    labels = Constraint(labels=("naïve 😀 Ω", '日本 "quoted"\n\\', "card_declined"))
    for completion in answers(engine, [*prompts(messages(20)), *prompts(messages(20), labels)]):
        assert "".join(completion.tokens) == completion.text
        assert completion.finish_reason == "stop"
        assert completion.tokens[-1] == ""
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.tokens) == completion.usage.output_tokens
        assert all(math.isfinite(logprob) and logprob <= 0 for logprob in completion.logprobs)


@pytest.mark.parametrize("text", ["naïve 😀 Ω", '日本 "quoted"\n\\'])
def test_a_label_of_many_bytes_comes_back_whole(engine: Engine, text: str) -> None:
    [completion] = answers(engine, prompts(["x"], Constraint(labels=(text, text + "!"))))
    assert completion.text.rstrip("!") == text
    assert "".join(completion.tokens) == completion.text


def test_logprobs_are_after_the_constraint(engine: Engine) -> None:
    [asked] = prompts(["yes or no"], Constraint(labels=("yes", "no")))
    found: dict[str, float] = {}
    for seed in range(64):
        [completion] = answers(engine, [asked], Sampling(temperature=1.0, max_tokens=8, seed=seed))
        found[completion.text] = math.exp(math.fsum(completion.logprobs or ()))
        if len(found) == 2:
            break
    assert set(found) == {"yes", "no"}
    assert sum(found.values()) == pytest.approx(1.0, abs=0.02)


def test_an_answer_cut_off_says_so(engine: Engine) -> None:
    [completion] = answers(engine, prompts(["my card was declined"]), Sampling(max_tokens=4))
    assert completion.finish_reason == "length"
    assert len(completion.tokens) == 4
    assert "".join(completion.tokens) == completion.text


def test_a_prompt_too_long_spoils_its_record_alone(engine: Engine) -> None:
    good, long = prompts(["my card was declined", "hello card " * 600])

    async def both() -> list[Completion | BaseException]:
        asked = (engine.generate(prompt, GREEDY) for prompt in (long, good))
        return await asyncio.gather(*asked, return_exceptions=True)

    refused, answered = asyncio.run(both())
    assert isinstance(refused, RecordError)
    assert refused.reason == Reason.TOO_LONG
    assert "512" in str(refused)
    assert "tokens" in str(refused)
    assert isinstance(answered, Completion)


# --- alternatives, and several answers at once ---

FIVE = Sampling(temperature=0.0, max_tokens=64, top_logprobs=5)


@pytest.mark.parametrize("constraint", [AS_JSON, Constraint(labels=INTENTS)])
def test_each_token_has_its_alternatives(engine: Engine, constraint: Constraint) -> None:
    checker = Checker(constraint)
    for completion in answers(engine, prompts(messages(20), constraint), FIVE):
        assert completion.logprobs is not None
        assert len(completion.top) == len(completion.tokens)
        chosen = zip(completion.tokens, completion.logprobs, completion.top, strict=True)
        for piece, logprob, options in chosen:
            assert options[0] == (piece, pytest.approx(logprob, abs=1e-5))  # greedy
            probabilities = [math.exp(p) for _, p in options]
            assert probabilities == sorted(probabilities, reverse=True)
            assert len(options) <= 5 and 0.999 > 1 - math.fsum(probabilities) > -1e-3
        signals = checker.check(completion).signals
        for key in [key for key in signals if key.endswith("sequence_probability")]:
            field = key.removesuffix("sequence_probability")
            assert signals[f"{field}probability"] >= signals[key] * (1 - 1e-6)
            assert 0 <= signals[f"{field}margin"] <= 1


def test_where_none_are_asked_for_there_are_none(engine: Engine) -> None:
    [completion] = answers(engine, prompts(["my card was declined"]))
    assert (completion.top, completion.samples) == ((), ())


def test_an_end_is_the_empty_alternative(engine: Engine) -> None:
    [completion] = answers(engine, prompts(["x"], Constraint(labels=("card", "card_lost"))), FIVE)
    told = completion.tokens.index("" if completion.text == "card" else "_lost")
    assert "" in dict(completion.top[told])
    assert any(text.startswith("_") for text, _ in completion.top[told])


def test_several_answers_at_once(engine: Engine) -> None:
    asked = prompts(messages(12), Constraint(labels=INTENTS))
    drawn = Sampling(temperature=2.0, max_tokens=32, seed=3, n=4)
    first, second = (answers(engine, asked, drawn) for _ in range(2))
    assert [c.samples for c in first] == [c.samples for c in second]
    for completion in first:
        assert completion.samples[0] == completion.text
        assert len(completion.samples) == 4 and set(completion.samples) <= set(INTENTS)
        assert completion.usage.output_tokens > len(completion.tokens)
    assert sum(len(set(c.samples)) for c in first) > len(first)
    greedy = answers(engine, asked[:2], Sampling(temperature=0.0, max_tokens=32, n=4))
    assert all(c.samples == (c.text,) * 4 for c in greedy)


def test_engines_agree_on_the_alternatives(
    vllm_engine: VllmEngine, transformers_engine: TransformersEngine, server: Server
) -> None:
    asked = prompts(messages(20), Constraint(labels=INTENTS))
    first, *others = (answers(e, asked, FIVE) for e in (vllm_engine, transformers_engine, server))
    checker = Checker(Constraint(labels=INTENTS))
    for other in others:
        for one, its in zip(first, other, strict=True):
            assert [dict(options) for options in its.top] == [
                pytest.approx(dict(options), abs=1e-2) for options in one.top
            ]
            scores = [checker.check(each).score for each in (one, its)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_every_engines_logprobs_pass_the_self_test(engine: Engine) -> None:
    async def problem() -> str | None:
        used = engine.connect() if isinstance(engine, Server) else engine
        try:
            return await logprob_problem(used)
        finally:
            if used is not engine:
                await used.aclose()

    assert asyncio.run(problem()) is None


# --- determinism ---


def test_vllm_answers_do_not_depend_on_the_order(vllm_engine: VllmEngine) -> None:
    asked = prompts(messages(100))
    straight = answers(vllm_engine, asked)
    back = answers(vllm_engine, asked[::-1])[::-1]
    assert [c.logprobs for c in straight] == [c.logprobs for c in back]
    assert [c.text for c in straight] == [c.text for c in back]


def test_transformers_draws_do_not_depend_on_the_batch(
    transformers_engine: TransformersEngine,
) -> None:
    asked = prompts(messages(24), Constraint(labels=INTENTS))
    drawn = Sampling(temperature=2.0, max_tokens=32, seed=7, extra={"top_k": 50, "top_p": 0.95})
    together = answers(transformers_engine, asked, drawn)
    alone = [answers(transformers_engine, [prompt], drawn)[0] for prompt in asked]
    assert [c.text for c in together] == [c.text for c in alone]


def test_many_seeded_draws_come_through_and_are_the_same_again(vllm_engine: VllmEngine) -> None:
    # More tokens wait than one step reads, so that some prompt is read in two; vLLM's CPU build
    # dies of that.
    asked = prompts(messages(320), Constraint(labels=INTENTS))
    drawn = Sampling(temperature=1.0, max_tokens=24, seed=0, n=3)
    first = answers(vllm_engine, asked, drawn)
    assert all(len(c.samples) == 3 and set(c.samples) <= set(INTENTS) for c in first)
    again = answers(vllm_engine, asked[::-1], drawn)[::-1]
    assert [c.samples for c in first] == [c.samples for c in again]
