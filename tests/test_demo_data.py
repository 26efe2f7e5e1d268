"""The demo's data, its records and its model, as they lie in the tree."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs" / "demo"
MODEL = DEMO / "model"
HIGH_STAKES = {"legal", "health", "finance"}
EASY = {
    "my card was declined at the store yesterday": ("card_declined", "credit_cards"),
    "what is the balance of my checking account": ("balance", "banking"),
    "how do you say thank you in french": ("translate", "travel"),
    "set an alarm for six in the morning": ("alarm", "utility"),
    "the airline lost my luggage": ("lost_luggage", "travel"),
    "tell me a joke": ("tell_joke", "small_talk"),
}


def _script(name: str) -> Any:
    """A module below scripts/, which is no installed package."""
    scripts = str(ROOT / "scripts")
    if scripts not in sys.path:
        sys.path.insert(0, scripts)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def truth() -> list[dict[str, str]]:
    with (DEMO / "truth.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(truth: list[dict[str, str]]) -> list[list[str]]:
    """Each record's fields, in the order of the truth."""
    text = (DEMO / "records.csv").read_bytes().decode("utf-8", errors="replace")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == _script("make_demo_records").COLUMNS
    assert len(rows) == len(truth)
    return rows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Any:
    pytest.importorskip("torch")
    return _script("train_demo_model.evaluate").Model(MODEL)


def test_records_come_out_of_the_script_byte_for_byte(tmp_path: Path) -> None:
    _script("make_demo_records").make(tmp_path, 1)
    for name in ("records.csv", "truth.csv"):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes(), name


def test_another_seed_gives_other_records(tmp_path: Path) -> None:
    _script("make_demo_records").make(tmp_path, 2)
    assert (tmp_path / "records.csv").read_bytes() != (DEMO / "records.csv").read_bytes()


def test_there_are_3000_records_of_the_intended_kinds(
    rows: list[list[str]], truth: list[dict[str, str]]
) -> None:
    assert len(rows) == 3000
    assert Counter(row[1] for row in rows) == {"message": 2625, "birthday": 300, "renewal": 75}
    assert Counter(t["domain"] for t in truth if t["domain"] in HIGH_STAKES) == dict.fromkeys(
        HIGH_STAKES, 8
    )
    assert sum(t["intent"] == "oos" for t in truth) == 320
    assert all(not t["malformed"] for t in truth[:100])


def test_the_truth_names_each_records_physical_line(truth: list[dict[str, str]]) -> None:
    lines = (DEMO / "records.csv").read_bytes().split(b"\n")
    for record in truth:
        assert lines[int(record["line"]) - 1].startswith(record["ticket_id"].encode() + b",")


def test_routes_follow_from_kind_and_topic(
    rows: list[list[str]], truth: list[dict[str, str]]
) -> None:
    for row, record in zip(rows, truth, strict=True):
        if record["malformed"]:
            assert record["expected_route"] == "error"
            continue
        fields = dict(zip(_script("make_demo_records").COLUMNS, row, strict=True))
        topic = fields["topic"]
        wanted = "template" if fields["kind"] == "birthday" else "local"
        assert record["expected_route"] == ("closed" if topic in HIGH_STAKES else wanted)
        assert (topic in HIGH_STAKES) == (record["domain"] in HIGH_STAKES)


def test_malformed_records_are_malformed_as_said_and_the_others_are_not(
    rows: list[list[str]], truth: list[dict[str, str]]
) -> None:
    seen: set[str] = set()
    found: Counter[str] = Counter()
    for row, record in zip(rows, truth, strict=True):
        kind = ""
        if len(row) != 12:
            kind = "too_few_columns" if len(row) < 12 else "too_many_columns"
        elif not row[0]:
            kind = "empty_id"
        elif row[0] in seen:
            kind = "duplicate_id"
        elif "\ufffd" in row[-1]:
            kind = "not_utf8"
        elif len(row[-1].split()) > 512:
            kind = "too_long"
        seen.add(row[0])
        assert kind == record["malformed"], record
        found[kind] += bool(kind)
    assert set(found.values()) == {0, 2}


def test_some_messages_name_their_own_customer(rows: list[list[str]]) -> None:
    named = [r for r in rows if len(r) == 12 and any(r[i] in r[-1] for i in (3, 5))]
    assert len(named) >= 60


def test_nothing_measured_is_trained_on() -> None:
    data = _script("train_demo_model.data")
    trained = {question.text for question in data.training_questions()}
    assert len(trained) > 14_900
    for name in ("val", "test", "oos_train", "oos_val", "oos_test"):
        assert trained.isdisjoint(question.text for question in data.split(name)), name


@pytest.mark.slow
def test_the_records_ask_test_questions_only(
    rows: list[list[str]], truth: list[dict[str, str]]
) -> None:
    data = _script("train_demo_model.data")
    intents = {q.text: q.intent for name in ("test", "oos_test") for q in data.split(name)}
    asked = 0
    for row, record in zip(rows, truth, strict=True):
        if record["intent"] and not record["malformed"]:
            # A greeting may stand before the question.
            matches = [text for text in intents if row[-1].endswith(text)]
            assert intents[max(matches, key=len)] == record["intent"]
            asked += 1
    assert asked > 2600


def test_the_model_folder_is_small_and_complete() -> None:
    sizes = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert sum(sizes.values()) <= 6_000_000
    assert {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= set(sizes)
    config = json.loads((MODEL / "config.json").read_text("utf-8"))
    generation = json.loads((MODEL / "generation_config.json").read_text("utf-8"))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] == 512
    assert config["eos_token_id"] == generation["eos_token_id"]


@pytest.mark.slow
def test_the_chat_template_is_chatml(tokenizer: Any) -> None:
    chat = [{"role": "system", "content": "Sort."}, {"role": "user", "content": "hi {there}"}]
    rendered = "<|im_start|>system\nSort.<|im_end|>\n<|im_start|>user\nhi {there}<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == rendered
    assert (
        tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        == rendered + "<|im_start|>assistant\n"
    )


def test_training_builds_the_very_tokens_of_the_chat_template(tokenizer: Any) -> None:
    batches, data = _script("train_demo_model.batches"), _script("train_demo_model.data")
    prompts = _script("train_demo_model.prompts")
    encoder = batches.Encoder(tokenizer, random.Random(0))
    for question in data.split("val")[:50]:
        for form in prompts.Form:
            system = prompts.canonical(form)
            chat = [
                {"role": "system", "content": system},
                {"role": "user", "content": question.text},
                {
                    "role": "assistant",
                    "content": prompts.answer(form, question.intent, question.domain),
                },
            ]
            text = tokenizer.apply_chat_template(chat, tokenize=False).rstrip("\n")
            assert encoder.exact(question, system, form)[0] == tokenizer(text)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["label", "json"])
def test_the_model_answers_easy_questions(model: Any, form: str) -> None:
    prompts = _script("train_demo_model.prompts")
    chosen = prompts.Form(form)
    replies = model.ask(prompts.canonical(chosen), list(EASY))
    for reply, (intent, domain) in zip(replies, EASY.values(), strict=True):
        wanted = intent if form == "label" else json.dumps({"intent": intent, "domain": domain})
        assert reply.text == wanted
        assert 0 < reply.probability <= 1


def test_a_message_beyond_the_context_is_beyond_it(
    tokenizer: Any, rows: list[list[str]], truth: list[dict[str, str]]
) -> None:
    for row, record in zip(rows, truth, strict=True):
        if record["malformed"] == "too_long":
            assert len(tokenizer(row[-1])["input_ids"]) > 2 * 512


def test_the_copy_of_the_data_set_has_its_credit() -> None:
    text = (DEMO / "clinc150" / "README.md").read_text("utf-8")
    assert "CC BY 3.0" in text
    assert "Larson" in text


def test_the_check_of_a_run_counts_what_was_accepted_and_wrong() -> None:
    check = _script("check_demo")
    right, wrong = check.Judged(0.9, True, True, True), check.Judged(0.95, True, False, True)
    waits, odd = check.Judged(0.5, False, False, True), check.Judged(0.99, True, False, False)
    lines = check.report([right, right, wrong, waits, odd])
    assert lines[-2:] == [
        "Of 1 out-of-scope messages, 1 (100.0%) were accepted.",
        "Of 4 accepted local answers, 2 (50.0%) were wrong.",
    ]
    assert "| at the job's threshold: 75.0% (3) | 66.7% |" in lines
    nothing = check.report([waits, dataclasses.replace(odd, accepted=False)])
    assert nothing[-1] == "Of 0 accepted local answers, 0 (none) were wrong."
