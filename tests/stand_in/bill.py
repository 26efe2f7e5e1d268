"""What was asked of the stand-in, and what each request would have cost.

A JSONL file with a few lines per request: `received` when its last byte is in, `done` when the
work is over (with the money), `answered` when the last piece of the reply is about to leave, `left`
where it could not. Each line is one unbuffered append, made before the next step: the file tells
the truth whoever is killed, and no client knows more than the bill.
Readers in any process open it with `Bill(path)`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from .wire import Call

# USD per million tokens: input, output, 5-minute cache write, 1-hour cache write, cache read.
_ROWS: Final[dict[str, str]] = {
    "claude-haiku-5-5": "0.10 0.50 0.125 0.20 0.01",
    "claude-sonnet-5-5": "2 10 2.50 4 0.10",
    "claude-opus-5-5": "4 20 5 8 0.20",
    "claude-fable-5-2": "8 40 10 16 0.20",
    "claude-fable-5-1": "10 50 12.50 20 0.25",
    "claude-sonnet-5": "2 10 2.50 4 0.20",
    "claude-opus-5": "5 25 6.25 10 0.50",
    "claude-opus-4-8": "5 25 6.25 10 0.50",
    "claude-opus-4-7": "5 25 6.25 10 0.50",
    "claude-opus-4-6": "5 25 6.25 10 0.50",
    "claude-opus-4-5": "5 25 6.25 10 0.50",
    "claude-sonnet-4-6": "3 15 3.75 6 0.30",
    "claude-sonnet-4-5": "3 15 3.75 6 0.30",
    "claude-haiku-4-5": "1 5 1.25 2 0.10",
}
# A prompt longer than this is charged at the second row, all of its tokens, the output too.
_LONG: Final[dict[str, tuple[int, str]]] = {
    "claude-haiku-5-5": (100_000, "0.50 2.50 0.625 1.00 0.05"),
}
_DATED: Final[dict[str, str]] = {
    "claude-haiku-4-5-20251001": "claude-haiku-4-5",
    "claude-opus-4-5-20251101": "claude-opus-4-5",
    "claude-sonnet-4-5-20250929": "claude-sonnet-4-5",
}
MODELS: Final[frozenset[str]] = frozenset(_ROWS) | frozenset(_DATED)


def price_usd(model: str, usage: Mapping[str, Any]) -> Decimal:
    """The exact price of one answer, from the `usage` object as it goes over the wire."""
    model = _DATED.get(model, model)
    fresh, read = int(usage["input_tokens"]), int(usage["cache_read_input_tokens"])
    split = usage["cache_creation"]
    short, hour = int(split["ephemeral_5m_input_tokens"]), int(split["ephemeral_1h_input_tokens"])
    row = _ROWS[model]
    if model in _LONG and fresh + short + hour + read > _LONG[model][0]:
        row = _LONG[model][1]
    counts = (fresh, int(usage["output_tokens"]), short, hour, read)
    micro = sum((n * Decimal(p) for n, p in zip(counts, row.split(), strict=True)), Decimal(0))
    where = Decimal("1.1") if usage.get("inference_geo") == "us" else 1
    return micro * where / 1_000_000 / (2 if usage.get("service_tier") == "batch" else 1)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it. `raw` is the body, to the byte."""

    id: str  # the request-id header of the reply
    at: float
    endpoint: str
    marker: str
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
    path: str = ""  # what a request without a body asked for

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def text(self) -> str:
        """The user's words, joined: what a test looks for a record's marks in.

        None where there are no messages: the making of a batch has its words in its parts.
        """
        words: list[str] = []
        body = self.body if self.raw.startswith("{") else {}
        for message in body.get("messages", []):
            content = message["content"]
            blocks = [{"text": content}] if isinstance(content, str) else content
            words += [block["text"] for block in blocks if message["role"] == "user"]
        return "\n".join(words)


class Bill:
    def __init__(self, path: Path) -> None:
        self.path = path

    def received(self, id: str, endpoint: str, marker: str, call: Call) -> None:
        # A key must not end up in a file, not even in a test's.
        shown = {name: value for name, value in call.headers.items() if name != "authorization"}
        self._append(
            event="received",
            id=id,
            at=time.time(),
            endpoint=endpoint,
            marker=marker,
            sha256=hashlib.sha256(call.body).hexdigest(),
            raw=call.body.decode("utf-8", "surrogateescape"),
            headers=shown,
            path=call.path,
        )

    def done(
        self,
        id: str,
        *,
        status: int | None,
        fault: str | None,
        usd: Decimal = Decimal(0),
        model: str | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> None:
        self._append(
            event="done", id=id, status=status, fault=fault, usd=str(usd), model=model, usage=usage
        )

    def answered(self, id: str) -> None:
        self._append(event="answered", id=id)

    def parts_received(self, endpoint: str, parts: Iterable[tuple[str, str, str]]) -> None:
        """The parts of a batch, in one write: id, marker, and the request to the byte."""
        shared = {"event": "received", "at": time.time(), "endpoint": endpoint, "headers": {}}
        self._write(
            shared | {"id": id, "marker": marker, "raw": raw, "sha256": _sha256(raw)}
            for id, marker, raw in parts
        )

    def parts_done(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """In one write: what `done` takes, and the id."""
        self._write({"event": "done", **part, "usd": str(part["usd"])} for part in parts)

    def left(self, id: str) -> None:
        self._append(event="left", id=id)

    def requests(self, endpoint: str | None = "messages") -> list[Request]:
        """In order of arrival. `None` stands for every endpoint."""
        rows: dict[str, dict[str, Any]] = {}
        for line in self._lines():
            entry = json.loads(line)
            event, row = entry.pop("event"), rows.setdefault(entry["id"], {})
            row.update(entry)
            if event == "done":
                row.update(finished=True, usd=Decimal(entry["usd"]))
            elif event in ("answered", "left"):
                row.update(answered=event == "answered")
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
            seen.setdefault(json.dumps(request.body, sort_keys=True), []).append(request.sha256)
        return {hashes[0]: len(hashes) for hashes in seen.values() if len(hashes) > 1}

    def total_usd(self) -> Decimal:
        return sum((request.usd for request in self.requests(None)), Decimal(0))

    def _append(self, **entry: Any) -> None:
        self._write([entry])

    def _write(self, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        # Opened anew each time: one write, no buffer to lose, no handle to leak.
        with self.path.open("ab", buffering=0) as file:
            file.write(lines)

    def _lines(self) -> list[bytes]:
        if not self.path.exists():
            return []
        # What follows the last newline is a line that another process is still writing.
        return self.path.read_bytes().split(b"\n")[:-1]


def _sha256(raw: str) -> str:
    return hashlib.sha256(raw.encode("utf-8", "surrogateescape")).hexdigest()
