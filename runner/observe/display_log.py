"""The run as a machine watches it: `runner.observe.display`'s face, in events on stderr."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from runner import events
from runner.observe.meter import Meter
from runner.types import Event, Notice, notice

EVERY_S = 10.0


class EventDisplay:
    """A ``progress`` event every `EVERY_S` seconds and one at the end; what is said, at once."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def say(self, notice: Notice) -> None:
        self._meter.heard(notice)
        events.tell(notice)

    @contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._tell, args=(stop,), name="progress", daemon=True)
        events.tell(notice(Event.STARTED, "started", total=self._meter.total))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _tell(self, stop: threading.Event) -> None:
        over = False
        while not over:
            over = stop.wait(EVERY_S)
            fields = self.fields()
            of = f" of {fields['total']:,}" if fields["total"] else ""
            said = f"{fields['records']:,}{of} records"
            events.tell(notice(Event.PROGRESS, said, **fields))

    def fields(self) -> dict[str, Any]:
        """`runner.observe.meter.Reading`'s, but for what was told: that is an event of its own."""
        found = asdict(replace(self._meter.read(), last_told=None))
        del found["last_told"]
        for name, value in found.items():
            if isinstance(value, float):
                found[name] = round(value, 3)
        return found
