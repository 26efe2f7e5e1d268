"""Makes .venv ready: `make setup`. The standard library alone: nothing else is there yet.

The stack is `cpu` or `gpu` (vLLM, from a pinned list in requirements/), or `transformers` where
vLLM has no build. A stamp in .venv says what it was made from, so a second call has nothing to do,
and after an interrupted one, which left no stamp, the next goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".surelocal-ready"
STACK = VENV / ".surelocal-stack"
LOG = VENV / "setup.log"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
COST = {
    "cpu": "2 to 5 minutes and 3 GB",
    "gpu": "some minutes, most of them for CUDA's libraries",
    "transformers": "some minutes",
}


class SetupError(Exception):
    """One sentence for the person who typed `make`; setup ends with status 1."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def has_gpu() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def pick_stack() -> str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        here = f"{platform.system()} on {platform.machine()}"
        say(f"vLLM's pinned lists are for Linux on x86_64; {here} gets transformers instead")
        return "transformers"
    return "gpu" if has_gpu() else "cpu"


def made_from(stack: str) -> str:
    """Everything that, once changed, makes an environment stale, as one line."""
    files = [ROOT / "pyproject.toml", ROOT / "requirements" / f"{stack}.txt"]
    content = b"\0".join(path.read_bytes() for path in files if path.exists())
    return f"{stack} {VERSION} {hashlib.sha256(content).hexdigest()}"


def is_ready(asked: str) -> bool:
    # `auto` takes the stamp's own stack: nvidia-smi alone can take seconds.
    try:
        stamp = STAMP.read_text("utf-8")
    except OSError:
        return False
    stack = stamp.split()[0] if asked == "auto" else asked
    return PYTHON.exists() and stamp == made_from(stack)


def run(command: list[str], doing: str) -> None:
    """Runs it quietly; says now and then that it lives, and shows the log's end where it fails."""
    began, told = time.monotonic(), 0.0
    with LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                passed = time.monotonic() - began
                if passed - told >= 20:
                    told = passed
                    say(f"  … {doing}, {passed:.0f} s so far")
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        print("\n".join(LOG.read_text("utf-8", "replace").splitlines()[-15:]), file=sys.stderr)
        raise SetupError(
            f"{doing} failed: the end of its output stands above, all of it in .venv/{LOG.name}; "
            "once that is fixed, the same command goes on from here."
        )


def pip(doing: str, *arguments: str) -> None:
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    run([str(PYTHON), "-m", "pip", "install", *quiet, *arguments], doing)


def works(*command: str) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, check=False).returncode
    except OSError:
        return False


def make_venv(stack: str) -> None:
    """Keeps what an interrupted call left, unless another Python or another stack made it."""
    wanted = f"{stack} {VERSION}"
    made = STACK.read_text("utf-8") if STACK.exists() else wanted
    same = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    same_python = works(str(PYTHON), "-c", same)
    if made != wanted or not same_python:
        if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
            raise SetupError(
                "this Python comes without its venv module; on Debian and Ubuntu "
                "`apt install python3-venv` brings it."
            )
        import venv

        say("making .venv anew" if VENV.exists() else "making .venv")
        try:
            venv.create(VENV, clear=True, with_pip=True, symlinks=True)
        except (OSError, subprocess.CalledProcessError) as failure:
            raise SetupError(f".venv could not be made: {failure}") from failure
    STACK.write_text(wanted, "utf-8")


def forget_torn() -> None:
    """pip writes RECORD last, but takes what a killed call left without one for installed."""
    for folder in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(folder)


def pinned(requirements: Path, name: str) -> str | None:
    lines = requirements.read_text("utf-8").splitlines()
    return next((line for line in lines if line.startswith(f"{name}==")), None)


def lacks(requirement: str) -> bool:
    """True only where pip looked and the version is not there: a dead network is pip's to tell."""
    command = [str(PYTHON), "-m", "pip", "install", "--dry-run", "--no-deps", "--no-input"]
    tried = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    return tried.returncode != 0 and "No matching distribution found" in tried.stderr


def install_pinned(stack: str) -> None:
    requirements = ROOT / "requirements" / f"{stack}.txt"
    torch = pinned(requirements, "torch")
    if not torch or "+" not in torch or not lacks(torch):
        pip("installing", "--no-deps", "-r", str(requirements))
        return
    public = torch.split("+")[0]
    say(f"pip here finds no {torch}, PyTorch's build for the CPU alone.")
    say(f"  {public} comes instead: the same on the CPU, but with CUDA's large libraries.")
    say("  PyTorch's CPU index (see its installation page) in PIP_EXTRA_INDEX_URL avoids that.")
    rest = VENV / "without-torch.txt"
    rest.write_text(requirements.read_text("utf-8").replace(f"{torch}\n", ""), "utf-8")
    pip("installing", "--no-deps", "-r", str(rest))
    pip("installing torch", "--constraint", str(rest), public)


def install(stack: str) -> None:
    if stack == "transformers":
        pip("installing", "-e", ".[transformers,sql,dev]")
        module = "transformers"
    else:
        install_pinned(stack)
        # setuptools is on the list, so this needs no network.
        pip("installing surelocal", "--no-deps", "--no-build-isolation", "-e", ".")
        module = "vllm"
    say(f"trying `import {module}`")
    run([str(PYTHON), "-c", f"import {module}"], f"`import {module}`")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv ready.")
    parser.add_argument("--stack", choices=["auto", *COST], default="auto")
    asked = parser.parse_args().stack
    if is_ready(asked):
        return 0
    began = time.monotonic()
    stack = pick_stack() if asked == "auto" else asked
    say(f"the {stack} stack goes into .venv: {COST[stack]}, once")
    try:
        make_venv(stack)
        STAMP.unlink(missing_ok=True)
        forget_torn()
        install(stack)
        # For some tests alone, which are skipped without it: it says so, and fails nothing.
        subprocess.run([str(PYTHON), str(ROOT / "scripts" / "browser.py")], check=False)
    except SetupError as failure:
        print(f"setup: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    STAMP.write_text(made_from(stack), "utf-8")
    say(f"ready after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    # An older Python may well run this one file, and has to be told.
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"setup: Python {VERSION} is too old, 3.11 is the least: PYTHON=python3.12, say")
    sys.exit(main())
