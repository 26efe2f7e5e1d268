"""The ways to the terminal: `echo` for a line, `console` for what is laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runner.plain import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console


def echo(line: object, *, err: bool = False) -> None:
    """Prints one line, of whatever it is made: of a `Notice`, its sentence."""
    click.echo(one_line(str(line)), err=err)


def console(**settings: Any) -> Console:
    """A rich console that takes nothing of a text for markup or for a terminal's code."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, *given: Any, **named: Any) -> Any:
            for part in super().render(*given, **named):
                shown = part.text if part.control else printable(part.text)
                yield part if shown == part.text else Segment(shown, part.style)

    return Plain(markup=False, emoji=False, **settings)
