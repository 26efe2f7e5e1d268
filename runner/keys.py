"""The variables with API keys in them, and an environment without these.

The process that holds a model has no use for a key, and a library that is loaded there might tell
of its environment. The courier of paid calls alone gets them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from runner.job.providers import all_key_variables

_named: set[str] = set()


def withhold(names: Iterable[str | None]) -> None:
    """From now on these variables, which jobs name, are for no engine either."""
    _named.update(name for name in names if name)


def withheld() -> frozenset[str]:
    """The names; they stand in no engine's environment."""
    return frozenset(_named | all_key_variables())


def environment() -> dict[str, str]:
    """This process's, for a child that is to know no key."""
    names = withheld()
    return {name: value for name, value in os.environ.items() if name not in names}
