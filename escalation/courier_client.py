"""The run's end of the courier: starts it, sends through it, and reads what a former one left."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from escalation.courier import JOURNAL, LOCK, MOST_LINE_BYTES
from escalation.replies import Reply
from runner.errors import RunFailed
from runner.job import Escalation


class Courier:
    """One courier process for one run directory. Use as an async context manager."""

    def __init__(self, run_dir: Path, escalation: Escalation) -> None:
        self._run_dir = run_dir
        self._settings = {
            "provider": escalation.provider,
            "base_url": escalation.base_url,
            "key_env": escalation.api_key_env,
            "timeout_s": escalation.timeout_s,
            "concurrency": escalation.concurrency,
        }
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Courier:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "escalation.courier", str(self._run_dir),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=MOST_LINE_BYTES,
        )  # fmt: skip
        await self._write(self._settings)
        if not await self._line():
            raise RunFailed("the courier of paid calls did not start; its message stands above")
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        if self._listener is not None:
            await self._listener
        await self._process.wait()

    async def send(self, attempt: int, request: Mapping[str, Any]) -> Reply:
        """Never raises for a failed call: the reply's verdict says what happened."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[attempt] = future
        try:
            await self._write({"attempt": attempt, "request": request})
            return await future
        except (BrokenPipeError, ConnectionResetError):
            return Reply("unknown", problem="the courier of paid calls died")
        finally:
            del self._replies[attempt]

    async def _write(self, value: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        await self._process.stdin.drain()

    async def _line(self) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        return await self._process.stdout.readline()

    async def _listen(self) -> None:
        while line := await self._line():
            entry = json.loads(line)
            self._replies[entry["attempt"]].set_result(Reply(**entry["reply"]))
        for future in self._replies.values():
            if not future.done():
                future.set_result(Reply("unknown", problem="the courier of paid calls died"))


async def former_replies(run_dir: Path, patience_s: float) -> dict[int, Reply]:
    """What a killed run's courier wrote down, by attempt; waits while it is still at work.

    An attempt that it was about to send, but whose reply it never wrote, is ``unknown``; one that
    it never began is absent.
    """
    await _until_free(run_dir / LOCK, patience_s)
    replies: dict[int, Reply] = {}
    try:
        lines = (run_dir / JOURNAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # its last line, cut off with the machine's power
        lost = Reply("unknown", problem="the reply was lost when the courier was killed")
        known = replies.get(entry["attempt"], lost)
        replies[entry["attempt"]] = Reply(**entry["reply"]) if "reply" in entry else known
    return replies


async def _until_free(path: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise RunFailed(
                        "paid calls of the former run are still under way; try again in a minute"
                    ) from None
            await asyncio.sleep(0.2)
