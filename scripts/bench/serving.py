"""`surelocal serve` against vLLM's own server: throughput and latency with many clients at once.

    python scripts/bench/serving.py [--clients 32] [--requests 640] [--rounds 3]

Both serve the demo's model and get the same requests: the demo's records that go to the model, with
its system message, schema and sampling. vLLM's is asked twice, without logprobs and with those that
the check needs. Each round starts each server anew, one after the other, and leaves out its loading
and the first requests, one from each client. Nothing is sent to a closed model, and answers that
are unsure come back as they are: what is measured is the check, the ledger and the HTTP around the
same engine. Clients share the machine with the server they ask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
from engines.server import PORT, URL, VLLM, server
from engines.work import DEMO, Work


def ours(folder: str) -> list[str]:
    """The command that serves the demo."""
    command = [sys.executable, "-m", "runner.cli.main", "serve", str(DEMO / "job.yaml")]
    command += ["--run-dir", folder, "--port", str(PORT), "--on-unsure", "answer"]
    return [*command, "--max-concurrent", "4096"]


def bodies(count: int, *, logprobs: bool) -> list[dict[str, Any]]:
    """Requests as both servers take them; every one is another record's."""
    found = Work(None, Path(), Path()).bodies(logprobs=logprobs)
    return [found[n % len(found)] for n in range(count)]


async def load(asked: list[dict[str, Any]], clients: int) -> tuple[float, list[float], int]:
    """(seconds over all, seconds of each, tokens made), ``clients`` asking one after the other."""
    queue, seconds, tokens = iter(asked), list[float](), 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal tokens
        for body in queue:
            began = time.monotonic()
            async with session.post(f"{URL}/v1/chat/completions", json=body) as reply:
                answer = await reply.json()
            if reply.status != 200:
                raise SystemExit(f"status {reply.status}: {json.dumps(answer)[:400]}")
            seconds.append(time.monotonic() - began)
            tokens += answer["usage"]["completion_tokens"]

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        began = time.monotonic()
        for _ in range(clients):
            group.create_task(client(session))
    return time.monotonic() - began, seconds, tokens


def measure(command: list[str], asked: list[dict[str, Any]], clients: int) -> dict[str, float]:
    with server(command):
        asyncio.run(load(asked[:clients], clients))
        elapsed, seconds, tokens = asyncio.run(load(asked[clients:], clients))
    return {
        "requests/s": len(seconds) / elapsed,
        "tokens/s": tokens / elapsed,
        "p50 ms": 1000 * median(seconds),
        "p95 ms": 1000 * quantiles(seconds, n=20)[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count = options.clients + options.requests
    asked, with_logprobs = (bodies(count, logprobs=wanted) for wanted in (False, True))
    found: dict[str, list[dict[str, float]]] = {"vllm": [], "vllm, logprobs": [], "ours": []}
    for _ in range(options.rounds):
        for which, rounds in found.items():
            with tempfile.TemporaryDirectory() as folder:
                command = ours(folder) if which == "ours" else VLLM
                given = with_logprobs if which == "vllm, logprobs" else asked
                rounds.append(measure(command, given, options.clients))
            shown = ", ".join(f"{name} {value:,.1f}" for name, value in rounds[-1].items())
            print(f"{which}: {shown}", flush=True)
    for other in ("vllm", "vllm, logprobs"):
        pairs = list(zip(found["ours"], found[other], strict=True))
        ratios = [
            f"{name} {median(a[name] / b[name] for a, b in pairs):.2f}" for name in pairs[0][0]
        ]
        print(f"ours over {other}, median of {len(pairs)}: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
