"""Reports problems in the first records before a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from runner.types import Notice, Record

LOOKED_AT = 1000


class Looking:
    """Passes the first records through, and counts those that cannot be used."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._seen = self._bad = 0
        self._first = ""

    def say(self, notice: Notice) -> None:
        """Adds a reader's note about input that was skipped or read differently than written."""
        self._notes.append(notice.text)

    def through(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in islice(records, LOOKED_AT):
            self._seen += 1
            if record.problem is not None:
                self._bad += 1
                self._first = self._first or record.problem
            yield record

    def told(self) -> list[str]:
        """The notes and problems as messages."""
        if not self._bad:
            return self._notes
        if self._seen == 1:
            return [*self._notes, f"the only record cannot be used: {self._first}"]
        some = f"{self._bad:,} of the first {self._seen:,} records cannot be used"
        return [*self._notes, f"{some}; the first one: {self._first}"]
