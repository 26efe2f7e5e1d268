"""`surelocal engines`: the engines that were kept loaded; a part of `runner.cli.main`, and as thin.

Here is also what `surelocal run --keep-loaded` takes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from runner.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.engines.process.warm_client import Kept

USUAL_MINUTES = 10
_GIB = 1 << 30


class _Minutes(click.ParamType[float]):
    name = "minutes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return float(value)
        except ValueError:
            self.fail(
                f"{value!r} is no number of minutes; write --keep-loaded={USUAL_MINUTES}, or put "
                "the option behind JOB.yaml",
                param,
                ctx,
            )


def keep_loaded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of that name."""
    return click.option(
        "--keep-loaded", metavar="[MINUTES]", type=_Minutes(), is_flag=False,
        flag_value=str(USUAL_MINUTES),
        help=f"The engine waits so long for the next such run; {USUAL_MINUTES} minutes.",
    )(command)  # fmt: skip


@click.command()
@click.option(
    "--stop", is_flag=True, help="End those that no run uses, by force where one does not answer."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout instead.")
def engines(stop: bool, as_json: bool) -> None:
    """Lists the engines that are kept loaded (`run --keep-loaded`)."""
    from runner.engines.process import warm_client

    found = warm_client.kept()
    stopped = [one.name for one in found if stop and warm_client.stop(one)]
    if as_json:
        rows = [asdict(one) | {"stopped": one.name in stopped} for one in found]
        echo(json.dumps(rows))
        return
    for one in found:
        echo(_line(one, asked=stop, ended=one.name in stopped))
    if not found:
        echo("no engine is kept loaded", err=True)


def _line(one: Kept, *, asked: bool, ended: bool) -> str:
    facts = f"{one.model}  pid {one.pid}  {one.memory_bytes / _GIB:.1f} GiB"
    if ended:
        return f"{facts}  ended"
    if not one.answers:
        how = "a run uses it, so it is left" if asked else "`surelocal engines --stop` ends it"
        return f"{facts}  does not answer; {how}"
    if one.idle_s is None or one.ends_in_s is None:
        return f"{facts}  in use"
    return f"{facts}  idle for {_time(one.idle_s)}, ends in {_time(one.ends_in_s)}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
