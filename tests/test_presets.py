"""The presets: their facts against vLLM and transformers, their place in a job, their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.errors import JobError, UsageError
from runner.job.file import load_job
from runner.job.presets import Layers, choose, folder, presets, resolved, verified
from runner.machine.memory import BLOCK, CPU_BLOCK, GIB, Model, fit, layers_of, of_folder, of_preset
from tests.fakes import write_job
from tests.jobs import DEMO_MODEL, ROOT

sys.path.append(str(ROOT / "scripts"))
HEADER = "id,message\n"
FAMILIES = (
    "Qwen3", "Qwen3-Coder", "Qwen3.5", "Qwen3.6", "DeepSeek", "DeepSeek V4", "GLM", "Kimi K2",
    "Kimi K2.6", "Llama 4", "Gemma 3", "Gemma 4", "gpt-oss",
)  # fmt: skip
_ASK_VLLM = """
import json, sys
from vllm.model_executor.models.registry import ModelRegistry
from vllm.reasoning import ReasoningParserManager
from vllm import EngineArgs, SamplingParams
from dataclasses import fields
print(json.dumps({
    "architectures": sorted(ModelRegistry.get_supported_archs()),
    "parsers": sorted(ReasoningParserManager.list_registered()),
    "arguments": sorted(f.name for f in fields(EngineArgs)),
    "sampling": sorted(SamplingParams.__annotations__),
}))
"""
_LOAD_DEMO = """
import json, sys
from runner.engines.vllm.engine import VllmEngine
from runner.job import Local

if __name__ == "__main__":
    local = Local(
        model=sys.argv[1], cpu_threads=1,
        engine_args={"dtype": "float32", "max_model_len": -1, "block_size": int(sys.argv[2])},
    )
    cache = VllmEngine(sys.argv[1], local)._engine.vllm_config.cache_config
    print(json.dumps([cache.num_gpu_blocks, cache.block_size, cache.kv_cache_size_tokens]))
"""


def python(script: str, *arguments: str, **environment: str) -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def vllm() -> Any:
    """What the installed vLLM has; in a process of its own, since importing it leaves its mark."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    return python(_ASK_VLLM)


# -- the facts ------------------------------------------------------------------------------------


def test_every_family_that_was_promised_is_there() -> None:
    assert set(FAMILIES) <= {preset.family for preset in presets().values()}


def test_vllm_knows_every_architecture_parser_and_argument(vllm: Any) -> None:
    for preset in presets().values():
        assert preset.architecture in vllm["architectures"], preset.name
        for variant in preset.variants.values():
            assert set(variant.engine_args) <= set(vllm["arguments"]), preset.name
        assert set(preset.engine_args) <= set(vllm["arguments"]), preset.name
        for mode in preset.modes.values():
            assert mode.reasoning_parser is None or mode.reasoning_parser in vllm["parsers"]
            assert set(mode.sampling) <= set(vllm["sampling"]), preset.name


def test_thinking_has_a_parser_and_room_and_direct_answers_have_none() -> None:
    for preset in presets().values():
        for name, mode in preset.modes.items():
            assert (mode.reasoning_parser is not None) == (name == "thinking"), preset.name
            assert name == "direct" or mode.sampling["max_tokens"] >= 8192, preset.name


def test_a_verification_is_of_an_architecture_that_a_preset_has() -> None:
    found = verified()
    assert set(found) <= {preset.architecture for preset in presets().values()}
    for name, one in found.items():
        assert one["way"] in ("vllm", "transformers", None), name
        # What failed is said, and what did not has nothing to say.
        assert one["problems"] or (one["way"] == "vllm" and one["whole"]), name


# -- in a job -------------------------------------------------------------------------------------


def job_with(folder: Path, **local: Any) -> Path:
    return write_job(folder, HEADER + "1,a\n", local=local)


def test_a_preset_fills_what_the_job_leaves_out(tmp_path: Path) -> None:
    local = load_job(job_with(tmp_path, preset="qwen3-32b/fp8/thinking")).job.local
    assert local.model == "Qwen/Qwen3-32B-FP8"
    assert (local.reasoning_parser, local.chat_template_args) == (
        "qwen3",
        {"enable_thinking": True},
    )
    assert (local.sampling.temperature, local.sampling.max_tokens) == (0.6, 32768)
    assert local.sampling.model_extra == {"top_p": 0.95, "top_k": 20, "min_p": 0.0}


def test_the_jobs_own_keys_win(tmp_path: Path) -> None:
    path = job_with(
        tmp_path, preset="qwen3-8b/thinking", model="elsewhere/qwen", reasoning_parser=None,
        sampling={"temperature": 0.2}, engine_args={"max_model_len": 8192},
    )  # fmt: skip
    local = load_job(path, ("local.engine_args.seed=7",)).job.local
    assert (local.model, local.reasoning_parser) == ("elsewhere/qwen", None)
    assert local.sampling.temperature == 0.2
    assert (local.sampling.model_extra or {})["top_k"] == 20
    assert local.engine_args == {"max_model_len": 8192, "seed": 7}


def test_the_identity_is_that_of_the_resolved_values(tmp_path: Path) -> None:
    short = load_job(job_with(tmp_path, preset="qwen3-8b")).job
    whole = short.local.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "plain").mkdir()
    plain = load_job(job_with(tmp_path / "plain", **whole)).job
    assert short.identity()["local"] == plain.identity()["local"]
    other = load_job(job_with(tmp_path, preset="qwen3-8b/thinking")).job
    assert other.identity()["local"] != short.identity()["local"]


def test_a_constrained_direct_answer_is_greedy_and_a_free_one_as_the_makers_say() -> None:
    def sampling(answer: dict[str, Any], preset: str) -> Any:
        return resolved({"local": {"preset": preset}, "answer": answer})["local"]["sampling"]

    assert sampling({"labels": ["a", "b"]}, "qwen3-8b") == {"temperature": 0}
    assert sampling({"text": True}, "qwen3-8b")["temperature"] == 0.7
    assert sampling({"labels": ["a", "b"]}, "qwen3-8b/thinking")["temperature"] == 0.6


def test_what_is_vllms_own_is_left_out_for_another_engine() -> None:
    def local(**given: Any) -> Any:
        return resolved({"local": {"preset": "qwen3.6-27b/thinking", **given}})["local"]

    for engine in ("openai_server", "auto"):
        server = local(engine=engine, base_url="http://127.0.0.1:1/v1")
        assert "reasoning_parser" not in server
        assert server["engine_args"] == {}
    alone = local(engine="transformers")
    assert alone["engine_args"] == {}
    assert "presence_penalty" not in alone["sampling"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3-8", "no preset is called `qwen3-8`; did you mean `qwen3-8b`?"),
        ("zebra", "no preset is called `zebra`; `surelocal models` lists them"),
        ("qwen3-8b/fp9", "`qwen3-8b` has no `/fp9`; it has: /bf16, /direct, /thinking"),
        ("deepseek-r1-0528/direct", "`deepseek-r1-0528` has no `/direct`"),
    ],
)
def test_a_wrong_name_is_a_mistake_with_its_line_and_the_fix(
    tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job_with(tmp_path, preset=name))
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("line ")
    assert f"`local.preset`: {said}" in mistake


def test_what_could_not_be_split_is_refused_with_the_fix() -> None:
    labels = {"answer": {"labels": ["a", "b"]}}
    with pytest.raises(ValueError, match="start `vllm serve openai/gpt-oss-20b`, and add"):
        resolved({"local": {"preset": "gpt-oss-20b"}, **labels})
    served = {"preset": "gpt-oss-20b", "engine": "openai_server", "base_url": "http://x/v1"}
    assert resolved({"local": served, **labels})["local"]["model"] == "openai/gpt-oss-20b"


def test_without_a_mode_it_does_not_think_unless_it_must() -> None:
    assert choose("qwen3-8b").mode == "direct"
    assert choose("deepseek-r1-0528").mode == "thinking"


def test_a_broken_preset_file_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.job.presets.folder", lambda: tmp_path)
    for text, said in [
        ("family: x", "cannot be read"),
        ("models: [{name: Bad Name}]", "String should match pattern"),
    ]:
        (tmp_path / "x.yaml").write_text(text)
        presets.cache_clear()
        with pytest.raises(UsageError, match=said):
            presets()
    presets.cache_clear()


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("block", [CPU_BLOCK])
def test_the_cache_is_what_vllm_itself_reports(block: int) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = of_folder(DEMO_MODEL, {"dtype": "float32", "block_size": block})
    assert model is not None
    reported = python(_LOAD_DEMO, str(DEMO_MODEL), str(block), VLLM_CPU_KVCACHE_SPACE="1")
    blocks, tokens_of_one, tokens = reported
    assert tokens_of_one == block
    assert blocks == GIB // model.sequence_bytes(block)
    assert tokens == GIB // model.token_bytes() // block * block


def test_the_demos_weights_are_counted_at_the_type_that_they_are_loaded_in() -> None:
    stored = (DEMO_MODEL / "model.safetensors").stat().st_size
    plain, wide = of_folder(DEMO_MODEL, {}), of_folder(DEMO_MODEL, {"dtype": "float32"})
    assert plain is not None
    assert wide is not None
    assert (plain.weight_bytes, wide.weight_bytes) == (stored, 2 * stored)
    assert wide.token_bytes() == 2 * plain.token_bytes() == 4 * 2 * 3 * 32 * 4


def test_published_sizes_are_met() -> None:
    # OpenAI's model card: 12.8 and 60.8 GiB; vLLM's recipe: 51.7 GiB for a 27B of this family,
    # its vision part included.
    for name, published in [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8), ("qwen3.6-27b", 51.7)]:
        assert of_preset(presets()[name]).weight_bytes / GIB == pytest.approx(published, rel=0.05)


def test_the_layers_of_a_config_are_understood_by_kind() -> None:
    plain = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
    assert layers_of(plain) == (Layers(count=2, kv_heads=4, head_dim=16),)
    mixed = layers_of(
        {
            **plain, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 128,
            "num_key_value_heads": 2, "head_dim": 32,
        }
    )  # fmt: skip
    assert mixed == (
        Layers(count=1, kind="window", window=128, kv_heads=2, head_dim=32),
        Layers(count=1, kv_heads=2, head_dim=32),
    )
    latent = layers_of({**plain, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert latent == (Layers(count=2, kind="latent", row_bytes=1152),)
    assert layers_of({"layer_types": ["something_new"], **plain}) is None


def test_a_window_stops_growing_and_mla_is_not_shared_out() -> None:
    window = Model("w", 0, (Layers(count=1, kind="window", window=128, kv_heads=2, head_dim=32),))
    assert window.sequence_bytes(4096) == window.sequence_bytes(8192)
    assert window.sequence_bytes(4096) == (128 + BLOCK) * 2 * 2 * 32 * 2
    heads = Model("h", 0, (Layers(count=1, kv_heads=8, head_dim=32),))
    assert heads.sequence_bytes(4096, 4) == heads.sequence_bytes(4096) // 4
    latent = Model("m", 0, (Layers(count=1, kind="latent", row_bytes=1152),))
    assert latent.sequence_bytes(4096, 4) == latent.sequence_bytes(4096) == 4096 * 1152


def test_the_fewest_gpus_that_hold_it_are_taken() -> None:
    eight = of_preset(presets()["qwen3-8b"])
    assert fit(eight, 4096, 32, [80 * GIB], 0).where == "1 GPU"
    assert fit(eight, 4096, 32, [24 * GIB] * 4, 0).where == "2 GPUs"
    less = fit(eight, 4096, 32, [24 * GIB], 0)
    assert (less.fits, less.where) == (False, f"1 GPU, {less.sequences} at once")
    assert 0 < less.sequences < 32
    assert fit(eight, 4096, 32, [8 * GIB], 0).where == "no"
    assert fit(eight, 4096, 32, [], 64 * GIB).where == "CPU"


# -- verification ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_architecture_is_verified_again(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from verify_presets import verify

    found = verify("Qwen3ForCausalLM", ["transformers"])
    assert (found["way"], found["problems"]) == ("transformers", {})
    assert found["whole"]
    assert found["modes"]["thinking"]["tokens_of_reasoning"] > 0


def test_the_presets_stand_where_they_are_looked_for() -> None:
    assert folder() == ROOT / "configs" / "models"
