"""OpenAI's files, as far as batches need them, under /v1/files.

Endpoints of faults: file_create, file_retrieve, file_content and file_delete.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from . import rows
from .api import Answer, Route, Work
from .chat import Chat
from .problems import Problem, bad_request
from .wire import Call

PATH: Final = "/v1/files"
_BOUNDARY: Final = re.compile(r'boundary="?([^";]+)')
_NAMES: Final = re.compile(rb'\b(name|filename)="([^"]*)"')


@dataclass(slots=True)
class File:
    name: str
    purpose: str
    body: bytes = b""
    lines: list[bytes] | None = None  # of what a batch came to
    id: str = field(default_factory=lambda: f"file-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def content(self, off: str) -> bytes:
        return self.body if self.lines is None else rows.body(self.lines, off)


class Files:
    id_header = "x-request-id"

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.error = chat.error
        self.kept: dict[str, File] = {}
        self.most_bytes = 200 * 10**6

    def route(self, method: str, path: str) -> Route | None:
        if path != PATH and not path.startswith(f"{PATH}/"):
            return None
        id, _, what = path.removeprefix(PATH).strip("/").partition("/")
        routes: dict[tuple[str, bool, str], tuple[str, Callable[[Call], Work]]] = {
            ("POST", False, ""): ("file_create", self._create),
            ("GET", True, ""): ("file_retrieve", lambda call: self._retrieve(call, id)),
            ("GET", True, "content"): ("file_content", lambda call: self._content(call, id)),
            ("DELETE", True, ""): ("file_delete", lambda call: self._delete(call, id)),
        }
        found = routes.get((method, bool(id), what))
        return Route(*found) if found else None

    def keep(self, file: File) -> File:
        self.kept[file.id] = file
        return file

    def find(self, id: str) -> File:
        if (file := self.kept.get(id)) is None:
            raise Problem(404, "invalid_request_error", f"No such File object: {id}")
        return file

    def _create(self, call: Call) -> Work:
        self.chat.authorize(call)
        if len(call.body) > self.most_bytes:
            raise Problem(413, "invalid_request_error", "The file is too large.")
        parts = _multipart(call)
        if parts.get("purpose", ("", b""))[1] != b"batch":
            raise bad_request("purpose: only 'batch' is simulated by this stand-in")
        if "file" not in parts:
            raise bad_request("Missing required parameter: 'file'.")
        name, body = parts["file"]
        return Work(lambda _: Answer(_show(self.keep(File(name, "batch", body)))))

    def _retrieve(self, call: Call, id: str) -> Work:
        self.chat.authorize(call)
        file = self.find(id)
        return Work(lambda _: Answer(_show(file)))

    def _content(self, call: Call, id: str) -> Work:
        self.chat.authorize(call)
        file, headers = self.find(id), {"content-type": "application/octet-stream"}
        return Work(
            lambda fault: Answer(file.content(fault.answer if fault else ""), headers=headers)
        )

    def _delete(self, call: Call, id: str) -> Work:
        self.chat.authorize(call)
        self.find(id)

        def deleted() -> Answer:
            self.kept.pop(id, None)
            return Answer({"id": id, "object": "file", "deleted": True})

        return Work(lambda _: deleted())


def _show(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.content("")),
        "created_at": file.created,
        "expires_at": None,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _multipart(call: Call) -> dict[str, tuple[str, bytes]]:
    """By the field's name: the file's name and the content."""
    boundary = _BOUNDARY.search(call.headers.get("content-type", ""))
    if boundary is None:
        raise bad_request("The request is not multipart/form-data")
    found: dict[str, tuple[str, bytes]] = {}
    for piece in call.body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        names = {name.decode(): value.decode() for name, value in _NAMES.findall(head)}
        found[names["name"]] = (names.get("filename", ""), content.removesuffix(b"\r\n"))
    return found
