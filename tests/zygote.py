"""Couriers that start at once: forks of one process that has the SDKs imported already.

A courier takes a second and a half to import the SDKs, and most tests that send something start
one. Here it is still a process of its own that runs the same code with the same lines; only the
imports are shared. `test_courier.py` and every run that is a process of its own start a courier as
users do.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import Any

__all__ = ["PIPE", "Popen", "TimeoutExpired"]

IMPORTED = (
    "anthropic",
    "openai",
    "httpx2",
    "escalation.providers.anthropic",
    "escalation.providers.openai",
)
MOST_BYTES = 1 << 20


class Popen:
    """What a courier's owner needs of `subprocess.Popen`."""

    def __init__(self, command: Iterable[str], **options: Any) -> None:
        sys.audit("subprocess.Popen", *command)
        assert options == {"stdin": PIPE, "stdout": PIPE, "start_new_session": True}
        _, dash_m, module, *arguments = command
        assert dash_m == "-m"
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        told = {
            "module": module,
            "arguments": arguments,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
        }
        self.pid = _zygote().fork(told, [theirs_in, theirs_out, 2])
        os.close(theirs_in)
        os.close(theirs_out)
        self._ended = os.pidfd_open(self.pid)
        self.stdin = os.fdopen(ours_in, "wb", buffering=0)
        self.stdout = os.fdopen(ours_out, "rb", buffering=0)

    def poll(self) -> int | None:
        return 0 if select.select([self._ended], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._ended], [], [], timeout)[0]:
            raise TimeoutExpired("courier", timeout or 0)
        return 0

    def kill(self) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._ended, signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._ended)


class _Zygote:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.zygote", str(theirs.fileno())]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=root, start_new_session=True
        )
        theirs.close()

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)

    def fork(self, told: Mapping[str, Any], files: list[int]) -> int:
        """The id of the new process, which has these files as 0, 1 and 2."""
        socket.send_fds(self._socket, [json.dumps(told).encode()], files)
        return int(self._socket.recv(64))


_started: list[_Zygote] = []


def _zygote() -> _Zygote:
    if not _started:
        _started.append(_Zygote())
    return _started[0]


def close() -> None:
    """The couriers that are at work go on."""
    while _started:
        _started.pop().close()


def _children(orders: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Forks for each order; returns in the child, with its order, or at the end, with nothing."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    while True:
        told, files, _, _ = socket.recv_fds(orders, MOST_BYTES, 3)
        if not told:
            return None
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders.close()
            return json.loads(told), files
        orders.send(str(child).encode())
        for file in files:
            os.close(file)


def main() -> None:
    for name in IMPORTED:
        __import__(name)
    gc.freeze()  # what is shared stays shared
    found = _children(socket.socket(fileno=int(sys.argv[1])))
    if found is None:
        return
    told, files = found
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = [told["module"], *told["arguments"]]
    runpy.run_module(told["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
