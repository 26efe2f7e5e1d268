"""The run's end of the courier: starts it, sends through it, and reads what a former one left."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from escalation.courier import JOURNAL, LOCK, MOST_LINE_BYTES
from escalation.replies import Reply
from runner.errors import RunFailed
from runner.foreign_json import MOST_DEPTH, Unreadable, count, one_line, parse
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
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Courier:
        # Not asyncio's own subprocess: that one is killed when the loop comes to a sudden end.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "escalation.courier", str(self._run_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader, self._writer = await _streams(self._process)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._write(self._settings)
        if not await self._reader.readline():
            await self.__aexit__()
            raise RunFailed("the courier of paid calls did not start; its message stands above")
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        if self._listener is not None:
            await self._listener
        await asyncio.to_thread(self._process.wait)

    async def send(self, attempt: int, request: Mapping[str, Any]) -> Reply:
        """Never raises for a failed call: the reply's verdict says what happened."""
        assert self._listener is not None
        if self._listener.done():
            return _DIED
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[attempt] = future
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await self._write({"attempt": attempt, "request": request})
            return await future
        finally:
            del self._replies[attempt]

    async def _write(self, value: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(value).encode() + b"\n")
        await self._writer.drain()

    async def _listen(self) -> None:
        while line := await self._reader.readline():
            attempt, reply = _entry(line)
            if attempt is not None and reply is not None:
                self._resolve(attempt, reply)
        # Gone, before its time if anything is still open: then its journal knows what it sent.
        left, doubt = _journaled(self._run_dir) if self._replies else ({}, False)
        for attempt in self._replies:
            self._resolve(attempt, left.get(attempt, _LOST if doubt else _DIED))

    def _resolve(self, attempt: int, reply: Reply) -> None:
        future = self._replies.get(attempt)
        # Nobody waits for it any more where the run is being stopped; the journal has it.
        if future is not None and not future.done():
            future.set_result(reply)


AROUND = 10  # so deep a reply's body stands in a line
_DIED = Reply("halt", problem="the process that makes the paid calls died; run again to go on")
_LOST = Reply("unknown", problem="the reply was lost when the courier was killed")
_ATTEMPT = re.compile(rb'\s*\{\s*"attempt"\s*:\s*(\d{1,18})\s*[,}]')


async def _streams(
    process: subprocess.Popen[bytes],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """What the process says, and what it is told."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MOST_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, process.stdin
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def former_replies(run_dir: Path, patience_s: float) -> tuple[dict[int, Reply], Reply]:
    """What a killed run's courier wrote down, by attempt, and what is true of any other; waits
    while it is still at work.

    An attempt that it was about to send, but whose reply it never wrote, is ``unknown``; one that
    it never began is ``unsent``, but where a line does not say whose it is.
    """
    await _until_free(run_dir / LOCK, patience_s)
    replies, doubt = _journaled(run_dir)
    return replies, _LOST if doubt else Reply("unsent")


def _journaled(run_dir: Path) -> tuple[dict[int, Reply], bool]:
    """By attempt; and whether there is a line of which it cannot be told whose it is."""
    replies: dict[int, Reply] = {}
    doubt = False
    try:
        journal = (run_dir / JOURNAL).open("rb")
    except FileNotFoundError:
        return {}, False
    with journal:
        for line in journal:
            attempt, reply = _entry(line)
            if attempt is not None:
                replies[attempt] = reply or replies.get(attempt, _LOST)
            elif line.endswith(b"\n"):
                doubt = True
    return replies, doubt


def _entry(line: bytes) -> tuple[int | None, Reply | None]:
    """Whose line it is, and the reply in it: None where it has none. One that cannot be read was
    sent all the same, and is ``unknown``."""
    whose = _ATTEMPT.match(line)
    try:
        entry = parse(
            line, most_bytes=MOST_LINE_BYTES, most_depth=MOST_DEPTH + AROUND, odd_numbers=True
        )
        attempt = count(entry.get("attempt"), 10**18) if isinstance(entry, dict) else None
        if attempt is None or "reply" not in entry:
            return attempt, None
        return attempt, Reply.from_json(entry["reply"])
    except Unreadable as error:
        if whose is None or not line.endswith(b"\n"):
            return None, None  # cut off by a kill: what stands before it is true
        problem = f"the reply that was kept for it cannot be read: {one_line(str(error))}"
        return int(whose[1]), Reply("unknown", problem=problem)


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
