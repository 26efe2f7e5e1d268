"""Makes requirements/STACK.txt: every distribution that running and working on surelocal takes.

    python scripts/lock.py cpu                versions stay; what pyproject.toml gained is added
    python scripts/lock.py cpu --upgrade      every version may move
    python scripts/lock.py gpu vllm==0.32.0   the same, with a requirement of your own on top

Such a list is complete, so it is installed with `--no-deps`: that is the way to leave something out
which a dependency asks for and the CPU stack cannot live with.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The CPU build asks for these, gets their CUDA builds, and then fails when it is imported.
UNFIT_FOR_CPU = re.compile(r"torchvision|torchaudio|torchcodec|triton|(nvidia|cuda)-.+")
# What vLLM asks for from Python 3.12 on; a list made with 3.11 has to do for it too.
LATER_PYTHONS = ["setuptools>=77,<81", "six"]


def requirements(stack: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = (stack, "transformers", "cluster", "serve", "sql", "dev")
    return [*project["dependencies"], *(each for name in names for each in extras[name])]


def resolve(wanted: list[str], constraints: Path | None) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), *wanted]
        if constraints:
            command += ["--constraint", str(constraints)]
        subprocess.run(command, check=True)
        chosen = json.loads(report.read_text("utf-8"))["install"]
    names = (item["metadata"] for item in chosen)
    return {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in names}


def main() -> int:
    parser = argparse.ArgumentParser(description="Pin everything one stack takes.")
    parser.add_argument("stack", choices=["cpu", "gpu"])
    parser.add_argument("extra", nargs="*", help="further requirements, as pip writes them")
    parser.add_argument("--upgrade", action="store_true", help="let every version move")
    arguments = parser.parse_args()

    target = ROOT / "requirements" / f"{arguments.stack}.txt"
    held = target if target.exists() and not arguments.upgrade else None
    wanted = [*requirements(arguments.stack), *LATER_PYTHONS, *arguments.extra]
    try:
        chosen = resolve(wanted, held)
    except subprocess.CalledProcessError as failure:
        print(f"pip found no set of versions; {target.name} is left as it was.", file=sys.stderr)
        return failure.returncode
    if arguments.stack == "cpu":
        chosen = {name: at for name, at in chosen.items() if not UNFIT_FOR_CPU.fullmatch(name)}
    elif "+cpu" in chosen["torch"]:
        print("pip's configuration here prefers a torch without CUDA: hide it.", file=sys.stderr)
        return 1
    header = [
        f"# Made by `python scripts/lock.py {arguments.stack}` on Python "
        f"{sys.version_info.major}.{sys.version_info.minor}; do not edit by hand.",
        "# Complete: install it in one step, with --no-deps (`make setup` does).",
    ]
    pins = [f"{name}=={chosen[name]}" for name in sorted(chosen)]
    target.write_text("\n".join([*header, *pins]) + "\n", "utf-8")
    print(f"{target.relative_to(ROOT)}: {len(pins)} distributions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
