"""What a run tells, as an event: a name and a level, a sentence for people, fields for programs.

It stands below whoever has something to tell. A log, a metric or a display asks the event what
happened, and never the sentence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Self


class Level(IntEnum):
    """How much it matters, in `logging`'s numbers."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = logging.CRITICAL


class Event(StrEnum):
    """What happened, and at which level; docs/observability.md has all of them, and their fields.

    It is a text, as a log has it: `Event.AUDIT_ALARM == "audit_alarm"`.
    """

    level: Level
    when: str

    def __new__(cls, name: str, level: Level, when: str) -> Self:
        event = str.__new__(cls, name)
        event._value_, event.level, event.when = name, level, when
        return event

    # A command, from its start to its end.
    STARTED = "started", Level.INFO, "the records are about to be read"
    PROGRESS = "progress", Level.INFO, "every 10 seconds, and at the end"
    FINISHED = "finished", Level.INFO, "the command has done its work"
    ERROR = "error", Level.ERROR, "it has not"
    STOPPING = "stopping", Level.INFO, "it was told to stop, and ends in order"
    ENDED_AT_ONCE = "ended_at_once", Level.WARNING, "it was told so again, and ends as it stands"

    # What it reads and writes.
    RECORDS_CHANGED = (
        "records_changed", Level.WARNING, "the records are others than the run directory knows",
    )  # fmt: skip
    ROWS_LEFT_OUT = "rows_left_out", Level.WARNING, "a part of a CSV file is no record"
    NEARLY_EQUAL = (
        "nearly_equal", Level.WARNING,
        "a text differs from the one that it is compared with in case or spaces alone",
    )  # fmt: skip
    STAYS_LOCAL = (
        "stays_local", Level.WARNING,
        "a record stays on the machine, though nothing plainly says that it must",
    )  # fmt: skip
    DATABASE_SILENT = "database_silent", Level.WARNING, "a database does not answer"

    # The local model.
    LOADING = "loading", Level.INFO, "`serve` loads the model"
    CALIBRATING = "calibrating", Level.INFO, "`quote` asks about the labelled records first"
    ANSWERS_NOT_KEPT = (
        "answers_not_kept", Level.WARNING,
        "`calibrate` cannot keep its answers, and begins anew if it is stopped",
    )  # fmt: skip
    CLUSTER = "cluster", Level.INFO, "the replicas are started"
    ENGINE_DIED = "engine_died", Level.WARNING, "the local engine is started again"
    LESS_MEMORY = "less_memory", Level.WARNING, "it asks for less memory than before"
    REPLICA_WAITS = (
        "replica_waits", Level.WARNING, "a replica waits for room, and the others go on",
    )  # fmt: skip
    REPLICA_GIVEN_UP = (
        "replica_given_up", Level.WARNING, "a replica is given up, and the others go on",
    )  # fmt: skip
    SERVER_SILENT = "server_silent", Level.WARNING, "the local model's server does not answer"
    SERVER_BACK = "server_back", Level.INFO, "it answers again"
    LOGPROBS_DOUBTED = (
        "logprobs_doubted", Level.WARNING, "the logprobs of that server cannot be relied on",
    )  # fmt: skip

    # Whether its answers may be trusted.
    AUDIT_ALARM = "audit_alarm", Level.WARNING, "the certificate no longer holds"
    SHIFT_ALARM = "shift_alarm", Level.WARNING, "the certificate may no longer hold"
    GUARD_TRIPPED = (
        "guard_tripped", Level.WARNING,
        "most local answers are no good, and what they leave unsure is not paid for",
    )  # fmt: skip
    GUARD_RELEASED = "guard_released", Level.INFO, "they are good again"

    # The closed model, and the money.
    NO_KEY = "no_key", Level.WARNING, "nothing can be sent"
    API_SILENT = (
        "api_silent", Level.WARNING, "a paid call had no answer in time, and counts as spent",
    )  # fmt: skip
    API_UNREACHABLE = "api_unreachable", Level.WARNING, "the API cannot be reached"
    API_OVERLOADED = "api_overloaded", Level.WARNING, "the API takes no requests for now"
    API_BACK = "api_back", Level.INFO, "it answers again"
    COURIER_LOST = (
        "courier_lost", Level.WARNING, "the process that makes the paid calls died or was ended",
    )  # fmt: skip
    COURIER_GIVEN_UP = (
        "courier_given_up", Level.ERROR, "it died too often in a row: nothing more is sent",
    )  # fmt: skip
    FORMER_CALLS = (
        "former_calls", Level.WARNING, "the paid calls of a former run are waited for",
    )  # fmt: skip
    BATCH = "batch", Level.INFO, "something came of a provider's batch"
    MONEY_UNCLEAR = (
        "money_unclear", Level.WARNING, "a batch may have been made, and be billed, or not",
    )  # fmt: skip
    BATCH_REFUSED = "batch_refused", Level.WARNING, "the provider did none of a batch"
    BATCH_TROUBLE = (
        "batch_trouble", Level.WARNING, "a batch cannot be asked about, and will be again",
    )  # fmt: skip
    BATCH_STUCK = (
        "batch_stuck", Level.WARNING, "this run waits for a batch no longer; a later one may",
    )  # fmt: skip
    BATCH_GIVEN_UP = (
        "batch_given_up", Level.WARNING, "nobody waits for a batch any more (`--give-up`)",
    )  # fmt: skip

    # A server.
    LISTENING = "listening", Level.INFO, "`serve` takes requests"
    REQUEST = "request", Level.INFO, "`serve` has replied"
    REQUESTS_GIVEN_UP = (
        "requests_given_up", Level.WARNING, "`serve` ends before all that was begun is settled",
    )  # fmt: skip

    # Of anyone.
    NO_TRACES = "no_traces", Level.WARNING, "traces are asked for, and cannot be sent"
    WARNING = "warning", Level.WARNING, "anything else that a run tells its user"
    ENGINE = (
        "engine", Level.INFO,
        "the engine, a library or a child process wrote a line to stderr",
    )  # fmt: skip
    LOG = "log", Level.WARNING, "a Python library logged a warning"
    NOTICE = "notice", Level.INFO, "a command said something else"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a run tells. `str` of it is ``text``, the sentence for its user; ``fields``
    have what the sentence is made of: what JSON can hold, Decimals and paths."""

    event: Event
    level: Level
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


def notice(event: Event, text: str, level: Level | None = None, /, **fields: Any) -> Notice:
    """At the event's own level; another one only where the event truly has two."""
    return Notice(event, event.level if level is None else level, text, fields)


Say = Callable[[Notice], None]
"""Who hears what a run tells."""


def unheard(notice: Notice) -> None:
    """A `Say` for where nobody is to hear of anything."""


class UntilHeard:
    """A `Say` that keeps what it is told until somebody hears it, from any thread."""

    def __init__(self, *told: Notice) -> None:
        self._say: Say | None = None
        self._unsaid = list(told)
        self._lock = threading.Lock()

    def hear(self, say: Say) -> None:
        """``say`` hears what was told so far, and all that is from now on."""
        with self._lock:
            self._say, unsaid, self._unsaid = say, self._unsaid, []
        for each in unsaid:
            say(each)

    def __call__(self, notice: Notice) -> None:
        with self._lock:
            say = self._say
            if say is None:
                self._unsaid.append(notice)
        if say is not None:
            say(notice)
