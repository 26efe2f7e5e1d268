"""Who may ask: whoever has the key, or, where there is none, programs of this very machine.

A page in a browser of this machine is none of them. It could reach a loopback address, and spend
the job's budget, by a form of plain text or under a name that was made to lead here; so without a
key a request must be JSON, which browsers do not send elsewhere unasked, and name this machine as
its host.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from runner.serve.replies import Refusal

_OPEN = "/health"
_SELF = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """``key``: what clients must send as their API key; None where they need none."""

    def __init__(self, key: str | None, host: str) -> None:
        self._key = key.encode() if key is not None else None
        self._hosts = {*_SELF, host, f"[{host}]"}

    def refuses(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Why this request is turned away, by its headers alone; None where it is not."""
        headers = dict(scope["headers"])
        if self._key is not None:
            return None if scope["path"] == _OPEN else self._without_key(headers)
        return self._from_elsewhere(scope["method"], headers)

    def _without_key(self, headers: Mapping[bytes, bytes]) -> Refusal | None:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Compared in a time that says nothing of where the two differ.
        if hmac.compare_digest(given.strip(), self._key or b"") and scheme.lower() == b"bearer":
            return None
        message = "the API key is missing or wrong: send this server's own as the client's api_key"
        return Refusal(401, "invalid_api_key", message)

    def _from_elsewhere(self, method: str, headers: Mapping[bytes, bytes]) -> Refusal | None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in self._hosts:
            message = f"the host {host!r} is not this machine; ask for localhost, or set a key"
            return Refusal(403, "wrong_host", message)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if method == "POST" and kind != b"application/json":
            return Refusal(415, "not_json", "the request's content type must be application/json")
        return None
