"""Job files and overrides of odd contents: each a sentence and status 2, soon, and no traceback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fakes import surelocal

JOB = """\
name: small
records: {path: records.jsonl}
prompt: {user: "{{ message }}"}
answer: text
local: {model: nobody/no-model}
confidence: {threshold: 0.9}
"""


def laughs(first: str, form: str, levels: int = 30) -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {form.replace('@', f'*a{n - 1}')}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


ODD = {
    "laughs": laughs("[1]", "[@, @]"),
    "laughs nine": laughs("[1]", "[@, @, @, @, @, @, @, @, @]"),
    "laughs in mappings": laughs("{k: 1}", "{a: @, b: @}"),
    "laughs by merging": laughs("{k: 1}", "{<<: [@, @]}"),
    "laughs of text": laughs("xxxxxxxxxxxxxxxxxxxx", "[@, @]"),
    "itself": "a: &a [*a]\n",
    "itself in a mapping": "a: &a {b: *a}\n",
    "itself by merging": "a: &a {<<: *a}\n",
    "deep": "a: " + "[" * 5000 + "\n",
    "deep and whole": "a: " + "[" * 5000 + "]" * 5000 + "\n",
    "deep mappings": "a: " + "{a: " * 5000 + "\n",
    "deep blocks": "- " * 5000 + "\n",
    "deep keys": "? " * 5000 + "\n",
    "deep by indent": "".join(" " * n + "a:\n" for n in range(600)),
    "huge": "name: " + "x" * 3_000_000 + "\n",
    "many": "a:\n" + "- 1\n" * 200_000,
    "many keys": "".join(f"k{n}: 1\n" for n in range(80_000)),
    "int": "name: " + "9" * 5000 + "\n",
    "hex": "name: 0x" + "f" * 100_000 + "\n",
    "binary": "name: 0b" + "1" * 500_000 + "\n",
    "sexagesimal": "name: 1" + ":59" * 100_000 + "\n",
    "float": "name: 1." + "9" * 5000 + "\n",
    "odd int": "name: 0b_\n",
    "odd hex": "name: 0x_\n",
    "infinite": "confidence: {threshold: .inf}\n",
    "no number": "confidence: {threshold: .nan}\n",
    "python": 'name: !!python/object/apply:os.system ["touch /tmp/no"]\n',
    "python name": "name: !!python/name:os.system\n",
    "own tag": "name: !own x\n",
    "bad int tag": "name: !!int ''\n",
    "bad float tag": "name: !!float ''\n",
    "bad bool tag": "name: !!bool maybe\n",
    "bad timestamp": "name: !!timestamp 9999-99-99\n",
    "no timestamp": "name: !!timestamp x\n",
    "bad binary": "name: !!binary é\n",
    "set": "name: !!set {a, b}\n",
    "pairs": "name: !!pairs [a: 1]\n",
    "omap": "name: !!omap x\n",
    "value": "name: =\n",
    "merge as a value": "name: <<\n",
    "merge of text": "<<: x\n",
    "twice": "name: a\nname: b\n",
    "a list for a key": "? [a]\n: b\n",
    "a mapping for a key": "{{ message }}: x\n",
    "a number for a key": "1: x\n",
    "null for a key": "~: x\n",
    "true for a key": "true: x\n",
    "infinity for a key": ".inf: x\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "no anchor": "a: *b\n",
    "anchor twice": "a: &a 1\nb: &a 2\n",
    "tab": "a:\n\t- b\n",
    "nul": "name: a\0b\n",
    "control": "name: a\x07b\n",
    "half": 'name: "\\ud800"\n',
    "escape": 'name: "\\UFFFFFFFF"\n',
    "escaped nul": 'local: {model: "a\\0b"}\n',
    "directive": "%YAML 9.9\n---\nname: a\n",
    "tag directive": "%TAG ! tag:yaml.org,2002:python/\n---\nname: !name:os.system x\n",
    "empty": "",
    "a list": "- a\n",
    "text": "just text\n",
    "number": "5\n",
}
BYTES = {
    "utf-16": ("name: a\n" * 3).encode("utf-16"),
    "utf-32": ("name: a\n" * 3).encode("utf-32"),
    "latin-1": "name: é\n".encode("latin-1"),
    "zeros": bytes(5000),
    "binary": bytes(range(256)) * 50,
    "long utf-8 cut": ("é" * 1_000_000).encode(),
}


def refused(*args: object) -> str:
    began = time.process_time()
    result = surelocal(*args)
    assert result.exit_code == 2, (result.stderr, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert 0 < len(result.stderr) < 2000
    assert time.process_time() - began < 10
    return str(result.stderr)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "records.jsonl").write_text('{"message": "hi"}\n', "utf-8")
    path = tmp_path / "job.yaml"
    path.write_text(JOB, "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("where", ["alone", "behind"])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_job_file_is_a_sentence(job: Path, odd: str, where: str) -> None:
    if (odd, where) == ("empty", "behind"):
        return
    job.write_text(ODD[odd] if where == "alone" else JOB + ODD[odd], "utf-8", newline="\n")
    refused("validate", job)


@pytest.mark.parametrize("odd", BYTES)
def test_odd_bytes_are_a_sentence(job: Path, odd: str) -> None:
    job.write_bytes(BYTES[odd])
    assert str(job) in refused("validate", job).replace("\n", "")


def test_a_mark_at_the_files_start_is_nothing(job: Path) -> None:
    job.write_bytes(b"\xef\xbb\xbf" + job.read_bytes())
    assert surelocal("validate", job).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("key", ["name", "answer", "confidence", "local.model", "no.such.key"])
@pytest.mark.parametrize(
    "value",
    [
        "&a [*a]", "[" * 5000, "[" * 500 + "]" * 500, "9" * 5000, "0x" + "f" * 90_000,
        "1" + ":59" * 30_000, "!!python/name:os.system", "!!timestamp x", "{<<: 1}", "=", "[1, 2",
        "? [a]\n: b", "x: &a {b: *a}", "- " * 5000, "a\0b", "\ud800", "[" + "x," * 60_000 + "]",
    ],
)  # fmt: skip
def test_odd_overrides_are_a_sentence_or_text(job: Path, key: str, value: str) -> None:
    began = time.process_time()
    result = surelocal("validate", job, "--set", f"{key}={value}")
    assert result.exit_code in (0, 2), (result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 200_000
    assert time.process_time() - began < 10


def test_a_key_of_too_many_parts(job: Path) -> None:
    said = refused("validate", job, "--set", ".".join("a" * 3000) + "=1")
    assert "no key of a job has so many parts" in said


def test_anchors_and_merging_go_on_as_they_did(job: Path) -> None:
    job.write_text(
        JOB.replace("local: {model", "local: &l {model")
        + "privacy: {redact: &r [message]}\nmetrics: {}\n".replace("metrics: {}\n", ""),
        "utf-8",
    )
    assert surelocal("validate", job).exit_code == 0
