"""Jinja2 in which a template can neither reach Python's insides nor compute without end.

Each rendering has an allowance. Every turn of a loop, call and filter takes from it, and so does
every text and list that is made, before it is made where an operator, a filter or a method makes
much of little (``*``, ``**``, ``center``, ``'%99999d'``). So no single step takes long or much
memory, and their number is bounded; the clock is the last bound, for many long steps.

All that is used of Jinja2 beyond its documents stands here: what its code generator writes
(`_Code`), `Environment._generate`, and how a template is run without its stream. Tried on `TRIED`;
`tests/test_insides.py` fails where it has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined, Template, nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment, safe_range

from runner.formats.nulls import as_json, filters, there, there_for
from runner.templates.allowance import admitted, begin, charge, work_left
from runner.templates.growth import BY_FILTER, BY_METHOD, MOST_BITS, STEP, TooMuch, filled, size

TRIED = "3.1"
_JINJAS = ("_loop_vars", "_block_vars")  # what it passes along to every call


class Filled(str):
    """What stands in a template's place for a value, told by its type from the template's text."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


def _shown(value: Any) -> Filled:
    """What is about to become text."""
    there(value)
    return Filled(value if type(value) is str else admitted(value))


def _counted(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        charge(STEP)
        yield item


def _times(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _bits(left.bit_length() + right.bit_length())
    elif isinstance(left, int) or isinstance(right, int):
        what, count = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(what, Sequence):
            charge(size(what, work_left()) * max(0, count))
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _bits(left.bit_length() * abs(right))
    return left**right


def _bits(count: int) -> None:
    if count > MOST_BITS:
        raise TooMuch("it makes a number of thousands of digits")


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes)):
        there(*(right if isinstance(right, tuple) else (right,)))
        charge(filled(left, right))
    return left % right


def _plus(left: Any, right: Any) -> Any:
    return admitted(left + right)


def _range(*given: Any) -> Any:
    try:
        return safe_range(*given)
    except OverflowError:
        raise TooMuch(f"it makes a range of more than {MAX_RANGE:,}") from None


def _bounded(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    growth = BY_FILTER.get(name)
    at = 1 if hasattr(filter_, "jinja_pass_arg") else 0  # where its own arguments begin

    @wraps(filter_)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        if name in ("join", "sum") and isinstance(args[at], Iterator):
            args = (*args[:at], list(args[at]), *args[at + 1 :])
        there_for(name, args[at:], kwargs)
        if growth is not None:
            charge(_grown(growth, args[at:], kwargs))
        made = filter_(*args, **kwargs)
        if type(made) is str and type(args[at]) is str:
            charge(STEP + len(args[at]) + len(made))
        else:
            charge(STEP + size(args[at:], work_left()) + size(made, work_left()))
        return made

    return bounded


def _grown(growth: Callable[..., int], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    try:
        return growth(*args, **kwargs)
    except TypeError:  # not what it takes: it says so itself
        return 0


class _Code(CodeGenerator):
    """Hands what a template puts together to `Environment`."""

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.together(")
        join = "markup_join" if frame.eval_ctx.autoescape or frame.eval_ctx.volatile else "str_join"
        self.write(f"{join}, (")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._admitted(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._admitted(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._admitted(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _admitted(self, visit: Callable[..., None], node: nodes.Expr, frame: Frame) -> None:
        try:
            node.as_const(frame.eval_ctx)
        except nodes.Impossible:
            self.write("environment.admitted(")
            visit(node, frame)
            self.write(")")
        else:
            visit(node, frame)


class Environment(ImmutableSandboxedEnvironment):
    """The one of a job's templates and expressions."""

    code_generator_class = _Code
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    admitted = staticmethod(admitted)

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            finalize=_shown,
        )
        self.policies["json.dumps_kwargs"] = {
            "ensure_ascii": False,
            "sort_keys": False,
            "default": as_json,
        }
        self.filters = {name: _bounded(name, each) for name, each in filters(FILTERS).items()}
        self.filters["counted"] = _counted
        self.binop_table |= {"+": _plus, "*": _times, "**": _power, "%": _remainder}
        self.globals["range"] = _range
        del self.globals["lipsum"]  # other words each time: nothing that could be run again

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Instead of "".join, in the generated code too."""
        return "".join(Environment.bounded(pieces))

    @staticmethod
    def bounded(pieces: Iterable[str]) -> list[str]:
        """The pieces, charged for."""
        made = list(pieces)
        charge(sum(map(len, made)))
        return made

    def pieces(self, template: Template, fields: Mapping[str, Any]) -> list[str]:
        """A rendering, in the pieces that it is made of; raises whatever goes wrong inside."""
        begin()
        return self.bounded(template.root_render_func(self._context(template, fields)))

    def expression(self, text: str) -> Callable[[Mapping[str, Any]], Any]:
        """What makes the expression's value of a record's fields, and raises whatever goes wrong
        inside."""
        template = self.compile_expression(text, undefined_to_none=False)._template

        def evaluate(fields: Mapping[str, Any]) -> Any:
            begin()
            context = self._context(template, fields)
            for _ in template.root_render_func(context):
                pass
            result = context.vars["result"]  # where Jinja2's own expressions have theirs
            bool(result)  # a StrictUndefined result complains only when it is looked at
            return result

        return evaluate

    def _context(self, template: Template, fields: Mapping[str, Any]) -> Context:
        # Not by `template.new_context`, which goes over all globals again: that is for imports,
        # and there is nothing to import here.
        names = {**self.globals, **fields, "record": fields}
        return Context(self, names, template.name, template.blocks)

    @staticmethod
    def together(join: Callable[[Iterable[Any]], str], parts: Sequence[Any]) -> str:
        """``~``."""
        there(*parts)
        for part in parts:
            admitted(part)
        return join(parts)

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(called, "__self__", None)
        own = {name: each for name, each in kwargs.items() if name not in _JINJAS}
        if isinstance(owner, (str, bytes, int)) and (growth := BY_METHOD.get(called.__name__)):
            if called.__name__ == "join":
                args = tuple(list(each) for each in args)
                there(*(item for each in args for item in each))
            charge(_grown(growth, (owner, *args), own))
        charge(size((*args, *own.values()), work_left()))
        return admitted(super().call(context, called, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            there(*args, *kwargs.values())
            charge(filled(value.__self__, (args, kwargs), braces=True))
            return wrapped(*args, **kwargs)

        return bounded

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in list(source.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return super()._generate(source, *args, **kwargs)
