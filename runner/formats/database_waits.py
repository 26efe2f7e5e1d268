"""What is said while a database does not answer: no run waits in silence, and Ctrl-C is heard.

A query may take hours, and a lock may be held for good: nobody can tell which it is but the user.
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
    """``what`` begins the sentence that is said from time to time until the block ends; ``url``,
    without a login, names the database."""
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
            f"{what}, for {waited:g} s without an answer: the query is long, or another session "
            "holds a lock there; the run goes on once there is an answer; Ctrl-C ends it, what is "
            "done is kept, and the same command goes on"
        )
        _say(notice(Event.DATABASE_SILENT, said, url=url, seconds=waited))


def _say(notice: Notice) -> None:
    # Beside a run's panel too: what stands on stderr goes above it.
    if events.structured():
        events.tell(notice)
    else:
        echo(notice, err=True)
