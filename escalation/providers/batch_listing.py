"""Searches the whole of a provider's listing for a lost batch.

A listing that is believed too early pays for a batch twice. Pages come empty and say that there are
more, cursors go round, entries lack what they should have, and an older batch may stand first. So
the end is where the page behind the last entry brings nothing new and says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from escalation.providers.batch_calls import id_of
from escalation.providers.batch_protocol import Found, Lost

MOST_PAGES = 200
MOST_STALLS = 3

Page = Callable[[str | None], Awaitable[Mapping[str, Any]]]
"""The page behind an entry's id, or the first one."""
Judge = Callable[[str, Mapping[str, Any]], Awaitable[Found]]
"""What is known of an entry's batch, whose id and time allow that it is the lost one."""
TimeOf = Callable[[Mapping[str, Any]], float | None]


class Search:
    """One walk over the listing."""

    def __init__(self, lost: Lost, page: Page, judge: Judge, time_of: TimeOf) -> None:
        self._lost = lost
        self._page = page
        self._judge = judge
        self._time_of = time_of
        self._seen: set[str] = set()
        self._cursors: list[str | None] = [None]
        self._stalls = 0
        self._running = False
        self._undecided: str | None = None
        self._orderly, self._oldest = True, float("inf")

    async def found(self) -> Found:
        for _ in range(MOST_PAGES):
            page = await self._page(self._cursors[-1])
            data, more = page.get("data"), page.get("has_more")
            if not isinstance(data, list):
                return self._told("a page of the provider's list is not readable")
            for entry in data:
                if found := await self._look_at(entry):
                    return found
            if not data and more is False:
                return self._told(None)
            self._stalls = 0 if self._goes_on(page, data) else self._stalls + 1
            if self._stalls >= MOST_STALLS:
                return self._told("the provider's list does not come to its end")
        # Newest first, and by now what was made long before the lost one: the rest is older.
        passed = self._orderly and not self._lost.made_at(self._oldest)
        return self._told(None if passed else f"the provider's list has over {MOST_PAGES} pages")

    def _goes_on(self, page: Mapping[str, Any], data: list[object]) -> bool:
        """Whether there is a place behind this page that was not asked about."""
        last = next((found for entry in reversed(data) if (found := _id(entry))), None)
        for cursor in (id_of(page.get("last_id")), last):
            if cursor is not None and cursor not in self._cursors:
                self._cursors.append(cursor)
                return True
        return False

    def _told(self, undecided: str | None) -> Found:
        return Found(None, self._running, undecided or self._undecided)

    async def _look_at(self, entry: object) -> Found | None:
        """The lost batch, where this is it."""
        batch_id, at = _id(entry), None
        if batch_id in self._seen:
            return None
        if isinstance(entry, dict):
            at = self._time_of(entry)
            self._orderly = self._orderly and at is not None and at <= self._oldest
            self._oldest = min(self._oldest, self._oldest if at is None else at)
        if batch_id is not None:
            self._seen.add(batch_id)
        if batch_id in self._lost.known or not self._lost.made_at(at):
            return None
        if batch_id is None or not isinstance(entry, dict):
            self._undecided = "an entry of the provider's list has no id"
            return None
        found = await self._judge(batch_id, entry)
        self._running = self._running or found.running
        self._undecided = self._undecided or found.undecided
        return found if found.id is not None else None


def _id(entry: object) -> str | None:
    return id_of(entry.get("id")) if isinstance(entry, dict) else None
