"""A reply that came as a stream of events, put together: some servers and proxies send no other."""

from __future__ import annotations

from typing import Any

from runner.formats.foreign_json import Unreadable, parse

EVENTS = "text/event-stream"
_TEXTS = ("content", "reasoning", "reasoning_content")


def put_together(content: bytes) -> dict[str, Any]:
    """The ``chat.completion`` of its chunks, or the error among them.

    Raises:
        Unreadable: a chunk is, or the stream ended before the answer did.
    """
    choices: dict[int, _Choice] = {}
    usage = None
    for line in content.decode("utf-8", "replace").split("\n"):
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if not data or data == "[DONE]":
            continue
        chunk = parse(data, odd_numbers=True)
        if not isinstance(chunk, dict):
            raise Unreadable("a stream of what are no chunks")
        if chunk.get("error"):
            return {"error": chunk["error"]}
        usage = chunk.get("usage") or usage
        parts = chunk.get("choices")
        for part in parts if isinstance(parts, list) else ():
            index = part.get("index", 0) if isinstance(part, dict) else None
            if not isinstance(index, int):
                raise Unreadable("a stream with a choice that is none")
            choices.setdefault(index, _Choice()).add(part)
    if not all(choice.finish_reason for choice in choices.values()):
        raise Unreadable("a stream that ended before its answer did")
    return {"choices": [choices[i].whole() for i in sorted(choices)], "usage": usage}


class _Choice:
    def __init__(self) -> None:
        self.finish_reason: Any = None
        self._texts: dict[str, list[str]] = {}
        self._logprobs: list[Any] = []

    def add(self, part: dict[str, Any]) -> None:
        delta, logprobs = part.get("delta") or part.get("message"), part.get("logprobs")
        for name in _TEXTS:
            if isinstance(delta, dict) and isinstance(piece := delta.get(name), str):
                self._texts.setdefault(name, []).append(piece)
        if isinstance(logprobs, dict) and isinstance(entries := logprobs.get("content"), list):
            self._logprobs += entries
        self.finish_reason = part.get("finish_reason") or self.finish_reason

    def whole(self) -> dict[str, Any]:
        return {
            "message": {name: "".join(pieces) for name, pieces in self._texts.items()},
            "logprobs": {"content": self._logprobs},
            "finish_reason": self.finish_reason,
        }
