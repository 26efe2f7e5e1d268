"""What forks: ``python -m tests.forks.zygote FOLDER``, for as long as its stdin is open.

In the folder is a socket for each kind of process. The first who calls there has a zygote made,
which imports the libraries of its kind; each caller gets the number of a new process, and later its
status.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tests.forks.client import KINDS, limits, read_at_import

MOST_BYTES = 1 << 18
MOST_FILES = 16
ABOVE = 512
"""Files are brought here while they get the numbers that they are to have."""

IMPORTS = {
    "engine": ("runner.engines.vllm.engine", "runner.engines.transformers.engine"),
    "courier": ("httpx2", "escalation.providers.bodies"),
    "command": (
        *("runner.api", "runner.pipeline.preflight", "runner.pipeline.run", "runner.cli.serve"),
        *("runner.cli.escalate", "runner.results", "runner.status", "jsonschema", "numpy"),
    ),
}


@contextlib.contextmanager
def zygotes(folder: Path) -> Iterator[None]:
    """They stand ready there; processes that they have made go on."""
    command = [sys.executable, "-m", __name__, str(folder)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "limits").write_text(json.dumps(limits()), "utf-8")
    listeners = {}
    for kind in set(KINDS.values()):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(folder / f"{kind}.sock"))
        listener.listen(64)
        listeners[listener] = kind
    os.write(1, b"\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listeners:
        ready, _, _ = select.select([0, *listeners], [], [])
        if 0 in ready:
            return
        kind = listeners.pop(ready[0])
        if os.fork() == 0:
            _load(kind)
            _Zygote(kind, ready[0], folder / kind).serve()
        ready[0].close()
    os.read(0, 1)


def _load(kind: str) -> None:
    gc.disable()
    if kind == "engine":
        from runner.engines.vllm.setup import prepare
        from runner.job import Local

        with contextlib.suppress(Exception):  # it is not installed: each process says so
            prepare(Local(model="none"))
    if kind == "courier":
        from escalation.providers.chosen import named
        from runner.job.providers import PROVIDERS

        for entry in PROVIDERS.values():
            importlib.import_module(named(entry.wire).sdk.package)
    for name in IMPORTS[kind]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()


class _Zygote:
    def __init__(self, kind: str, listener: socket.socket, notes: Path) -> None:
        self._read = read_at_import(STARTED_WITH) if kind == "engine" else None
        self._listener = listener
        self._notes = notes
        self._callers: dict[int, socket.socket] = {}

    def serve(self) -> NoReturn:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        while True:
            ready, _, _ = select.select([0, woken, self._listener], [], [])
            if woken in ready:
                os.read(woken, 1 << 10)
                self._reap()
            if self._listener in ready:
                self._fork()
            if 0 in ready:
                os._exit(0)

    def _fork(self) -> None:
        caller, _ = self._listener.accept()
        data, files, _, _ = socket.recv_fds(caller, MOST_BYTES, MOST_FILES)
        order = json.loads(data or "null")
        if order is None:  # it was killed before it could say what it wants
            caller.close()
            return
        if self._read is not None and order["read"] != self._read:
            caller.send(b"0")
            caller.close()
        elif (child := os.fork()) == 0:
            _become(order, files)
        else:
            self._callers[child] = caller
            with self._notes.open("a", encoding="utf-8") as notes:
                notes.write(f"{order['asker']} {child}\n")
            caller.send(str(child).encode())
        for file in files:
            os.close(file)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                caller = self._callers.pop(ended[0], None)
                if caller is not None:  # else a library's own
                    with caller, contextlib.suppress(OSError):
                        caller.send(str(ended[1]).encode())


def _become(order: dict[str, Any], files: list[int]) -> NoReturn:
    """This process is the one that was asked for; it ends as Python ends."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if order["session"]:
        os.setsid()
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, ABOVE) for file in files]
    os.closerange(3, ABOVE)
    for file, number in zip(high, order["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    how, what, *arguments = order["command"]
    sys.argv = [how if how == "-c" else what, *arguments]
    status = 0
    try:
        if how == "-c":
            exec(what, {"__name__": "__main__"})
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else bool(ended.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    _end(status)


def _end(status: int) -> NoReturn:
    """As an interpreter's end, but for taking the libraries apart."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


STARTED_WITH = dict(os.environ)

if __name__ == "__main__":
    main()
