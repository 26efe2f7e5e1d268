"""errors.md: the exceptions, from `runner.errors`."""

from __future__ import annotations

import inspect

import runner.errors
from reference.text import LackingError, block, code, said, table
from runner.errors import SureLocalError


def classes() -> list[type[SureLocalError]]:
    """The error classes in the order of their definition: the root first."""
    found = [
        one
        for one in vars(runner.errors).values()
        if inspect.isclass(one) and issubclass(one, SureLocalError)
    ]
    return sorted(found, key=lambda one: inspect.getsourcelines(one)[1])


def tree() -> str:
    """The tree in the module's docstring."""
    lines = (runner.errors.__doc__ or "").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


def page() -> str:
    rows = []
    for one in classes():
        if "__doc__" not in vars(one) or not one.__doc__:
            raise LackingError(f"runner.errors.{one.__name__} has no description")
        if one.__name__ not in tree():
            raise LackingError(f"runner.errors.{one.__name__} is not in the module's tree")
        rows.append((code(one.__name__), str(one.exit_status), said(one.__doc__, one.__name__)))
    return "\n".join([
        "# Errors\n",
        "Every error of surelocal is one of these (`from runner.errors import …`). The command "
        "line shows its message without a traceback and exits with its exit status. Any other "
        "exception is a bug.\n",
        block(tree()),
        table(("error", "exit status", "when"), rows),
    ])  # fmt: skip
