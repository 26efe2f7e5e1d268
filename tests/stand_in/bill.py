"""What was asked of the stand-in, and what each request would have cost.

A JSONL file with a few lines per request: `received` when its last byte is in, `done` when the
work is over (with the money), `told` when the last piece of the reply is about to leave, and again
where it could not. Each line is one unbuffered append, made before the next step: the file tells
the truth whoever is killed, and no client knows more than the bill.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from .api import Answer
from .wire import Call


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it. `raw` is the body, to the byte."""

    id: str  # the request-id header of the reply
    endpoint: str
    sha256: str
    raw: str
    headers: dict[str, str] = field(repr=False)
    finished: bool = False  # the work is over: `usd` is final
    answered: bool = False  # a well-formed reply went to a client that was still there
    status: int | None = None  # None: no status line was sent
    usd: Decimal = Decimal(0)
    model: str | None = None
    usage: dict[str, Any] | None = None
    fault: str | None = None

    @property
    def text(self) -> str:
        """The user's words, joined: what a test looks for a record's marks in.

        None where there are no messages: the making of a batch has its words in its parts.
        """
        words: list[str] = []
        body = json.loads(self.raw) if self.raw.startswith("{") else {}
        for message in body.get("messages", []):
            content = message["content"]
            blocks = [{"text": content}] if isinstance(content, str) else content
            words += [block["text"] for block in blocks if message["role"] == "user"]
        return "\n".join(words)


class Bill:
    def __init__(self, path: Path) -> None:
        self.path = path

    def received(self, id: str, endpoint: str, call: Call) -> None:
        # A key must not end up in a file, not even in a test's.
        shown = {name: value for name, value in call.headers.items() if name != "authorization"}
        self._write([_received(id, endpoint, call.body, shown)])

    def parts_received(self, endpoint: str, parts: Iterable[tuple[str, str]]) -> None:
        """The parts of a batch, in one write: id, and the request to the byte."""
        self._write(
            _received(id, endpoint, raw.encode("utf-8", "surrogateescape"), {}) for id, raw in parts
        )

    def done(self, *outcomes: tuple[str, int | None, str | None, Answer | None]) -> None:
        """In one write: id, status, the fault's name, and what the work came to."""
        self._write(
            {
                "event": "done", "id": id, "status": status, "fault": fault,
                "usd": str(answer.usd if answer else 0),
                "model": answer.model if answer else None,
                "usage": answer.usage if answer else None,
            }
            for id, status, fault, answer in outcomes
        )  # fmt: skip

    def told(self, id: str, *, answered: bool) -> None:
        self._write([{"event": "told", "id": id, "answered": answered}])

    def requests(self, endpoint: str | None = "messages") -> list[Request]:
        """In order of arrival. `None` stands for every endpoint."""
        rows: dict[str, dict[str, Any]] = {}
        # What follows the last newline is a line that another process is still writing.
        written = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        for line in written:
            entry = json.loads(line)
            if entry.pop("event") == "done":
                entry |= {"finished": True, "usd": Decimal(entry["usd"])}
            rows.setdefault(entry["id"], {}).update(entry)
        found = (Request(**row) for row in rows.values())
        return [request for request in found if endpoint in (None, request.endpoint)]

    def billed(self) -> list[Request]:
        return [request for request in self.requests(None) if request.usd]

    def billed_twice(self) -> dict[str, int]:
        """Bodies that were paid for more than once, by the hash of the first.

        The order of names does not make another body: a client's library may choose it by lane.
        """
        seen: dict[str, list[str]] = {}
        for request in self.billed():
            body = json.dumps(json.loads(request.raw), sort_keys=True)
            seen.setdefault(body, []).append(request.sha256)
        return {hashes[0]: len(hashes) for hashes in seen.values() if len(hashes) > 1}

    def total_usd(self) -> Decimal:
        return sum((request.usd for request in self.requests(None)), Decimal(0))

    def _write(self, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        # Opened anew each time: one write, no buffer to lose, no handle to leak.
        with self.path.open("ab", buffering=0) as file:
            file.write(lines)


def _received(id: str, endpoint: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "event": "received", "id": id, "endpoint": endpoint, "headers": headers,
        "sha256": hashlib.sha256(body).hexdigest(), "raw": body.decode("utf-8", "surrogateescape"),
    }  # fmt: skip
