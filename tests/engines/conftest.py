"""The three local engines on the demo model, each loaded once for all modules here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from runner.engines.transformers.engine import TransformersEngine
from runner.engines.vllm.engine import VllmEngine
from runner.job import Local
from runner.types import Engine
from tests.engines.asking import CPU, KEY, KEY_ENV, MODEL, Server


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server starts while the other engines load; `server` waits for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The `vllm` command asks for a distribution of that name, which the CPU build is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL]
    command += ["--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--generation-config", "vllm"]
    command += ["--logprobs-mode", "processed_logprobs", "--max-num-seqs", "64"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, **CPU, "VLLM_API_KEY": KEY}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            # The engine core is a process of its own, of the same session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def server_url(server_process: str) -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urlopen(f"{server_process}/health", timeout=5):
                return f"{server_process}/v1"
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server did not start within two minutes")


@pytest.fixture
def server(server_url: str, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv(KEY_ENV, KEY)
    return Server(server_url)


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VllmEngine]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    arguments = {"dtype": "float32", "max_num_seqs": 64}
    engine = VllmEngine(MODEL, Local(model=MODEL, engine_args=arguments, cpu_threads=1))
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture(scope="session")
def transformers_engine() -> Iterator[TransformersEngine]:
    local = Local(model=MODEL, engine_args={"dtype": "float32"}, cpu_threads=1)
    engine = TransformersEngine(MODEL, local)
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture(params=["vllm", "transformers", "server"])
def engine(request: pytest.FixtureRequest) -> Engine:
    names = {"vllm": "vllm_engine", "transformers": "transformers_engine", "server": "server"}
    made: Engine = request.getfixturevalue(names[request.param])
    return made
