"""Where we reach into vLLM further than its documents promise: each place, and why.

Tried on `TRIED`; `tests/test_insides.py` fails where one of these places has changed, and the upper
bound of the extra ``gpu`` keeps later versions out until it has passed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRIED = "0.32"

SEEDED_DRAWS = f"{__name__}.SeededDraws"
"""For vLLM's ``worker_extension_cls``: the workers get the methods of that class."""


class SeededDraws:
    """Fixes seeded draws of the CPU build where a prompt is read over several steps.

    vLLM draws a token for a prompt that it has read only in part, throws it away, and rewinds the
    prompt's random generator by four. CPU generators cannot be rewound so ("CPU Generator does not
    use offset", ``GPUModelRunner._bookkeeping_sync``), and the whole engine dies with it. That
    takes no more than a temperature above 0, a seed and more waiting prompts than one step holds.

    Reading prompts whole (``enable_chunked_prefill=False``) would avoid it, but vLLM warns that it
    does not support that for generation, and a step would then hold as many tokens as the model's
    whole context: gigabytes of activations in place of those of 2,048 tokens.

    vLLM itself mixes this class into its workers; nothing happens before the method is called.
    """

    model_runner: Any

    def fix_seeded_draws(self) -> None:
        """Hides the generators of half-read prompts while a step draws, so that none needs
        rewinding: what is thrown away is drawn without a seed, and what stays does not depend on
        how the prompt was cut."""
        runner = self.model_runner
        if not (hasattr(runner, "_sample") and hasattr(runner, "_bookkeeping_sync")):
            return  # another runner than the one with the fault
        sample, keep_books = runner._sample, runner._bookkeeping_sync
        hidden: dict[int, Any] = {}

        def _sample(*arguments: Any, **named: Any) -> Any:
            batch = runner.input_batch
            for row in runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist():
                if row in batch.generators:
                    hidden[row] = batch.generators.pop(row)
            return sample(*arguments, **named)

        def _bookkeeping_sync(*arguments: Any, **named: Any) -> Any:
            try:
                return keep_books(*arguments, **named)
            finally:
                runner.input_batch.generators.update(hidden)
                hidden.clear()

        runner._sample, runner._bookkeeping_sync = _sample, _bookkeeping_sync


def refused_by_xgrammar(structured_outputs: Any) -> None:
    """Raises vLLM's own error where xgrammar cannot hold an answer to all of it."""
    from vllm import SamplingParams
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    validate_xgrammar_grammar(SamplingParams(structured_outputs=structured_outputs))


def verify(params: Any, config: Any, tokenizer: Any) -> None:
    """vLLM's own check of ``SamplingParams``, once for all requests that share them. ``config``:
    its ``VllmConfig``.

    vLLM checks each request again and makes the schema's grammar anew for it, which took a
    fifteenth of its time.
    """
    params.verify(
        config.model_config, config.speculative_config, config.structured_outputs_config, tokenizer
    )
    params.verify = _nothing


def _nothing(*given: Any, **named: Any) -> None:
    return None


def use_backend_of(params: Any, config: Any) -> None:
    """Fixes the grammar backend to the one that `verify` has found for these parameters; else the
    first request, whatever it is, would choose for all."""
    config.structured_outputs_config.backend = params.structured_outputs._backend


def share(params: Any) -> None:
    """vLLM need not copy these parameters for each request, and keeps the check that was made."""
    params.skip_clone = True


def is_shared(params: Any) -> bool:
    return bool(params.skip_clone)


def with_parser_arguments(
    engine: Any, name: str, prompt: Any, params: Any, arguments: Mapping[str, Any]
) -> Any:
    """The request, with the chat template's arguments for its reasoning parser.

    What holds the answer to its schema has a parser of its own: for one that is not told of the
    chat template's arguments, some models have never begun to think.
    """
    made = engine.input_processor.process_inputs(name, prompt, params, engine.get_supported_tasks())
    made.reasoning_parser_kwargs = dict(arguments)
    return made


def shut_down(engine: Any) -> None:
    """``LLMEngine`` has no method of its own for it."""
    engine.engine_core.shutdown()
