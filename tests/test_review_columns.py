"""Properties with white space around their names, whose columns in a CSV file have none."""

from __future__ import annotations

import pytest

from runner.review.deciding import Decisions
from runner.types import Constraint


@pytest.mark.parametrize("name", ["\t", "x ", "a\u00a0"])
@pytest.mark.parametrize("cells", [True, False])
def test_a_decision_finds_its_property(name: str, cells: bool) -> None:
    rule = {"type": "string", "enum": ["y"]}
    schema = {"type": "object", "properties": {name: rule}, "required": [name]}
    reading = Decisions(Constraint(schema=schema), cells=cells)
    column = f"decision.{name}".strip() if cells else f"decision.{name}"
    assert reading.unknown_column([column]) is None
    assert reading.read({column: "y"}) == {name: "y"}
