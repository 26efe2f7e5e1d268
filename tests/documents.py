"""The documents as data: their blocks, commands, links and anchors.

In a ```console block a line that begins with ``$ `` is a command and what follows is its output.
There a line ``…`` stands for any lines, ``…`` within a line for anything, a number for any number.
A block that is not run has ``<!-- not run: REASON -->`` before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
# Generated from the code, and held to it by a test of its own.
GENERATED = DOCS / "reference"

_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_HEADING = re.compile(r"#{1,6} (.+)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. ``line`` is its first line in the file, ``not_run`` the reason given."""

    path: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a shell takes it, and the output that the document shows."""

    text: str
    shown: str


def documents() -> list[Path]:
    """README and everything in docs/ that a person wrote: the tutorial first, then its how-tos."""
    written = [p for p in sorted(DOCS.rglob("*.md")) if GENERATED not in p.parents]
    rest = [p for p in written if p != TUTORIAL and p.parent.name != "how-to"]
    return [TUTORIAL, *(p for p in written if p.parent.name == "how-to"), *rest, ROOT / "README.md"]


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document; one within a list is taken without its indentation."""
    found, lines = list[Block](), path.read_text("utf-8").splitlines()
    above, start = "", -1
    for n, line in enumerate(lines):
        bare = line.strip()
        if not bare.startswith("```"):
            above = bare if bare and start < 0 else above
        elif start < 0:
            start = n
        else:
            indent = len(lines[start]) - len(lines[start].lstrip())
            text = "".join(f"{each[indent:]}\n" for each in lines[start + 1 : n])
            reason = _NOT_RUN.fullmatch(above)
            language = lines[start].strip().removeprefix("```")
            found.append(Block(path, start + 2, language, text, reason and reason[1]))
            above, start = "", -1
    assert start < 0, f"{path}:{start + 1}: a block that does not end"
    return found


def all_blocks(*languages: str) -> list[Block]:
    return [b for path in documents() for b in blocks(path) if b.language in languages]


def commands(block: Block) -> list[Command]:
    """The commands of a console block; one goes on behind a ``\\`` at a line's end."""
    given = list[list[str]]()
    going_on = False
    for line in block.text.splitlines():
        if going_on:
            given[-1][0] += f" {line.strip()}"
        elif line.startswith("$ "):
            given.append([line.removeprefix("$ ")])
        elif given:
            given[-1].append(line)
        going_on = line.endswith("\\") and (going_on or line.startswith("$ "))
        if going_on:
            given[-1][0] = given[-1][0].rstrip("\\ ")
    return [Command(first, "\n".join(rest).strip()) for first, *rest in given]


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", path.read_text("utf-8"))


def code_spans(path: Path) -> Iterator[str]:
    """What stands between single backticks, as on one line."""
    for found in _CODE.finditer(prose(path)):
        yield " ".join(found[1].replace("\\|", "|").split())


def links(path: Path) -> Iterator[str]:
    yield from (found[1] for found in _LINK.finditer(prose(path)))


def anchors(path: Path) -> set[str]:
    """What a link may point to in a document, as GitHub makes it of its headings."""
    headings = [_HEADING.fullmatch(line) for line in prose(path).splitlines()]
    return {_slug(found[1]) for found in headings if found}


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def shown_in(shown: str, output: str) -> bool:
    """Whether the output that a document shows is what came, however its lines are wrapped."""
    at, pieces = 0, re.split(r"(?m)^…$", shown)
    for n, piece in enumerate(pieces):
        pattern = "".join(map(_form, re.findall(r"…|\d+(?:[.,:]\d+)*|\s+|\S", piece.strip())))
        begin = r"\A\s*" if n == 0 else ""
        end = r"\s*\Z" if n == len(pieces) - 1 and pattern else ""
        found = re.compile(begin + pattern + end).search(output[at:])
        if shown and found is None:
            return False
        at += found.end() if found else 0
    return True


def _form(part: str) -> str:
    if part == "…":
        return ".*?"
    if part.isspace():
        return r"\s+"
    return r"[\d.,:]+" if part[0].isdigit() else re.escape(part)
