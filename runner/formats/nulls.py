"""Nulls in templates: a null is never written as "None" or used as 0; the template fails instead.

The same holds for a value that could not be read; the error says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jinja2 import Undefined, nodes


class IsNull(nodes.Impossible):
    """A null was used as text or as a number. It is `Impossible`, so Jinja2 does not fold constants
    with it at compile time."""


class CannotRead(ValueError):
    """A value that could not be read was used."""


class Unusable:
    """A placeholder for a value that could not be read; ``why`` describes it in messages."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def __str__(self) -> str:  # for digests
        return f"<{self.why}>"

    def refuse(self, *_: Any) -> NoReturn:
        raise CannotRead(f"it uses a value that cannot be read: {self.why}")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __iter__ = refuse
    __contains__ = __getitem__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = refuse
    __rmul__ = __mod__ = __rmod__ = __truediv__ = __float__ = __int__ = __len__ = refuse
    __hash__ = __call__ = __neg__ = __format__ = refuse


# The filters that would turn a null into text or a number.
_MAKING = frozenset({
    "capitalize", "center", "e", "escape", "float", "forceescape", "format", "indent", "int",
    "lower", "replace", "round", "safe", "string", "striptags", "title", "trim", "truncate",
    "upper", "urlencode", "urlize", "wordcount", "wordwrap",
})  # fmt: skip
_BY_DEFAULT = ("int", "float")


def there(*values: Any) -> None:
    """Raises if one of the values is null or could not be read."""
    for value in values:
        if value is None:
            raise IsNull
        if isinstance(value, Unusable):
            value.refuse()


def there_for(name: str, given: Sequence[Any], named: dict[str, Any]) -> None:
    """Like `there`, for the arguments of the filter ``name``."""
    what, *more = given
    if isinstance(what, Unusable):
        what.refuse()
    if name in _BY_DEFAULT and (more or named):
        return
    if name in _MAKING:
        there(what)
    if name == "format":
        there(*more, *named.values())
    elif name == "join" and isinstance(what, list | tuple):
        there(*what)


def as_json(value: Any) -> str:
    """Text for a value without a JSON form."""
    there(value)
    return str(value)


def default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Jinja2's ``default`` filter, which here also replaces a null."""
    if isinstance(value, Undefined) or value is None or (boolean and not value):
        return default_value
    return value


def filters(known: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Jinja2's filters, with ours replacing theirs."""
    return {**known, "default": default, "d": default}
