"""The house rules that a machine can hold."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from escalation.providers.chosen import named
from runner.job.providers import PROVIDERS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for room in ("runner", "escalation", "scripts") for path in (ROOT / room).rglob("*.py")
)
TEXTS = {".cfg", ".j2", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
HEAVY = (
    "torch", "vllm", "transformers", "ray", "sklearn", "pyarrow", "sqlalchemy", "fastapi",
    "uvicorn", *(named(entry.wire).sdk.package for entry in PROVIDERS.values()),
)  # fmt: skip
SQL = re.compile(r"\s*(WITH|SELECT|INSERT|REPLACE|UPDATE|DELETE|PRAGMA)\s")
WITH_SQL = ("runner/ledger/", "escalation/limits/daily_cap.py")
"""The ledger, and the day's cap, which has a file of its own."""
UNFIT_FOR_CPU = {"torchvision", "torchaudio", "torchcodec", "triton"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_over_300_lines() -> None:
    lengths = {name(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}


def test_no_function_is_over_40_lines() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 40
    ]
    assert long == []


def test_every_module_has_a_place_in_the_import_layers() -> None:
    # A module that no layer names may import anything: the linter would not look at it.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {module for layer in layers for module in re.findall(r"[\w.]+", layer)}
    modules = {
        f"runner.{path.stem}"
        for path in (ROOT / "runner").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert modules - named == set()


def test_nobody_is_told_of_an_event_by_a_sentence() -> None:
    # A sentence is for people. Who hears of an event hears its name and fields: `runner.notices`.
    bare = re.compile(r"Callable\[\[str\], (None|object)\]")
    found = [
        f"{name(path)}:{node.lineno}"
        for path in SOURCES if path.relative_to(ROOT).parts[0] != "scripts"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Subscript) and bare.fullmatch(ast.unparse(node))
    ]  # fmt: skip
    assert found == []


def test_a_wheel_carries_every_file_that_is_no_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    carried = project["tool"]["setuptools"]["package-data"]["*"]
    files = [
        path for room in ("runner", "escalation") for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]  # fmt: skip
    assert [name(path) for path in files if not any(map(path.match, carried))] == []


def sql_in(source: str) -> list[str]:
    """The string literals that are SQL, of an f-string its first part."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and SQL.match(text)]


def test_the_ledger_is_asked_by_its_methods_alone() -> None:
    sources = {name(path): path.read_text("utf-8") for path in SOURCES}
    outside = {
        path: sql_in(text)
        for path, text in sources.items()
        if not path.startswith((*WITH_SQL, "scripts/"))
    }
    assert {path: found for path, found in outside.items() if found} == {}
    # Each of those that may have some has some, so the list is no longer than it must be.
    for place in WITH_SQL:
        found = [sql_in(text) for path, text in sources.items() if path.startswith(place)]
        assert any(found), place


@pytest.mark.parametrize(
    "asked",
    ["db.query('SELECT 1')", "f' DELETE FROM {table}'", "('UPDATE outcomes '\n'SET value=1')"],
)
def test_sql_is_found_however_it_is_written(asked: str) -> None:
    assert len(sql_in(asked)) == 1


@pytest.mark.process
def test_importing_the_command_line_loads_nothing_heavy() -> None:
    script = "import json, sys, runner.cli.main; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert set(HEAVY) & set(json.loads(ran.stdout)) == set()


@pytest.mark.parametrize("stack", ["cpu", "gpu"])
def test_a_requirement_list_is_complete_pins_and_nothing_else(stack: str) -> None:
    lines = (ROOT / "requirements" / f"{stack}.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[\w.+!]+", pin)] == []
    listed = [pin.split("==")[0] for pin in pins]
    assert listed == sorted(set(listed))
    assert not (UNFIT_FOR_CPU & set(listed)) or stack == "gpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"]]
    brought = (stack, "transformers", "serve", "sql", "dev")
    asked += [each for extra in brought for each in extras[extra]]
    wanted = {re.split(r"[^\w-]", each.lower())[0] for each in asked}
    assert wanted - set(listed) == set(), "run `make lock`"


def test_the_readme_says_how_to_start() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8") if readme.exists() else "make demo, make test"
    assert "make demo" in text
    assert "make test" in text


def test_no_file_names_a_home_folder() -> None:
    home = re.compile(r"(?<![\w.])/(?:home|Users|root)/\w")
    rooms = (".ci", "configs", "docs", "escalation", "requirements", "runner", "scripts", "tests")
    paths = [*ROOT.glob("*"), *(path for room in rooms for path in (ROOT / room).rglob("*"))]
    texts = [path for path in paths if path.suffix in TEXTS and path.is_file()]
    assert len(texts) > len(SOURCES)
    assert [name(path) for path in texts if home.search(path.read_text("utf-8"))] == []
