"""cli.md: every command, from click's own description of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import click

from reference.text import LackingError, block, code, said, table
from runner.cli import main as cli

_HEAD = ("option", "takes", "default", "what it does")
_UNSET = {"None", "False", "()", "Sentinel.UNSET"}


def commands(
    group: click.Group = cli.main, path: str = "surelocal"
) -> Iterator[tuple[str, click.Command]]:
    """(`surelocal review export`, the command), in the order of `--help`."""
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def statuses() -> dict[int, str]:
    """Exit status → when, as the command line's module says it."""
    text = " ".join((cli.__doc__ or "").split())
    found = re.search(r"Exit status: (.*?)\.(?: |$)", text)
    if found is None:
        raise LackingError("the docstring of runner.cli has no `Exit status: 0 …; 1 …`")
    parts = (part.split(" ", 1) for part in found[1].split("; "))
    return {int(number): meaning for number, meaning in parts}


def page() -> str:
    out = ["# The command line\n", said(cli.main.help, "surelocal") + "\n"]
    options = list(_rows("surelocal", cli.main))
    out.append(table(_HEAD, options) if options else "")
    out.append("Progress and messages go to stderr; what `--json` gives, to stdout.\n")
    out.append(table(("exit status", "when"), ((str(n), when) for n, when in statuses().items())))
    for path, command in commands():
        out += [f"## {path}\n", said(command.help, path) + "\n", block(usage(path, command))]
        if rows := list(_rows(path, command)):
            out.append(table(_HEAD, rows))
    return "\n".join(out)


def usage(path: str, command: click.Command) -> str:
    with click.Context(command, info_name=path) as context:
        return " ".join([path, *command.collect_usage_pieces(context)])


def lacking() -> list[str]:
    """Options without a help text, as `surelocal run --limit`."""
    return [
        f"{path} {parameter.opts[-1]}"
        for path, command in commands()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]


def _rows(path: str, command: click.Command) -> Iterator[tuple[str, str, str, str]]:
    with click.Context(command, info_name=path) as context:
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            text = option.help or ""
            given = option.to_info_dict()
            names = ", ".join(code(name) for name in (*option.opts, *option.secondary_opts))
            takes = "" if option.is_flag else code(option.make_metavar(context))
            more = [
                *(["must be given"] if option.required else []),
                *(["may be given several times"] if option.multiple else []),
            ]
            text = f"{text} ({'; '.join(more)})" if more else text
            yield names, f"{takes}{_range(given['type'])}", _default(option), text


def _default(option: click.Option) -> str:
    text = str(option.default)
    return "" if text in _UNSET or not text else code(text)


def _range(kind: Mapping[str, Any]) -> str:
    low, high = kind.get("min"), kind.get("max")
    if low is not None and high is not None:
        return f" {low} to {high}"
    if low is None:
        return ""
    return f" over {low:g}" if kind.get("min_open") else f" {low:g} or more"
