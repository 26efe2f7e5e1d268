"""The documents are true: their commands run or at least parse, their jobs are jobs, their links
lead somewhere, and the output that they show is what comes."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from runner.cli.main import main
from runner.job import Job
from runner.job.file import load_job
from runner.pipeline.preflight import check_job
from tests import fakes, jobs
from tests.documents import (
    DOCS,
    GENERATED,
    ROOT,
    TUTORIAL,
    Block,
    all_blocks,
    anchors,
    blocks,
    code_spans,
    commands,
    documents,
    links,
    shown_in,
)  # fmt: skip
from tests.stand_in import StandIn

EXAMPLES = DOCS / "examples"
# Why a block is not run; a new reason, or one more of a kind, is a decision.
NOT_RUN = {
    "downloads a model": 1,
    "installs, and serves until it is stopped": 1,
    "minutes of work": 6,
    "needs a cluster": 2,
    "needs a key": 4,
    "needs a server": 1,
    "runs until it is stopped": 1,
    "sets up this checkout": 2,
    "shown in the tutorial": 1,
}
LANGUAGES = {"console", "yaml", "json", "python", "text", "sql"}
# Columns that the jobs in the documents speak of.
COLUMNS = (
    "id", "ticket_id", "message", "kind", "plan", "plan_value", "first_name", "last_name", "name",
    "email", "phone", "region", "topic", "text", "iban", "amount", "language",
)  # fmt: skip
SHELL = {"cat", "cp", "curl", "grep", "head", "mkdir", "nvidia-smi", "ray", "sed", "sqlite3"}
SLOW = pytest.mark.slow


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- what runs ------------------------------------------------------------------------------------


@dataclass
class World:
    """A copy of what a reader starts with, and a shell in it."""

    folder: Path
    environment: dict[str, str]

    def run(self, block: Block) -> Iterator[tuple[str, str, int, str]]:
        """Each command with the output shown, and what it ended with and wrote."""
        for command in commands(block):
            if given := re.fullmatch(r"export (\w+)=.*", command.text):
                self.environment[given[1]] = jobs.KEY
                continue
            ran = self.shell(command.text)
            yield command.text, command.shown, ran.returncode, ran.stdout

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
            env={**os.environ, "PATH": path, "COLUMNS": "80", **self.environment},
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Where the documents' commands run; the closed model is the stand-in, and is always right."""
    folder = tmp_path_factory.mktemp("reader")
    truth = {row["Ticket No"]: row["intent"] for row in sheet(EXAMPLES / "truth.csv")}
    texts = {row["Customer message"]: truth.get(row["Ticket No"]) for row in tickets()}
    with StandIn(folder, oracle=texts) as api:
        target = folder / "docs" / "examples"
        target.mkdir(parents=True)
        for path in EXAMPLES.iterdir():
            if path.is_file():
                (target / path.name).write_bytes(path.read_bytes())
        job = (target / "job.yaml").read_text("utf-8")
        there = job.replace("escalation: {", f'escalation: {{base_url: "{api.url}", ')
        assert there != job
        (target / "job.yaml").write_text(there, "utf-8")
        for room in ("configs", "scripts"):
            (folder / room).symlink_to(ROOT / room)
        # A socket's path must be short, and a folder of its own keeps a developer's engines out.
        with tempfile.TemporaryDirectory() as engines:
            reader = World(folder, {"XDG_RUNTIME_DIR": engines})
            try:
                yield reader
            finally:
                reader.shell("surelocal engines --stop")


def sheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def tickets() -> list[dict[str, str]]:
    return sheet(EXAMPLES / "tickets.csv")


@SLOW
def test_the_commands_run_and_show_what_the_documents_show(world: World) -> None:
    """One test, since each document goes on where the tutorial ends."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    wrong = list[str]()
    for block in all_blocks("console"):
        for command, shown, status, output in world.run(block) if not block.not_run else ():
            meant = (1, 2) if shown.startswith("surelocal: ") else (0, 3)
            if status not in meant or not shown_in(shown, output):
                wrong.append(f"{block}: $ {command}\nends with {status}:\n{output}")
                assert block.path != TUTORIAL, wrong[-1]  # what follows builds on it
    assert wrong == []


@pytest.mark.process
def test_the_examples_are_made_from_the_demo(tmp_path: Path) -> None:
    made = tmp_path / "docs" / "examples"
    made.mkdir(parents=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (made / "make_tickets.py").write_bytes((EXAMPLES / "make_tickets.py").read_bytes())
    subprocess.run([sys.executable, made / "make_tickets.py"], check=True, capture_output=True)
    for path in ("tickets.csv", "truth.csv"):
        assert (made / path).read_bytes() == (EXAMPLES / path).read_bytes()


def test_the_tutorial_shows_the_job_that_it_runs() -> None:
    [job] = [b for b in blocks(TUTORIAL) if b.text.startswith("# jobs/triage/job.yaml")]
    assert job.text == (EXAMPLES / "job.yaml").read_text("utf-8")


def test_the_readme_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    fakes.write_job(tmp_path, "id,message\n").rename(tmp_path / "triage.yaml")
    monkeypatch.chdir(tmp_path)
    [block] = [b for b in blocks(ROOT / "README.md") if b.language == "python" and not b.not_run]
    names: dict[str, Any] = {"frame": pandas.DataFrame({"id": ["1", "2"], "message": ["a", "b"]})}
    exec(block.text.replace("print(", "str("), names)
    assert names["table"].num_rows == 2


# -- what is not run ------------------------------------------------------------------------------


def test_every_block_that_is_not_run_says_why() -> None:
    assert {b.language for b in all_blocks(*LANGUAGES)} <= LANGUAGES
    unknown = [str(b) for path in documents() for b in blocks(path) if b.language not in LANGUAGES]
    assert unknown == []
    mute = [str(b) for b in all_blocks("console") if not commands(b)]
    assert mute == [], "console blocks without a line that begins with `$ `"
    reasons = Counter(b.not_run for b in all_blocks(*LANGUAGES) if b.not_run)
    assert dict(reasons) == NOT_RUN
    python = [str(b) for b in all_blocks("python") if not b.not_run]
    assert all(each.startswith("README.md:") for each in python), python


def test_every_command_could_be_given() -> None:
    wrong = {}
    for block in all_blocks("console"):
        for command in commands(block):
            if problem := problem_of(command.text):
                wrong[f"{block}: {command.text}"] = problem
    assert wrong == {}


def problem_of(command: str) -> str | None:
    """What is wrong with a command that is not run, as far as can be told."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words.pop(0)
    if not words or words[0] in ("export", "."):
        return None
    first, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if first == "surelocal":
        return problem_of_ours(rest)
    if first == "make":
        targets = re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text("utf-8"))
        return None if rest[0] in targets else "no such target"
    if first == "python" and rest[0] == "-m":
        return None
    if first == "python":
        return problem_of_script(rest)
    if first == "pip":
        return problem_of_extras(rest[-1])
    return None if first in SHELL else "a command that no document has used before"


def problem_of_ours(words: list[str]) -> str | None:
    """By click itself: no value may be missing, no option misspelt, no number out of range."""
    command: click.Command = main
    context: click.Context | None = None
    try:
        while isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=words[0])
            found = command.get_command(context, words[0])
            if found is None:
                return f"no command {words[0]}"
            command, words = found, words[1:]
        command.make_context(command.name, words, parent=context)
    except click.UsageError as error:
        return error.format_message()
    except click.exceptions.Exit:
        pass
    return None


def problem_of_script(words: list[str]) -> str | None:
    path = ROOT / words[0].replace("jobs/triage/", "docs/examples/")
    if not path.exists():
        return "no such script"
    files = [path] if path.is_file() else sorted(path.glob("*.py"))
    source = "".join(file.read_text("utf-8") for file in files)
    options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    missing = [option for option in options if f'"{option}"' not in source]
    return f"no option {missing}" if missing else None


def problem_of_extras(what: str) -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = re.fullmatch(r"(?:\.|surelocal)\[([\w,]+)\]", what)
    if found is None:
        return "installs something else"
    missing = set(found[1].split(",")) - set(project["optional-dependencies"])
    return f"no extra {missing}" if missing else None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("surelocal run JOB.yaml --limit 3", None),
        ("surelocal run JOB.yaml --limits 3", "No such option"),
        ("surelocal run JOB.yaml --limit none", "Invalid value"),
        ("surelocal run", "Missing argument"),
        ("surelocal rnu JOB.yaml", "no command rnu"),
        ("surelocal review export RUN_DIR FILE --sample 0", "Invalid value"),
        (".venv/bin/python scripts/bench/selective.py --splits 200", None),
        (".venv/bin/python scripts/bench/selective.py --spits 200", "no option"),
        ("python scripts/nothing.py", "no such script"),
        ("make nothing", "no such target"),
        ("pip install 'surelocal[servants]'", "no extra"),
        ("rm -rf /", "no document has used"),
    ],
)
def test_a_command_that_could_not_be_given_is_found(command: str, said: str | None) -> None:
    problem = problem_of(command)
    assert problem is None if said is None else said in (problem or "")


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        ("a 12 b", "a 13.5 b\n", True),
        ("a line", "a\nline", True),
        ("a line", "another line", False),
        ("…\nlast", "first\nsecond\nlast\n", True),
        ("first\n…", "first\nsecond\n", True),
        ("first\n…\nlast", "first\nsecond\n", False),
        ("took … seconds", "took 3.1 seconds", True),
        ("took 3 s", "took no s", False),
        ("", "anything", True),
    ],
)
def test_output_is_compared_but_for_its_numbers(shown: str, output: str, same: bool) -> None:
    assert shown_in(shown, output) == same


def test_every_command_in_a_sentence_exists() -> None:
    wrong = {}
    for path in documents():
        for span in code_spans(path):
            words = re.findall(r"[\w.-]+", span)
            if words and words[0] == "surelocal" and len(words) > 1:
                wrong[f"{name(path)}: {span}"] = problem_of_options(words[1:])
            for script in re.findall(
                r"(?:scripts|tests|runner|escalation|configs)/[\w./-]*\w", span
            ):
                if not (ROOT / script).exists() and "NAME" not in script:
                    wrong[f"{name(path)}: {span}"] = "no such file"
    assert {where: problem for where, problem in wrong.items() if problem} == {}


def problem_of_options(words: list[str]) -> str | None:
    """Of a synopsis: its command and its options exist."""
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        found = command.commands.get(words[0])
        if found is None:
            return None if words[0].startswith("-") else f"no command {words[0]}"
        command, words = found, words[1:]
    known = {option for each in command.params for option in each.opts} | {"--help"}
    missing = [
        word for word in words if word.startswith("-") and word.strip("-") and word not in known
    ]
    return f"no option {missing}" if missing else None


# -- jobs, and other data -------------------------------------------------------------------------


def test_every_yaml_block_is_a_job_or_part_of_one(tmp_path: Path) -> None:
    wrong = {}
    for n, block in enumerate(all_blocks("yaml")):
        try:
            hold(block, tmp_path / str(n))
        except Exception as error:
            wrong[str(block)] = str(error)
    assert wrong == {}


def hold(block: Block, folder: Path) -> None:
    """Validates a job as `surelocal validate` does; what a part leaves out is filled in."""
    given = yaml.safe_load(block.text)
    if not set(given) & set(Job.model_fields):
        return
    folder.mkdir()
    job = {**fakes.JOB, **given}
    job["local"] = {"model": "nobody/no-model", **given.get("local", {})}
    if "preset" in job["local"] and "model" not in given["local"]:
        del job["local"]["model"]
    if str(job["local"].get("model", "")).startswith(("/", "../")):
        job["local"]["model"] = str(jobs.DEMO_MODEL)
    records, path = job["records"], folder / "job.yaml"
    batch = records.get("path") == "batch.jsonl"
    if batch:
        del job["prompt"], job["answer"]
    if "path" in records:
        columns = [*(tickets()[0] if "Ticket No" in records.values() else COLUMNS)]
        body = {"messages": [{"role": "user", "content": "a"}]}
        line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
        header = records.get("delimiter", ",").join(columns) + "\n"
        rows = json.dumps(dict.fromkeys(columns, "a")) + "\n"
        text = json.dumps(line) if batch else header if records["path"].endswith("csv") else rows
        (folder / records["path"]).parent.mkdir(exist_ok=True)
        (folder / records["path"]).write_text(text, "utf-8")
    path.write_text(yaml.safe_dump(job, sort_keys=False), "utf-8")
    file = load_job(path)
    if "path" in records and file.job.output.table is None:
        check_job(file, calibrated=False)


def test_every_json_block_is_json_and_every_python_block_compiles() -> None:
    for block in all_blocks("json"):
        json.loads(block.text)
    for block in all_blocks("python"):
        compile(block.text, str(block), "exec")


def test_every_job_key_in_a_sentence_exists() -> None:
    keys = {key for model in models(Job) for key in names(model)}
    wrong = []
    for path in documents():
        for span in code_spans(path):
            parts = re.fullmatch(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:: .*)?", span)
            if parts and parts[1].split(".")[0] in names(Job) and not known(parts[1].split(".")):
                wrong.append(f"{name(path)}: {span}")
            found = re.fullmatch(r"([a-z_]+): \{(.*)\}", span)
            # The keys of `fields` are the answer's own, those of `engine_args` the engine's.
            if found and found[1] in keys - {"fields", "engine_args"}:
                inner = re.findall(r"([a-z_]+):(?= )", re.sub(r'"[^"]*"', "", found[2]))
                wrong += [f"{name(path)}: {span}: {key}" for key in inner if key not in keys]
    assert wrong == []


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for one in model.model_fields.values():
        for inner in inside(one.annotation):
            yield from models(inner)


def inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from inside(argument)


def names(model: type[BaseModel]) -> set[str]:
    return {one.alias or each for each, one in model.model_fields.items()} | {"preset"}


def known(parts: list[str]) -> bool:
    """Whether a dotted key is one of a job; what goes to an engine is not ours to know."""
    model: type[BaseModel] = Job
    for part in parts:
        fields = {one.alias or each: one for each, one in model.model_fields.items()}
        if part not in fields:
            return part == "preset" or model.model_config.get("extra") == "allow"
        inner = next(inside(fields[part].annotation), None)
        if inner is None:
            return True
        model = inner
    return True


# -- links ----------------------------------------------------------------------------------------


def test_every_link_leads_somewhere() -> None:
    wrong = []
    for path in [*documents(), ROOT / "CONTRIBUTING.md", *GENERATED.glob("*.md")]:
        for link in links(path):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            there = (path.parent / target).resolve() if target else path
            if not there.exists() or (anchor and anchor not in anchors(there)):
                wrong.append(f"{name(path)}: {link}")
    assert wrong == []


def test_the_index_names_every_document() -> None:
    named = {link.partition("#")[0] for link in links(DOCS / "README.md")}
    written = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert written - named == {"README.md"}
