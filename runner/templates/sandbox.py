"""A Jinja2 sandbox: templates cannot access Python's internals or compute without bound.

Each rendering has an allowance of work. Each loop iteration, call and filter is charged to it, and
so is each text and list produced; if an operator, a filter or a method can produce much from little
(``*``, ``**``, ``center``, ``'%99999d'``), it is charged beforehand. So no single step takes much
time or memory, and the number of steps is bounded; a limit on CPU time bounds many long steps.

All uses of undocumented parts of Jinja2 are in this file: the output of its code generator
(`_Code`), `Environment._generate`, and running a template without its stream. They were tested on
`TRIED`; `tests/test_insides.py` fails if they change.
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
_JINJAS = ("_loop_vars", "_block_vars")  # arguments that Jinja2 adds to every call


class Filled(str):
    """The text of a value filled into a template; the type distinguishes it from literal text."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


def _shown(value: Any) -> Filled:
    """Checks and charges a value that becomes text."""
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
    at = 1 if hasattr(filter_, "jinja_pass_arg") else 0  # where the filter's arguments begin

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
    except TypeError:  # wrong arguments: the call itself reports them
        return 0


class _Code(CodeGenerator):
    """Generates code that passes the values a template builds to `Environment`."""

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
    """The environment of a job's templates and expressions."""

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
        del self.globals["lipsum"]  # random text: not reproducible

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Replaces "".join, also in generated code."""
        return "".join(Environment.bounded(pieces))

    @staticmethod
    def bounded(pieces: Iterable[str]) -> list[str]:
        """Charges for the pieces, and returns them."""
        made = list(pieces)
        charge(sum(map(len, made)))
        return made

    def pieces(self, template: Template, fields: Mapping[str, Any]) -> list[str]:
        """Renders a template to its pieces; raises any error of the template."""
        begin()
        return self.bounded(template.root_render_func(self._context(template, fields)))

    def expression(self, text: str) -> Callable[[Mapping[str, Any]], Any]:
        """A function that evaluates the expression on a record's fields; it raises any error of the
        expression."""
        template = self.compile_expression(text, undefined_to_none=False)._template

        def evaluate(fields: Mapping[str, Any]) -> Any:
            begin()
            context = self._context(template, fields)
            for _ in template.root_render_func(context):
                pass
            result = context.vars["result"]  # where Jinja2's compiled expressions store it
            bool(result)  # a StrictUndefined result raises only when it is used
            return result

        return evaluate

    def _context(self, template: Template, fields: Mapping[str, Any]) -> Context:
        # Not `template.new_context`, which copies all globals for imports; there are none here.
        names = {**self.globals, **fields, "record": fields}
        return Context(self, names, template.name, template.blocks)

    @staticmethod
    def together(join: Callable[[Iterable[Any]], str], parts: Sequence[Any]) -> str:
        """The operator ``~``."""
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
