"""Writes docs/reference from the code: commands, job keys, result rows, errors, the Python face.

    python scripts/make_reference.py            # or `make reference`
    python scripts/make_reference.py --check    # writes nothing; ends with 1 where a page is stale

Nothing in those pages is written by hand: what they say stands beside the thing itself, in its
help, its docstring or the text under it, and a page is fixed there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from reference import commands, errors, job, models, python, results, served  # noqa: E402
from reference.text import LackingError  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Made by `make reference` from the code: fix it there. -->\n\n"
PAGES: dict[str, Callable[[], str]] = {
    "cli.md": commands.page,
    "job.md": job.page,
    "results.md": results.page,
    "errors.md": errors.page,
    "python.md": python.page,
    "serve.md": served.page,
    "models.md": models.page,
}


def written() -> dict[str, str]:
    """File name → what it should hold.

    Raises:
        LackingError: something has no description, and which.
    """
    pages = {name: NOTE + page() for name, page in PAGES.items()}
    return {"README.md": NOTE + _index(pages), **pages, job.SCHEMA: job.schema_text()}


def _index(pages: dict[str, str]) -> str:
    titles = {name: text.partition("\n# ")[2].partition("\n")[0] for name, text in pages.items()}
    listed = "".join(f"- [{title}]({name})\n" for name, title in titles.items())
    return f"# Reference\n\n{listed}"


def stale(folder: Path = FOLDER) -> list[str]:
    """The files that are not as the code gives them now."""
    return [name for name, text in written().items() if _text(folder / name) != text]


def _text(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        old, pages = stale(), written()
    except LackingError as error:
        sys.exit(f"make_reference: {error}")
    if options.check:
        if old:
            sys.exit(f"stale in docs/reference: {', '.join(old)}; run `make reference`")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in old:
        (FOLDER / name).write_text(pages[name], "utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
