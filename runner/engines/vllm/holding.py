"""What vLLM is asked to hold an answer to, and how its refusals are told from its death."""

from __future__ import annotations

from typing import Any

from runner.engines.grammars import ebnf, guided, without_place
from runner.engines.transformers.decoding import first_line
from runner.engines.vllm.insides import refused_by_xgrammar
from runner.errors import RecordError, SureLocalError, UsageError
from runner.types import Constraint, Reason, Sampling

_MOST_SAID = 300


def client_errors() -> tuple[type[Exception], ...]:
    """What vLLM raises at a request that it will not take; all else is trouble of its own."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:  # before 0.30 these were all of Python's own kinds
        return ValueError, TypeError
    return VLLMClientError, ValueError, TypeError


def sampling_params(
    constraint: Constraint, sampling: Sampling, config: Any, *, keep_special: bool
) -> Any:
    """vLLM's ``SamplingParams``. ``config``: its ``StructuredOutputsConfig``.

    Raises:
        UsageError: it refuses the settings.
    """
    import msgspec
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    wrong: Any = msgspec.MsgspecError
    refusals = (*client_errors(), wrong, AttributeError, AssertionError)
    try:
        # It looks at a value's range and not always at its type, which the engine would die of.
        msgspec.convert(dict(sampling.extra), SamplingParams)
        return SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            # vLLM takes no `n` without temperature: the answers would all be the same.
            n=sampling.n if sampling.temperature > 0 else 1,
            logprobs=sampling.top_logprobs,
            flat_logprobs=True,
            structured_outputs=structured(constraint, config),
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_special_tokens=not keep_special,
            **sampling.extra,
        )
    except refusals as error:
        raise UsageError(f"local.sampling: {_said(error)}") from None


def structured(constraint: Constraint, config: Any) -> Any:
    """As `runner.engines.grammars` bounds it, where the backend can be told."""
    from vllm.sampling_params import StructuredOutputsParams

    if constraint.schema is None:
        labels = constraint.labels
        return StructuredOutputsParams(choice=list(labels)) if labels else None
    plain = StructuredOutputsParams(json=dict(constraint.schema))
    if config.disable_any_whitespace:
        return plain
    if config.backend in ("auto", "xgrammar") and _is_xgrammars(plain):
        return StructuredOutputsParams(grammar=ebnf(constraint.schema))
    if config.backend in ("auto", "guidance"):
        return StructuredOutputsParams(json=guided(constraint.schema))
    return plain  # the others allow a space at most, or cannot be told


def _is_xgrammars(structured_outputs: Any) -> bool:
    """Whether xgrammar holds to all of it, in vLLM's own judgement."""
    try:
        refused_by_xgrammar(structured_outputs)
    except client_errors():
        return False
    return True


def refused(error: Exception, constraint: Constraint, *, shared: bool) -> SureLocalError:
    """Of what all records share, or of one record's own constraint."""
    said = _said(error)
    if not shared:
        return RecordError(f"vLLM cannot hold this answer: {said}", Reason.BAD_PROMPT)
    parts = "answer.schema or local.sampling" if constraint.schema else "answer or local.sampling"
    return UsageError(f"{parts}: vLLM refuses it: {said}")


def _said(error: Exception) -> str:
    said = without_place(first_line(error))
    return " ".join(str(error).split())[:_MOST_SAID] if said.endswith(":") else said
