"""`subprocess.Popen` that has Python's own modules forked where a zygote knows them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLACE = "SURELOCAL_TEST_FORKS"
KINDS = {
    "runner.engines.process.host": "engine",
    "runner.engines.accepting": "engine",
    "escalation.send.courier": "courier",
    "runner.cli.main": "command",
}
# What the engine's libraries read while they are imported: a process with others starts by itself.
READ_AT_IMPORT = ("CUDA_", "HF_", "MKL_", "OMP_", "TORCH", "TRANSFORMERS_", "VLLM_", "XGRAMMAR_")
_READ_LATER = "VLLM_CPU_KVCACHE_SPACE"
_UNUSUAL = ("preexec_fn", "executable", "shell", "gid", "gids", "uid")
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Tried on CPython 3.11 to 3.14, whose `_execute_child` has these names."""

    _status = -1
    """A file that is read once: the status of a process that was forked."""

    def _execute_child(self, args: Any, executable: Any, *rest: Any) -> None:
        names = (
            *("preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags"),
            *("shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"),
            *("restore_signals", "gid", "gids", "uid", "umask", "start_new_session"),
        )
        given = dict(zip(names, rest, strict=False), executable=executable)
        if not self._forked(args, given):
            super()._execute_child(args, executable, *rest)  # type: ignore[misc]

    def _forked(self, args: Any, given: Mapping[str, Any]) -> bool:
        kind = _kind(args, given)
        if kind is None:
            return False
        environment = dict(os.environ if given["env"] is None else given["env"])
        own = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        files = [number if file < 0 else file for number, file in enumerate(own)]
        passed = [int(file) for file in given["pass_fds"]]
        order = {
            "asker": os.getpid(),
            "command": [os.fsdecode(one) for one in args[1:]],
            "folder": str(given["cwd"] or os.getcwd()),
            "environment": environment,
            "files": [0, 1, 2, *passed],
            "session": bool(given["start_new_session"]),
            "read": read_at_import(environment),
        }
        status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status.connect(os.path.join(os.environ[PLACE], f"{kind}.sock"))
        socket.send_fds(status, [json.dumps(order).encode()], [*files, *passed])
        if not (pid := int(status.recv(64) or 0)):
            status.close()
            return False
        self.pid, self._status = pid, status.detach()
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[end] for end in ends))  # type: ignore[attr-defined]
        return True

    def _internal_poll(self, _deadstate: Any = None, *rest: Any) -> int | None:
        if self._status < 0:
            return super()._internal_poll(_deadstate, *rest)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            with contextlib.closing(_Held(self._waitpid_lock)):  # type: ignore[attr-defined]
                if self._try_wait(os.WNOHANG)[0]:
                    self._handle_exitstatus(self._ended)  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status < 0:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        self._ended = int(os.read(self._status, 64) or 0)
        return self.pid, self._ended

    def __del__(self, *rest: Any) -> None:
        if self._status < 0:
            super().__del__(*rest)  # type: ignore[misc]
        else:  # no child of this process, which is told to leave none behind
            os.close(self._status)


class _Held:
    def __init__(self, lock: Any) -> None:
        self.close = lock.release


def _kind(args: Any, given: Mapping[str, Any]) -> str | None:
    """Which zygote makes this process; None where it is to start by itself."""
    if PLACE not in os.environ or not isinstance(args, list) or len(args) < 3:
        return None
    kind = KINDS.get(args[2]) if args[:2] == [sys.executable, "-m"] else None
    if args[:2] == [sys.executable, "-c"] and re.search(r"^from \S*vllm", args[2], re.MULTILINE):
        kind = "engine"
    if kind is None:
        return None
    environment = os.environ if given["env"] is None else given["env"]
    if environment.get("PYTHONPATH") != os.environ.get("PYTHONPATH") or PLACE not in environment:
        return None
    if any(given[name] not in (None, False, args[0]) for name in _UNUSUAL):
        return None
    return kind if limits() == _usual() else None


def limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(limit) for limit in _LIMITS]


def _usual() -> list[tuple[int, int]]:
    text = (Path(os.environ[PLACE]) / "limits").read_text("utf-8")
    return [(soft, hard) for soft, hard in json.loads(text)]


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    names = [name for name in environment if name.startswith(READ_AT_IMPORT)]
    return {name: environment[name] for name in names if name != _READ_LATER}


def forked_for(asker: int) -> list[int]:
    """The engines that this process has asked for, the last one first."""
    notes = Path(os.environ.get(PLACE, "")) / "engine"
    lines = notes.read_text("utf-8").splitlines() if notes.exists() else []
    pairs = [line.split() for line in lines]
    return [int(pid) for one, pid in reversed(pairs) if int(one) == asker]


def install() -> None:
    """Once: a worker of pytest's has it from ``sitecustomize`` already."""
    if not hasattr(subprocess.Popen, "_forked"):
        subprocess.Popen = Popen  # type: ignore[misc]
