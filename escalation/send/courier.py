"""The process that makes the paid calls, so that a killed run loses none of their answers.

A killed run (``kill -9``, out of memory, a GPU driver fault) would also lose the replies under way,
which are paid for. This small process therefore makes the calls, in a session that outlives the
run: when its input ends it waits for the calls under way, writes down their replies and exits.
The next run on the same directory reads them.

    stdin   one line of settings, with the ``module:class`` of the `Wire` that sends, then one line
            a request: {"attempt": 7, "request": {…}}
    stdout  {"attempt": 7, "sent": true} as it is sent, {"attempt": 7, "reply": {…}} when it ended,
            {"beat": true} every few seconds: this process runs, and the disk takes what it writes
    journal the same two lines of an attempt, each before the run is told; the first with the
            SHA-256 of the request's body

`python -m escalation.send.courier` runs it; `escalation.send.courier_client` is the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from escalation.providers.chosen import named
from escalation.providers.protocol import Reply, Wire
from escalation.providers.request_bytes import mark_of
from runner.formats.foreign_json import one_line
from runner.private import opener

JOURNAL = "courier.jsonl"
LOCK = "courier.lock"
MOST_LINE_BYTES = 1 << 28
BEAT_S = CLOSE_S = 5.0
_PIECE_BYTES = 1 << 16


class _Journal:
    def __init__(self, path: Path) -> None:
        # Appending: what a former courier left is not ours to cut off, but for half a line, which
        # says nothing and would swallow our first one.
        self._file: IO[str] = open(path, "a", encoding="utf-8", opener=opener)  # noqa: SIM115
        if (whole := _whole_lines(path)) < path.stat().st_size:
            os.truncate(path, whole)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # or the file itself could be gone after a power cut
        os.close(folder)
        self._thread = ThreadPoolExecutor(1)
        self._begun = self._ended = 0

    async def write(self, entry: dict[str, Any]) -> None:
        """On the disk when it returns. A disk may take seconds, in which other calls go on."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._write, json.dumps(entry) + "\n")

    def _write(self, line: str) -> None:
        self._begun += 1
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._ended += 1

    def writing(self) -> int | None:
        """Which line the disk is taking now, if it is."""
        return self._begun if self._begun != self._ended else None


def _whole_lines(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    with path.open("rb") as file:
        at = file.seek(0, os.SEEK_END)
        while at:
            start = max(0, at - _PIECE_BYTES)
            file.seek(start)
            if (end := file.read(at - start).rfind(b"\n")) >= 0:
                return start + end + 1
            at = start
    return 0


def _wire(settings: dict[str, Any]) -> Wire:
    wire: Wire = named(settings["wire"])(
        settings["address"], settings["key_env"], settings["timeout_s"], settings["concurrency"]
    )
    return wire


class _Run:
    """The run that reads our replies, as long as it lives."""

    def __init__(self) -> None:
        # Whatever else prints in this process goes to stderr, not in between the replies.
        self._pipe = os.dup(1)
        with contextlib.suppress(OSError):  # there may be no stderr
            os.dup2(2, 1)

    def tell(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        # A run that was killed no longer reads; the journal has the reply.
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._pipe, line) :]

    def reads(self) -> bool:
        """Whether there is room in its pipe: a run that is stopped reads nothing."""
        return bool(select.select([], [self._pipe], [], 0)[1])


async def _beat(run: _Run, journal: _Journal, every_s: float) -> None:
    """Sends a heartbeat, except while writing one line takes longer than a whole beat."""
    former = None
    while True:
        await asyncio.sleep(every_s)
        writing = journal.writing()
        if (writing is None or writing != former) and run.reads():
            run.tell({"beat": True})
        former = writing


async def _carry(wire: Wire, journal: _Journal, run: _Run, order: dict[str, Any]) -> None:
    attempt = order["attempt"]
    sent = {"attempt": attempt, "sent": True}
    try:
        await journal.write(sent | {"sha256": mark_of(order["request"])})
    except OSError as error:
        # Sent but not written down, it could be sent twice.
        reply = Reply("halt", problem=f"the run directory cannot be written: {error.strerror}")
    else:
        run.tell(sent)
        reply = await _sent(wire, order["request"])
    entry = {"attempt": attempt, "reply": reply.as_json()}
    with contextlib.suppress(OSError):  # a full disk: the run can still be told
        await journal.write(entry)
    run.tell(entry)


async def _sent(wire: Wire, request: dict[str, Any]) -> Reply:
    try:
        return await wire.send(request)
    except Exception as error:
        return Reply("unknown", problem=one_line(f"{type(error).__name__}: {error}"))


async def serve(run_dir: Path) -> None:
    """Carries requests until the input ends and the last reply is written down."""
    run = _Run()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MOST_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = await reader.readline()
    if not first.endswith(b"\n"):
        return  # the run was killed before it could say anything
    settings = json.loads(first)
    wire = _wire(settings)
    journal = _Journal(run_dir / JOURNAL)
    run.tell({"ready": True})
    beating = asyncio.create_task(_beat(run, journal, settings.get("beat_s", BEAT_S)))
    calls: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        if not line.endswith(b"\n"):
            break  # cut off by a kill in the middle of writing it: never to be sent
        call = asyncio.create_task(_carry(wire, journal, run, json.loads(line)))
        calls.add(call)
        call.add_done_callback(calls.discard)
    await asyncio.gather(*calls)
    beating.cancel()
    with contextlib.suppress(TimeoutError):  # nothing hangs on how a connection ends
        await asyncio.wait_for(wire.aclose(), CLOSE_S)


def main() -> None:
    run_dir = Path(sys.argv[1])
    with open(run_dir / LOCK, "a", opener=opener) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))  # for a person who looks for the process
        lock.flush()
        asyncio.run(serve(run_dir))


if __name__ == "__main__":
    main()
