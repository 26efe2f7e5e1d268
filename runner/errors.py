"""The errors of surelocal; any other exception is a bug.

    SureLocalError
    ├── UsageError          exit 2: the request cannot be carried out as given
    │   ├── JobError        mistakes in the job file, one line each
    │   ├── InputError      the records file cannot be read as a whole
    │   └── RunDirError     the run directory: in use, of another job, not writable
    ├── MissingExtra        exit 2: a package of an optional extra is not installed
    ├── RunFailed           exit 1: the run cannot continue; what was recorded is kept
    │   └── EngineError     the engine cannot load, or cannot answer
    │       └── EngineDied  its process has ended; another can be started
    └── RecordError         one record failed; the run continues

Every message says in one or more sentences what is wrong, where, and how to fix it.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.plain import one_line
from runner.reasons import Reason


class SureLocalError(Exception):
    """The base class of all errors. ``exit_status`` is the exit status of the command line."""

    exit_status = 1

    def __init__(self, sentence: str = "", more: Sequence[str] = ()) -> None:
        """``more``: further lines. Each is put on one line, so quoted text cannot start a new
        one."""
        super().__init__("\n".join([one_line(sentence), *(f"  {one_line(m)}" for m in more)]))


class UsageError(SureLocalError):
    """Raised before any work is done, or if the engine or a server lacks what it was asked for. Fix
    what the message names; nothing is lost."""

    exit_status = 2


class JobError(UsageError):
    """All mistakes of a job file, one line each; raised by `load_job` and `make_job`."""

    def __init__(self, path: str, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{path}: {count}", mistakes)


class InputError(UsageError):
    """The records, the labels or a review file cannot be read as a whole, or lack a required
    column. A malformed line of the records fails only that record."""


class RunDirError(UsageError):
    """The run directory is in use by another surelocal process, belongs to another job, other
    records or another version, or is not writable."""


class MissingExtra(UsageError):
    """The package of a requested engine, server or database is not installed."""

    def __init__(self, what: str, *extras: str) -> None:
        stacks = [extra for extra in extras if extra in ("cpu", "gpu", "transformers")]
        make = " or ".join(f"`make setup STACK={stack}`" for stack in stacks) or "`make setup`"
        pip = " or ".join(f"`pip install 'surelocal[{extra}]'`" for extra in extras)
        super().__init__(
            f"{what} is not installed; install it with {make} in surelocal's folder, or, if "
            f"surelocal was installed by pip, with {pip}"
        )


class RunFailed(SureLocalError):
    """For example a full disk, a lost database connection, or a modified audit trail. What was
    recorded is kept; the same command continues from there."""


class EngineError(RunFailed):
    """The local engine cannot load the model, no server answers, or its logprobs cannot be used to
    compute a confidence."""


class EngineDied(EngineError):
    """The engine's process has ended; the run starts another, until none starts any more.
    ``lacked_memory``: the cause was probably a lack of memory. ``by_others``: it was killed from
    outside, not by a fault of its own; ``blameless``: nor by the prompts it was given."""

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
    """One record cannot be processed."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = Reason(reason)
        super().__init__(message)
