"""Reports while a database does not answer, and lets Ctrl-C interrupt the wait.

A query may take hours, and a lock may be held forever; only the user can tell which it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runner import events
from runner.interrupts import heard_while_blocked
from runner.terminal import echo
from runner.types import Event, Notice, notice

SAY_AFTER_S, SAY_EVERY_S = 10.0, 60.0


@contextmanager
def waited_for(what: str, url: str) -> Iterator[None]:
    """Reports from time to time until the block ends. ``what`` begins the message; ``url``, without
    a login, names the database."""
    answered = threading.Event()
    telling = threading.Thread(
        target=_tell, args=(what, url, answered), name="database", daemon=True
    )
    telling.start()
    try:
        with heard_while_blocked():
            yield
    finally:
        answered.set()


def _tell(what: str, url: str, answered: threading.Event) -> None:
    waited, pause = 0.0, SAY_AFTER_S
    while not answered.wait(pause):
        waited, pause = waited + pause, SAY_EVERY_S
        said = (
            f"{what}, for {waited:g} s without an answer: the query is slow, or another session "
            "holds a lock; the run continues once there is an answer. Ctrl-C stops it; finished "
            "work is kept, and the same command resumes"
        )
        _say(notice(Event.DATABASE_SILENT, said, url=url, seconds=waited))


def _say(notice: Notice) -> None:
    # Also works with a run's panel: output on stderr appears above it.
    if events.structured():
        events.tell(notice)
    else:
        echo(notice, err=True)
