"""Reads the lines of a courier's journal and output, as strictly as provider replies."""

from __future__ import annotations

import re
from pathlib import Path

from escalation.providers.protocol import Reply
from escalation.send.courier import JOURNAL, MOST_LINE_BYTES
from runner.formats.foreign_json import MOST_DEPTH, Unreadable, count, one_line, parse

AROUND = 2  # so deep a reply's body stands in a line: what is too deep live is so here
LOST = Reply("unknown", problem="the reply was lost when the courier was killed")
_ATTEMPT = re.compile(rb'\s*\{\s*"attempt"\s*:\s*(\d{1,18})\s*[,}]')


def journaled(run_dir: Path) -> tuple[dict[int, Reply], bool]:
    """The replies by attempt, and whether any line cannot be attributed to an attempt."""
    replies: dict[int, Reply] = {}
    doubt = False
    try:
        journal = (run_dir / JOURNAL).open("rb")
    except FileNotFoundError:
        return {}, False
    with journal:
        for line in journal:
            attempt, reply = entry_of(line)
            if attempt is not None:
                replies[attempt] = reply or replies.get(attempt, LOST)
            elif line.endswith(b"\n"):
                doubt = True
    return replies, doubt


def entry_of(line: bytes) -> tuple[int | None, Reply | None]:
    """The line's attempt and its reply, each None if absent. An unreadable reply is ``unknown``,
    since its request was sent."""
    whose = _ATTEMPT.match(line)
    try:
        entry = parse(
            line, most_bytes=MOST_LINE_BYTES, most_depth=MOST_DEPTH + AROUND, odd_numbers=True
        )
        attempt = count(entry.get("attempt"), 10**18) if isinstance(entry, dict) else None
        if attempt is None or "reply" not in entry:
            return attempt, None
        return attempt, Reply.from_json(entry["reply"])
    except Unreadable as error:
        if whose is None or not line.endswith(b"\n"):
            return None, None  # cut off by a kill: what stands before it is true
        problem = f"the reply that was kept for it cannot be read: {one_line(str(error))}"
        return int(whose[1]), Reply("unknown", problem=problem)
