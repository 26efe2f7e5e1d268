"""Small jobs for the closed side, runs of them in this process or their own, and their books.

Every record goes to the closed model by rule (``kind: template`` and ``kind: local`` aside), so
that no engine loads unless a test brings one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.job import Job
from runner.job.file import load_job
from runner.ledger import read_ledger
from runner.pipeline import assemble
from runner.pipeline.loop import Progress
from runner.pipeline.run import RunRequest, escalate_run, run_job
from runner.status.summary import Summary
from runner.types import Completion, Engine, Event, Notice, Prompt, Sampling, Usage

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "configs" / "demo" / "model"
KEY = "key-that-must-not-be-written-down"
NO_KEY = "escalation.api_key_env=NOBODY_HAS_THIS_KEY"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"intent": {"type": "string", "enum": ["card_arrival", "lost_card"]}},
    "required": ["intent"],
    "additionalProperties": False,
}
ROUTES: list[dict[str, Any]] = [
    {"when": "kind == 'template'", "to": "template", "answer": {"intent": "lost_card"}},
    {"when": "kind == 'closed'", "to": "closed", "reason": "high_stakes"},
]


def records(ids: Iterable[str], kind: str = "closed", **fields: Any) -> list[dict[str, Any]]:
    """A mark such as ``<R-1>`` tells a record's request from any other."""
    return [{"id": i, "kind": kind, "message": f"<{i}> where is my card", **fields} for i in ids]


def marked(name: str) -> Callable[[str], bool]:
    """Picks the request of one record, for `Faults.push`."""
    return lambda body: f"<{name}>" in body


def write_job(
    folder: Path,
    url: str,
    rows: Iterable[Mapping[str, Any]],
    escalation: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    closed = {
        "model": "claude-sonnet-5-5",
        "budget_usd": 5,
        "base_url": url,
        "max_tokens": 64,
        "concurrency": 4,
        "timeout_s": 10,
        "max_attempts": 3,
        **(escalation or {}),
    }
    job = {
        "name": "small",
        "records": {"path": "records.jsonl"},
        "prompt": {"user": "{{ message }}", "system": "Answer with the intent."},
        "answer": {"schema": SCHEMA},
        "local": {"model": "nobody/no-model", "engine": "transformers"},
        "routes": ROUTES,
        "confidence": {"threshold": 0.9},
        "escalation": closed,
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run came to: its rows by id, its words, its books."""

    run_dir: Path
    summary: Summary
    notices: list[Notice]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def said(self) -> list[str]:
        return list(map(str, self.notices))

    def of(self, event: Event) -> list[Notice]:
        """What it told of this."""
        return [told for told in self.notices if told.event is event]

    @property
    def spent(self) -> Decimal:
        return spent_usd(self.run_dir)

    def ends(self) -> dict[str, tuple[str, str | None]]:
        """Record → its status and reason."""
        return {name: (row["status"], row["reason"]) for name, row in self.rows.items()}

    def waits_for(self) -> dict[str, str]:
        found = query(self.run_dir, "SELECT record_id, waits_for FROM outcomes")
        return {name: cause for name, cause in found if cause is not None}


def run(job: Path, *overrides: str, again: bool = False, limit: int | None = None) -> Ran:
    """`surelocal run` in ``run`` beside the job; ``again`` stands for `surelocal escalate`."""
    loaded, told, run_dir = load_job(job, overrides).job, list[Notice](), job.parent / "run"
    output = run_dir / "results.jsonl"
    if again:
        summary = escalate_run(run_dir, loaded, output, Progress(), told.append)
    else:
        request = RunRequest(loaded, run_dir, output, limit)
        summary = run_job(request, Progress(), told.append)
    return Ran(run_dir, summary, told, rows_of(run_dir))


def rows_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    # A line's end is "\n" alone: an answer may hold others.
    lines = (run_dir / "results.jsonl").read_bytes().split(b"\n")
    return {row["id"]: row for row in map(json.loads, filter(None, lines))}


def query(run_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    with read_ledger(run_dir) as ledger:
        return ledger._db.execute(sql).fetchall()


def spent_usd(run_dir: Path) -> Decimal:
    """Paid, or possibly paid, as the ledger has it."""
    with read_ledger(run_dir) as ledger:
        return ledger.attempts.committed_usd()


def start(job: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """The same as a process, leading a session of its own; its stderr is in ``stderr.txt``."""
    command = [sys.executable, "-m", "runner.cli.main", "run", str(job)]
    command += ["--run-dir", str(job.parent / "run"), *options]
    with (job.parent / "stderr.txt").open("a") as stderr:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"ANTHROPIC_API_KEY": KEY} | environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            text=True,
        )


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.005)


class Scripted:
    """A local engine of the test's own."""

    def __init__(self, answer: Callable[[str], Completion]) -> None:
        self.window = 8
        self._answer = answer

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return self._answer(prompt.messages[-1].content)

    async def aclose(self) -> None:
        return None


def use_engine(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    """Runs in this process load this engine; their jobs name the demo model's folder."""

    def load(job: Job) -> Engine:
        return engine

    patch.setattr(assemble, "engine", load)


def unsure(text: str = '{"intent": "lost_card"}') -> Completion:
    """A local answer with a probability far below any threshold."""
    return Completion(
        text, "small", "stop", (text,), (-3.0,), Usage(input_tokens=9, output_tokens=1)
    )
