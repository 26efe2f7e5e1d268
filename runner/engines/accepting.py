"""Whether the engine would take a job's constraint and settings, asked of its own library without a
model: `python -m runner.engines.accepting`, the question on stdin and the answer on stdout.

In a process of its own: the libraries take seconds to import, write warnings as they like, and what
they are written in may fall over an odd schema, or never come back from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from runner.errors import MissingExtra, RecordError, UsageError
from runner.job.local import Local
from runner.types import Constraint, Sampling

WITHIN_S = 180.0
_ANY_SIZE = 1 << 31
_USUAL_LOGPROBS, _MOST_TEMPERATURE = 20, 2.0


def asked(
    engine: str, local: Local, constraint: Constraint, sampling: Sampling, vocabulary: int
) -> tuple[str, str]:
    """What it refuses, in a sentence, and what could not be looked at; each may be empty.

    ``vocabulary``: how many tokens the model has, or 0 where that is not known.
    """
    question = {
        "engine": engine,
        "local": local.model_dump(mode="json", by_alias=True),
        "constraint": asdict(constraint),
        "sampling": asdict(sampling),
        "vocabulary": vocabulary,
    }
    if not _may_be_refused(constraint, sampling):
        return "", ""
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, input=json.dumps(question), capture_output=True, text=True, timeout=WITHIN_S
        )
        refusal, unseen = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return "", f"its grammar was not made within {WITHIN_S:g} s"
    except (OSError, ValueError, IndexError, TypeError):
        return "", f"{engine} ended without a word when it was asked about them"
    return str(refusal), str(unseen)


def _may_be_refused(constraint: Constraint, sampling: Sampling) -> bool:
    """Every engine takes labels and free text, and what the job's own keys allow."""
    own = sampling.temperature > _MOST_TEMPERATURE or sampling.top_logprobs > _USUAL_LOGPROBS
    return constraint.schema is not None or bool(sampling.extra) or own


def answered(question: Mapping[str, Any]) -> tuple[str, str]:
    """The same, in this process."""
    local = Local.model_validate(question["local"])
    given = question["constraint"]
    labels = tuple(given["labels"]) if given["labels"] else None
    constraint = Constraint(schema=given["schema"], labels=labels)
    sampling = Sampling(**question["sampling"])
    look = _by_vllm if question["engine"] == "vllm" else _by_transformers
    try:
        look(local, constraint, sampling, question["vocabulary"])
    except MissingExtra as missing:
        return "", str(missing)
    except (UsageError, RecordError) as error:
        return str(error), ""
    return "", ""


def _by_vllm(local: Local, constraint: Constraint, sampling: Sampling, vocabulary: int) -> None:
    from runner.engines.vllm import holding, insides
    from runner.engines.vllm.setup import arguments, classes, environment

    environment(local)
    classes()
    from vllm.config import StructuredOutputsConfig

    wanted = arguments(local)
    given = wanted["structured_outputs_config"]
    names = ("backend", "disable_any_whitespace", "disable_additional_properties")
    held = {name: given[name] for name in names if name in given}
    try:
        config = SimpleNamespace(
            model_config=_model(vocabulary, wanted.get("max_logprobs", _USUAL_LOGPROBS)),
            speculative_config=wanted.get("speculative_config"),
            structured_outputs_config=StructuredOutputsConfig(**held),
        )
        params = holding.sampling_params(
            constraint, sampling, config.structured_outputs_config, keep_special=False
        )
        insides.verify(params, config, _tokenizer())
    except holding.client_errors() as error:
        raise holding.refused(error, constraint, shared=True) from None
    if (grammar := getattr(params.structured_outputs, "grammar", None)) is not None:
        _compiled(grammar)


def _model(vocabulary: int, logprobs: int) -> Any:
    """What vLLM's own look at the settings asks of the model."""
    return SimpleNamespace(
        max_logprobs=logprobs,
        get_vocab_size=lambda: vocabulary or _ANY_SIZE,
        is_diffusion=False,
        logits_processors=None,
    )


def _tokenizer() -> Any:
    """A tokenizer of the usual kind; what it knows does not matter here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))


def _compiled(grammar: str) -> None:
    import xgrammar

    from runner.engines.grammars import without_place
    from runner.engines.transformers.decoding import first_line

    try:
        info = xgrammar.TokenizerInfo(["a", "b", "</s>"], stop_token_ids=[2])
        xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar(grammar)
    except (RuntimeError, TypeError, ValueError) as error:
        said = without_place(first_line(error))
        raise UsageError(f"answer: xgrammar cannot hold a model to this: {said}") from None


def _by_transformers(
    local: Local, constraint: Constraint, sampling: Sampling, vocabulary: int
) -> None:
    from runner.engines.grammars import choice_grammar, ebnf, without_place
    from runner.engines.transformers.checkpoint import packages
    from runner.engines.transformers.decoding import first_line, warpers

    _, library, _ = packages()
    warpers(library, sampling)
    if constraint.schema is not None:
        try:
            grammar = ebnf(constraint.schema)
        except (RuntimeError, TypeError, ValueError) as error:
            said = without_place(first_line(error))
            raise UsageError(f"answer: xgrammar cannot hold a model to this: {said}") from None
        _compiled(grammar)
    elif constraint.labels:
        _compiled(choice_grammar(constraint.labels))


if __name__ == "__main__":
    asked_for = json.loads(sys.stdin.read())
    mine = os.dup(1)
    os.dup2(2, 1)  # what the libraries write there is none of the answer
    os.write(mine, (json.dumps(answered(asked_for)) + "\n").encode())
