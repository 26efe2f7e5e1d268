"""A server on this machine, started, waited for and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engines.work import CPU, MODEL, MODEL_ARGS, QUIET, flags

PORT = 8137
URL = f"http://127.0.0.1:{PORT}"
READY_S = 180
STOP_S = 60
VLLM = [
    sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL,
    *flags(MODEL_ARGS), "--port", str(PORT), "--uvicorn-log-level", "error",
]  # fmt: skip


@contextmanager
def server(command: Sequence[str]) -> Iterator[None]:
    """Up and answering, until the block is over.

    Raises:
        SystemExit: it does not come up; the last line that it wrote is in the sentence.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=os.environ | CPU | QUIET, stdout=said, stderr=said, start_new_session=True
        )
        try:
            if not _answers(process):
                said.seek(0)
                last = said.read().decode("utf-8", "replace").strip().splitlines()[-1:]
                raise SystemExit(f"{' '.join(command)} does not serve: {''.join(last)}")
            yield
        finally:
            process.terminate()
            process.wait(STOP_S)


def _answers(process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{URL}/health", timeout=1) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False
