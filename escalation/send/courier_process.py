"""The courier process as seen by the run that started it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from escalation.providers.patience import Patience
from escalation.send.awake import Awake, within
from escalation.send.courier import MOST_LINE_BYTES
from runner.errors import RunFailed


class CourierProcess:
    """Begin with `start`, then `listen`."""

    def __init__(self, run_dir: Path, clock: Awake, patience: Patience) -> None:
        self._clock = clock
        self._patience = patience
        # Not asyncio's own subprocess: that one is killed when the loop comes to a sudden end.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "escalation.send.courier", str(run_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._heard_at = clock.now

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def quiet_s(self) -> float:
        """Seconds since its last line."""
        return self._clock.now - self._heard_at

    async def start(self, settings: Mapping[str, Any]) -> None:
        """Raises RunFailed where it does not come up in time; it is gone then."""
        self._reader, self._writer = await _streams(self._process)
        try:
            await within(self._patience.start_s, self._greeted(settings))
        except TimeoutError:
            await self.kill()
            raise RunFailed(
                f"the courier of paid calls (process {self.pid}) was not ready within "
                f"{self._patience.start_s:g} s, and was ended; run the same command again, and "
                "check the disk of the run directory if that does not help"
            ) from None
        except EOFError:
            await self.kill()
            raise RunFailed(
                "the courier of paid calls did not start; see its message above"
            ) from None

    async def _greeted(self, settings: Mapping[str, Any]) -> None:
        self.write(settings)
        if not await self._reader.readline():
            raise EOFError
        self._heard_at = self._clock.now

    def write(self, value: Mapping[str, Any]) -> None:
        """A line for it, for which nobody waits: it may be stopped, or gone."""
        self._writer.write(json.dumps(value).encode() + b"\n")

    async def listen(self, hear: Callable[[bytes], None]) -> None:
        """Calls ``hear`` with each of its lines until it exits."""
        while (line := await self._reader.readline()).endswith(b"\n"):
            self._heard_at = self._clock.now
            hear(line)

    def close(self) -> None:
        """Closes its input: it completes the calls under way and exits."""
        self._writer.close()

    def end(self) -> None:
        """Kills it; its journal says what it sent."""
        self._process.kill()

    async def gone(self) -> bool:
        """Waits for it to exit; returns whether it did in time."""
        try:
            await asyncio.to_thread(self._process.wait, self._patience.end_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    async def kill(self) -> None:
        self.end()
        self._writer.close()
        await self.gone()


async def _streams(
    process: subprocess.Popen[bytes],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams of the process's output and input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MOST_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    # A reader's protocol, for a pipe that is only written to: asyncio's documents have no other
    # that makes `drain` wait.
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), process.stdin
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)
