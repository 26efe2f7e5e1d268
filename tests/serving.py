"""A server for tests: in a thread of this process, or as a process of its own that can be killed.

`python -m tests.serving JOB.yaml PORT` serves beside the job, with `Echo` for its local model.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from openai import OpenAI

from runner.job import Job
from runner.job.file import load_job
from runner.pipeline import assemble
from runner.serve import ServeOptions, Server
from runner.types import Completion, Engine, Notice, Prompt, Sampling, Usage
from tests.jobs import DEMO_MODEL, KEY, ROOT, wait_until

MODEL = str(DEMO_MODEL)
LEAST: dict[str, Any] = {
    "name": "chat",
    "answer": "text",
    "local": {"model": MODEL, "engine": "vllm"},
    "confidence": {"threshold": 0.9},
}


@dataclass
class Echo:
    """A local model: it says what ``says`` makes of the last message, after a pause. It is sure of
    itself but where the message holds "unsure"."""

    says: Callable[[str], str] = lambda text: f"echo of {text}"
    pause_s: float = 0.0
    window: int = 64
    prompts: list[Prompt] = field(default_factory=list)
    sampled: list[Sampling] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.prompts.append(prompt)
        self.sampled.append(sampling)
        self.begun.set()
        await asyncio.sleep(self.pause_s)
        asked = prompt.messages[-1].content
        text = self.says(asked)
        logprob = math.log(0.3 if "unsure" in asked else 0.99)
        return Completion(text, MODEL, "stop", (text,), (logprob,), Usage(7, 3))

    async def aclose(self) -> None:
        return None


def write(folder: Path, api: str | None = None, **keys: Any) -> Path:
    """A job to serve, with as little as there can be; ``api``: where its closed model is."""
    whole = {**LEAST, **keys}
    closed = whole.pop("escalation", {})
    if api is not None:
        usual = {"model": "claude-sonnet-5-5", "budget_usd": 5, "max_tokens": 64, "timeout_s": 10}
        whole["escalation"] = {**usual, "base_url": api, "max_attempts": 2, **closed}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False), "utf-8")
    return path


@dataclass
class Served:
    """A running server."""

    server: Server
    run_dir: Path
    notices: list[Notice]
    clients: list[OpenAI] = field(default_factory=list)

    @property
    def said(self) -> list[str]:
        return list(map(str, self.notices))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def client(self, **settings: Any) -> OpenAI:
        usual = {"api_key": "any", "timeout": 20.0, "http_client": httpx2.Client(verify=False)}
        self.clients.append(OpenAI(base_url=f"{self.url}/v1", **{**usual, **settings}))
        return self.clients[-1]

    def ask(self, text: str = "where is my card", **more: Any) -> Any:
        return ask(self.client(), text, **more)

    def post(self, body: Any, **headers: str) -> httpx2.Response:
        """Without the SDK; ``body`` is sent as it is where it is bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx2.Client(verify=False, timeout=20) as http:
            return http.post(
                f"{self.url}/v1/chat/completions",
                content=raw,
                headers={"content-type": "application/json", **named},
            )

    def get(self, path: str, **headers: str) -> httpx2.Response:
        with httpx2.Client(verify=False, timeout=20) as http:
            return http.get(self.url + path, headers=headers)


def body(text: str = "where is my card", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}], **more}


def ask(client: OpenAI, text: str, **more: Any) -> Any:
    own = {name: more.pop(name) for name in list(more) if name in OWN}
    return client.chat.completions.create(**body(text, **more), extra_body=own or None)


OWN = ("surelocal_on_unsure", "max_escalation_usd")


@contextmanager
def serving(
    patch: pytest.MonkeyPatch, job: Path, engine: Engine, *overrides: str, **options: Any
) -> Iterator[Served]:
    """Serves a job in ``run`` beside it until the block is over."""
    use(patch, engine)
    run_dir, told = job.parent / "run", list[Notice]()
    loaded = load_job(job, overrides, served=True).job
    server = Server(loaded, ServeOptions(run_dir, **{"port": 0, **options}), told.append)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: server.ready or failed, 60.0)
    served = Served(server, run_dir, told)
    try:
        if not failed:
            yield served
    finally:
        for client in served.clients:
            client.close()
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def use(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    def load(job: Job) -> Engine:
        return engine

    patch.setattr(assemble, "engine", load)


def start(job: Path, port: int, **environment: str) -> subprocess.Popen[str]:
    """The same as a process, ready when this returns; its stderr is in ``stderr.txt``."""
    with (job.parent / "stderr.txt").open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving", str(job), str(port)],
            cwd=ROOT,
            env=os.environ | {"ANTHROPIC_API_KEY": KEY} | environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            text=True,
        )
    assert process.stdout is not None
    while "at http" not in (line := process.stdout.readline()):
        assert line, (job.parent / "stderr.txt").read_text()
    return process


def main() -> None:
    job, port = Path(sys.argv[1]), int(sys.argv[2])
    patch = pytest.MonkeyPatch()
    use(patch, Echo())

    def say(notice: Notice) -> None:
        sys.stdout.write(f"{notice}\n")
        sys.stdout.flush()

    options = ServeOptions(job.parent / "run", port=port)
    Server(load_job(job, served=True).job, options, say).run()


if __name__ == "__main__":
    main()
