"""How every command begins and ends: its log's format, and one sentence for whatever went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import click

from runner import events
from runner.errors import JobError, SureLocalError
from runner.plain import one_line
from runner.terminal import echo
from runner.types import Event, notice

INTERRUPTED = 130
FORMAT_VARIABLE = "SURELOCAL_LOG_FORMAT"
_OPTION = "--log-format"
_STOPPED = "stopped; what is done is kept: run the same command again to go on"

log_format = click.option(
    _OPTION, type=click.Choice(["text", "json"]), envvar=FORMAT_VARIABLE, show_envvar=True,
    expose_value=False, help="What is said on stderr: for people, or a JSON object per line.",
)  # fmt: skip
"""For a command. What it says is looked for in `Group.main`, before anything is parsed: a mistake
in the other options is to be told in that format too."""


class Group(click.Group):
    """Turns our errors into one sentence and the right exit status; never a traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if not _wants_json(given):
            return super().main(given, *rest, **named)
        with events.as_json():
            self._for_machines(given, *rest, **named)

    def _for_machines(self, args: list[str], *rest: Any, **named: Any) -> NoReturn:
        try:
            status = super().main(args, *rest, **{**named, "standalone_mode": False})
        except click.ClickException as error:
            status = error.exit_code
            _failed(error.format_message(), status, "UsageError")
        except Exception as error:
            status = 1
            events.LOGGER.exception(
                "a mistake of surelocal's own: %s", error,
                extra={"event": Event.ERROR, "fields": {"exit_status": status}},
            )  # fmt: skip
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            vars(error)["message"] = one_line(error.message)  # click calls it final
            raise
        except SureLocalError as error:
            more = {"mistakes": error.mistakes} if isinstance(error, JobError) else {}
            _failed(str(error), error.exit_status, type(error).__name__, **more)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            _failed(_STOPPED, INTERRUPTED, "Interrupted")
            ctx.exit(INTERRUPTED)


def _failed(sentence: str, status: int, kind: str, **more: Any) -> None:
    if events.structured():
        events.tell(notice(Event.ERROR, sentence, exit_status=status, kind=kind, **more))
    else:
        for line in f"surelocal: {sentence}".split("\n"):  # its own: what it tells of is one line
            echo(line, err=True)


def _wants_json(args: Sequence[str]) -> bool:
    found = os.environ.get(FORMAT_VARIABLE, "")
    for one, after in pairwise([*args, ""]):
        if one == _OPTION:
            found = after
        elif one.startswith(f"{_OPTION}="):
            found = one.partition("=")[2]
    return found == "json"
