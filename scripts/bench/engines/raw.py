"""vLLM itself: one `LLM.chat` over all of the prompts."""

from __future__ import annotations

from engines.meter import Meter, Took
from engines.work import MODEL, MODEL_ARGS, WARM, Work


def raw(work: Work, *, schema: bool = True, logprobs: bool = True) -> Took:
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    job, chats, meter = work.job(), work.chats(), Meter()
    llm = LLM(MODEL, **MODEL_ARGS)
    params = SamplingParams(
        temperature=0, max_tokens=job.local.sampling.max_tokens, seed=0,
        logprobs=job.confidence.top_logprobs if logprobs else None, flat_logprobs=True,
        structured_outputs=StructuredOutputsParams(json=job.answer.json_schema) if schema else None,
    )  # fmt: skip
    yes_or_no = StructuredOutputsParams(choice=WARM)
    warm = SamplingParams(max_tokens=8, logprobs=params.logprobs, structured_outputs=yes_or_no)
    llm.chat(chats[:1], warm, use_tqdm=False)
    meter.start()
    outputs = llm.chat(chats, params, use_tqdm=False)
    meter.stop()
    return meter.took(sum(len(output.outputs[0].token_ids) for output in outputs))
