"""Every error of ours; anything else that surfaces is a bug.

    SureLocalError
    ├── UsageError          exit 2: what was asked cannot be done as asked
    │   ├── JobError        the job file, with a line for each mistake
    │   ├── InputError      the records file as a whole
    │   └── RunDirError     the run directory: taken, of another job, not writable
    ├── MissingExtra        exit 2: a package that an extra brings is not installed
    ├── RunFailed           exit 1: the run cannot go on; what was recorded is kept
    │   └── EngineError     the engine cannot load, or answer
    │       └── EngineDied  its process is gone: another can be started
    └── RecordError         one record's failure; the run goes on

Every message is one sentence or more for a person: what, where, and the mend.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.plain import one_line
from runner.reasons import Reason


class SureLocalError(Exception):
    """Root of the tree: whoever catches it catches all of them. ``exit_status`` is what the command
    line ends with."""

    exit_status = 1

    def __init__(self, sentence: str = "", more: Sequence[str] = ()) -> None:
        """``more``: a line each. What others wrote, and is told of in them, begins no line."""
        super().__init__("\n".join([one_line(sentence), *(f"  {one_line(m)}" for m in more)]))


class UsageError(SureLocalError):
    """Before anything is done, or where the engine or a server says that it was asked for what it
    does not have. Mend what the sentence names; nothing is lost."""

    exit_status = 2


class JobError(UsageError):
    """All the mistakes of a job file at once, one line each, by `load_job` and `make_job`."""

    def __init__(self, path: str, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{path}: {count}", mistakes)


class InputError(UsageError):
    """The records, the labels or a review file cannot be read as a whole, or lack a column that
    they must have. A broken line of the records spoils that record alone."""


class RunDirError(UsageError):
    """Another surelocal is at work in the run directory, it belongs to another job or other
    records, it is of another version, or nothing can be written there."""


class MissingExtra(UsageError):
    """An engine, a server or a database is asked for whose package is not there."""

    def __init__(self, what: str, *extras: str) -> None:
        stacks = [extra for extra in extras if extra in ("cpu", "gpu", "transformers")]
        make = " or ".join(f"`make setup STACK={stack}`" for stack in stacks) or "`make setup`"
        pip = " or ".join(f"`pip install 'surelocal[{extra}]'`" for extra in extras)
        super().__init__(
            f"{what} is not installed; install it with {make} in surelocal's folder, or, where "
            f"surelocal itself came by pip, with {pip}"
        )


class RunFailed(SureLocalError):
    """A full disk, a database that went away, an audit trail that was changed. What was recorded is
    kept: the same command goes on from there."""


class EngineError(RunFailed):
    """The local engine cannot load the model, no server answers, or its logprobs are none that a
    confidence could be made of."""


class EngineDied(EngineError):
    """The engine's own process is gone; the run starts another, until none comes up any more.
    ``lacked_memory``: so far as can be told, that was the cause. ``by_others``: it was killed
    from outside, and did nothing wrong itself; ``blameless``: nor did what it was asked."""

    def __init__(
        self,
        message: str,
        *,
        lacked_memory: bool = False,
        by_others: bool = False,
        blameless: bool = False,
    ) -> None:
        self.blameless = blameless
        self.lacked_memory = lacked_memory
        self.by_others = by_others
        super().__init__(message)


class RecordError(SureLocalError):
    """One record cannot be done."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = Reason(reason)
        super().__init__(message)
