"""What the tests share: a small job, the command line in this process, a scripted engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from runner.cli.main import main
from runner.types import Completion, Prompt, Sampling, Usage

JOB: dict[str, Any] = {
    "name": "small",
    "records": {"path": "records.csv"},
    "prompt": {"user": "{{ message }}"},
    "answer": {"labels": ["yes", "no"]},
    "local": {"model": "nobody/no-model"},
}
ECHO = {"when": "true", "to": "template", "answer": "{{ message }}"}


def write_job(folder: Path, records: str | bytes, name: str = "records.csv", **keys: Any) -> Path:
    """A job whose records all end by template unless ``keys`` say otherwise: no engine loads."""
    data = records.encode() if isinstance(records, str) else records
    (folder / name).write_bytes(data)
    answer = "text" if keys.get("routes", [ECHO]) else JOB["answer"]  # an echo is no label
    job = {**JOB, "answer": answer, "records": {"path": name}, "routes": [ECHO], **keys}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    return path


def surelocal(*arguments: object) -> Result:
    """Runs the command line in this process; anything but an orderly exit fails the test."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_rows(job: Path, *options: object, status: int = 0) -> list[dict[str, Any]]:
    """Runs a job in ``run`` beside it; its result rows."""
    result = surelocal("run", job, "--run-dir", job.parent / "run", *options)
    assert result.exit_code == status, result.stderr
    return read_rows(job.parent / "run" / "results.jsonl")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def completion(
    text: str, logprobs: Sequence[float] | None = None, tokens: Sequence[str] = (), **keys: Any
) -> Completion:
    """A finished answer; without ``tokens`` it is one token of the first logprob."""
    pieces = tuple(tokens) or (text,)
    given = None if logprobs is None else tuple(logprobs)
    usage = Usage(input_tokens=1, output_tokens=len(pieces))
    whole = {"model": "fake", "finish_reason": "stop", "usage": usage, **keys}
    return Completion(text, tokens=pieces, logprobs=given, **whole)


class ScriptedEngine:
    """Answers each prompt by ``script``, given the user's message; an error is raised."""

    def __init__(self, script: Callable[[str], Completion | Exception], window: int = 4) -> None:
        self.window = window
        self.asked: list[str] = []
        self._script = script

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.asked.append(prompt.messages[-1].content)
        answer = self._script(self.asked[-1])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        return None
