"""A null is written nowhere as "None", nor counted as 0: a template sees to it, or fails.

The same holds for a value that could not be read: whoever uses it hears why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jinja2 import Undefined, nodes


class IsNull(nodes.Impossible):
    """A null where text or a number is made. Not when a template is compiled: what is constant in
    it waits for a record."""


class CannotRead(ValueError):
    """Somebody uses a value that could not be read."""


class Unusable:
    """Stands for a value that could not be read. ``why`` is a sentence's end about it."""

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


# The filters that would make text or a number of a null.
_MAKING = frozenset({
    "capitalize", "center", "e", "escape", "float", "forceescape", "format", "indent", "int",
    "lower", "replace", "round", "safe", "string", "striptags", "title", "trim", "truncate",
    "upper", "urlencode", "urlize", "wordcount", "wordwrap",
})  # fmt: skip
_BY_DEFAULT = ("int", "float")


def there(*values: Any) -> None:
    """Raises where one of these is null, or could not be read."""
    for value in values:
        if value is None:
            raise IsNull
        if isinstance(value, Unusable):
            value.refuse()


def there_for(name: str, given: Sequence[Any], named: dict[str, Any]) -> None:
    """The same, of what a filter is given."""
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
    """What JSON has no form for, as text."""
    there(value)
    return str(value)


def default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Jinja2's, and a null is not there either."""
    if isinstance(value, Undefined) or value is None or (boolean and not value):
        return default_value
    return value


def filters(known: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Jinja2's filters with ours."""
    return {**known, "default": default, "d": default}
