"""What the first records show that their file's owner should know before anything runs over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from runner.types import Notice, Record

LOOKED_AT = 1000


class Looking:
    """Passes on the first records, and keeps in mind which of them cannot be used."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._seen = self._bad = 0
        self._first = ""

    def say(self, notice: Notice) -> None:
        """Hears from a reader what it left out, or read otherwise than it stands."""
        self._notes.append(notice.text)

    def through(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in islice(records, LOOKED_AT):
            self._seen += 1
            if record.problem is not None:
                self._bad += 1
                self._first = self._first or record.problem
            yield record

    def told(self) -> list[str]:
        """All of it in sentences."""
        if not self._bad:
            return self._notes
        if self._seen == 1:
            return [*self._notes, f"the only record cannot be used: {self._first}"]
        some = f"{self._bad:,} of the first {self._seen:,} records cannot be used"
        return [*self._notes, f"{some}; the first of them: {self._first}"]
