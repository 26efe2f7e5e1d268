"""An API that takes connections and never answers, or answers a byte at a time."""

from __future__ import annotations

import socket
import threading
from typing import Any

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"


class Silent:
    """Use as a context manager. ``drip_s``: the pause between two bytes of an answer; None: no byte
    ever comes."""

    def __init__(self, drip_s: float | None = None) -> None:
        self._drip_s = drip_s
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._taken: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def connections(self) -> int:
        return len(self._taken)

    def __enter__(self) -> Silent:
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._taken:
            one.close()

    def _take(self) -> None:
        while not self._over.is_set():
            try:
                taken, _ = self._listening.accept()
            except OSError:
                return
            self._taken.append(taken)
            if self._drip_s is not None:
                threading.Thread(target=self._drip, args=(taken,), daemon=True).start()

    def _drip(self, taken: socket.socket) -> None:
        try:
            taken.sendall(_HEAD)
            while not self._over.wait(self._drip_s):
                taken.sendall(b" ")
        except OSError:
            return
