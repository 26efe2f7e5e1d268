"""A mend for vLLM's CPU build: seeded draws, where a prompt is read over several steps.

vLLM draws a token for a prompt that it has read only in part, throws it away, and rewinds the
prompt's random generator by four. CPU generators cannot be rewound so ("CPU Generator does not use
offset", vLLM 0.32, ``GPUModelRunner._bookkeeping_sync``), and the whole engine dies with it. That
takes no more than a temperature above 0, a seed and more waiting prompts than one step holds.

Reading prompts whole (``enable_chunked_prefill=False``) would avoid it, but vLLM warns that it does
not support that for generation, and a step would then hold as many tokens as the model's whole
context: gigabytes of activations in place of those of 2,048 tokens.
"""

from __future__ import annotations

from typing import Any

SEEDED_DRAWS = f"{__name__}.SeededDraws"
"""For vLLM's ``worker_extension_cls``: the workers get the methods of that class."""


class SeededDraws:
    """Mixed into vLLM's workers by vLLM itself; nothing happens before the method is called."""

    model_runner: Any

    def mend_seeded_draws(self) -> None:
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
