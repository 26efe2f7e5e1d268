"""Reads YAML within bounds on its size, its depth and the expansion of its aliases.

Dates stay text, and tags, including Python's, are refused.
"""

from __future__ import annotations

from typing import Any

import yaml

from runner.formats.foreign_json import whole

MOST_BYTES = 1 << 20
MOST_DEPTH = 100
MOST_NODES = 20_000
MOST_DIGITS = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TAKEN = (None, "tag:yaml.org,2002:str")


class TooMuch(yaml.YAMLError):
    """YAML that exceeds a bound. ``problem`` says which one, ``problem_mark`` where."""

    def __init__(self, problem: str, mark: Any = None) -> None:
        self.problem, self.problem_mark = problem, mark
        super().__init__(problem)


class _Loader(yaml.SafeLoader):
    """A loader with a separate resolver table, since libraries modify the shared one."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}  # of each complete node, with its aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if getattr(event, "tag", None) not in _TAKEN:
            raise _not_yaml(f"the tag {event.tag!r} is not allowed; leave it out", mark)
        self._depth += 1
        self._count += 1
        if self._depth > MOST_DEPTH:
            raise TooMuch(f"it is nested over {MOST_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._size(node, mark)
        elif id(node) not in self._sizes:
            raise TooMuch("it contains itself through an alias", mark)
        if max(self._count, self._sizes[id(node)]) > MOST_NODES:
            raise TooMuch(f"it holds over {MOST_NODES:,} values with its aliases expanded", mark)
        return node

    def _size(self, node: yaml.Node, mark: Any) -> int:
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > MOST_DIGITS:
                raise TooMuch(f"a number of over {MOST_DIGITS} digits; quotes make it text", mark)
            if "\0" in node.value or whole(node.value) != node.value:
                raise TooMuch("a character that cannot be stored in a file", mark)
            return 1
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            if not all(isinstance(key, yaml.ScalarNode) for key, _ in parts):
                raise _not_yaml("found unhashable key", mark)
            parts = [part for pair in parts for part in pair]
        return 1 + sum(self._sizes[id(part)] for part in parts)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def nodes(text: str) -> yaml.Node | None:
    """The text's nodes, with their line numbers.

    Raises:
        TooMuch: it is over a bound.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) > MOST_BYTES:
        raise TooMuch(f"it is over {MOST_BYTES:,} bytes")
    try:
        return _Loader(text).get_single_node()
    except (ValueError, OverflowError) as error:  # an escape that is not a character
        raise _not_yaml(str(error), None) from None


def value(node: yaml.Node | None) -> Any:
    """The value of the nodes, with merge keys expanded.

    Raises:
        yaml.YAMLError: the value cannot be built.
    """
    try:
        return None if node is None else _Loader("").construct_document(node)
    except ValueError as error:  # 0b_ and the like
        raise _not_yaml(str(error), node.start_mark if node is not None else None) from None


def _not_yaml(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
