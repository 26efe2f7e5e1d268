"""An error reply, before it has an API's shape."""

from __future__ import annotations


class Problem(Exception):
    def __init__(
        self, status: int, type: str, message: str, *, error_code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.error_code = error_code


def bad_request(message: str) -> Problem:
    return Problem(400, "invalid_request_error", message)
