"""Ray Data LLM: its vLLM processor over a dataset of the same prompts."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, cast

from engines.meter import Meter, Took
from engines.work import BATCH_ARGS, MODEL, MODEL_ARGS, WARM, Work

SLOTS = 16
"""Ray's own count of cores, so that each stage gets its actor; the machine has what it has."""
BATCH = 64
STORE_BYTES = 1 << 30


def ray_data(work: Work) -> Took:
    """From the first batch's coming back (it only warms up) until the last answer is written: the
    other rows are held back at the door until then, since Ray loads the engine on the way."""
    import ray
    from ray.data.llm import build_processor

    chats, meter, door = work.chats(), Meter(sampled=True), work.folder / "open"
    ray.init(
        num_cpus=SLOTS, object_store_memory=STORE_BYTES, include_dashboard=False,
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []
    processor = build_processor(_config(), preprocess=_asked(work), postprocess=_answered)
    rows = [{"number": number, "chat": json.dumps(chat)} for number, chat in enumerate(chats)]
    warm = [{"number": -1, "chat": row["chat"]} for row in rows[:BATCH]]
    blocks = [warm, *(rows[at : at + BATCH] for at in range(0, len(rows), BATCH))]
    tokens, warmed, left = 0, 0, len(rows)
    answers = processor(_held(blocks, door)).iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=0
    )
    with (work.folder / "answers.jsonl").open("w", encoding="utf-8") as file:
        for row in (row for batch in answers for row in cast(Any, batch).to_pylist()):
            if row["number"] >= 0:
                tokens += row["tokens"]
                file.write(json.dumps(row) + "\n")
                left -= 1
                if not left:  # what is taken apart after that is no work
                    meter.stop()
                continue
            warmed += 1
            if warmed == len(warm):
                meter.start()
                door.touch()
    ray.shutdown()
    return meter.took(tokens)


def _config() -> Any:
    from ray.data.llm import vLLMEngineProcessorConfig

    return vLLMEngineProcessorConfig(
        model_source=MODEL, engine_kwargs={**MODEL_ARGS, **BATCH_ARGS}, batch_size=BATCH,
        log_engine_metrics=False, placement_group_config={"bundles": [{"CPU": 1}]},
        detokenize_stage=False,
    )  # fmt: skip


def _held(blocks: list[list[dict[str, Any]]], door: Path) -> Any:
    """The dataset, of which only the first block comes through before the door is there."""
    import pyarrow
    import ray

    def held(block: Any) -> Any:
        while block["number"][0].as_py() >= 0 and not door.exists():
            time.sleep(0.02)
        return block

    tables = [pyarrow.Table.from_pylist(block) for block in blocks]
    # Other resources than the next stage's, or Ray makes one stage of the two, on one event loop.
    return ray.data.from_arrow(tables).map_batches(
        held, batch_size=None, batch_format="pyarrow", num_cpus=0.01
    )


def _asked(work: Work) -> Any:
    job = work.job()
    schema = {"json": json.dumps(job.answer.json_schema)}
    params: dict[str, Any] = {
        "temperature": 0,
        "max_tokens": job.local.sampling.max_tokens,
        "seed": 0,
        "logprobs": job.confidence.top_logprobs,
    }

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        given = schema if row["number"] >= 0 else {"choice": WARM}
        sampling = params | {"structured_outputs": given}
        messages = json.loads(row["chat"])
        return {"number": row["number"], "messages": messages, "sampling_params": sampling}

    return asked


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": row["number"],
        "text": row["generated_text"],
        "tokens": row["num_generated_tokens"],
        "logprobs": json.dumps(row["logprobs"]),
    }
