"""Engines that stay loaded after their run: taken over, left, in use, idle, killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.engines.process.child import ChildEngine
from runner.engines.process.process import IN_USE
from runner.engines.process.reviving import Reviving
from runner.engines.process.warm_address import Keep, files_digest, folder, made_folder, name_of
from runner.engines.process.warm_client import Hung, Kept, adopt, kept, make_room, stop
from runner.engines.process.warm_notes import end_stuck
from runner.errors import EngineDied, JobError, UsageError
from runner.job.file import load_job
from runner.pipeline.load_engine import in_child
from runner.types import Completion, Event, Message, Notice, Prompt, Sampling, notice
from tests.fakes import surelocal
from tests.jobs import NO_KEY, ROOT, start, wait_until, write_job

pytestmark = pytest.mark.process

DEMO = ROOT / "configs" / "demo"


class Echo:
    """What a kept engine may meet, at the word of its prompt."""

    window, asks_for = 4, "a cup of memory"

    def __init__(self, thrift: int = 0) -> None:
        self.dropped = self.renewed = 0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        text = prompt.messages[-1].content
        if text == "wait":
            try:
                await asyncio.sleep(600)
            finally:
                self.dropped += 1
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Completion(f"{text} {self.dropped} {self.renewed} {os.getpid()}", "echo", "stop")

    async def renew(self) -> None:
        self.renewed += 1

    async def aclose(self) -> None:
        return None


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not pytest's own, which is too long for a socket's address.
    made = tempfile.mkdtemp()
    monkeypatch.setenv("XDG_RUNTIME_DIR", made)
    yield Path(made) / "surelocal"
    for one in kept():
        os.killpg(one.pid, signal.SIGKILL)
    shutil.rmtree(made)


def keep(name: str = "one", minutes: float = 10) -> Keep:
    return Keep(made_folder(), name, minutes, "echo")


def engine(name: str = "one", minutes: float = 10) -> ChildEngine:
    return in_child(Echo, None, keep(name, minutes), 0)


def answer(of: ChildEngine | Reviving, text: str) -> list[str]:
    prompt = Prompt((Message("user", text),))
    return asyncio.run(of.generate(prompt, Sampling())).text.split()


def close(*engines: ChildEngine | Reviving) -> None:
    for one in engines:
        asyncio.run(one.aclose())


def only() -> Kept:
    [found] = kept()
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# --- from run to run ---


def test_the_next_run_has_the_same_engine() -> None:
    first = engine()
    assert only().idle_s is None
    assert answer(first, "a") == ["a", "0", "0", str(first.pid)]
    close(first)
    idle = only()
    assert (idle.pid, idle.model, idle.name) == (first.pid, "echo", "one")
    assert idle.idle_s is not None and idle.ends_in_s is not None and idle.ends_in_s > 590
    assert idle.memory_bytes > 1 << 20
    second = engine(minutes=20)
    assert (second.window, second.asks_for) == (4, "a cup of memory")
    assert answer(second, "b") == ["b", "0", "1", str(first.pid)]
    close(second)
    assert 1190 < (only().ends_in_s or 0) <= 1200


def test_without_the_key_an_engine_ends_with_its_run() -> None:
    alone = in_child(Echo, None, None, 0)
    close(alone)
    assert kept() == [] and gone(alone.pid)


def test_a_script_started_as_python3_takes_over_what_the_command_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = name_of({})
    monkeypatch.setattr("sys.executable", f"{sys.executable}3")
    assert name_of({}) == before


def test_another_name_is_another_engine() -> None:
    one, two = engine("one"), engine("two")
    assert one.pid != two.pid
    close(one, two)
    assert {found.name for found in kept()} == {"one", "two"}
    assert make_room() == 2
    assert kept() == []
    wait_until(lambda: gone(one.pid) and gone(two.pid))


def test_a_second_run_at_the_same_time_loads_its_own() -> None:
    first = engine()
    second = Reviving(partial(in_child, Echo, None, keep()))
    told: list[Notice] = []
    second.hear(told.append)
    assert told == [notice(Event.WARNING, IN_USE)]
    own = int(answer(second, "b")[-1])
    assert own != first.pid
    assert answer(first, "a")[-1] == str(first.pid)
    assert not stop(only())  # a run uses it
    close(second)
    assert gone(own)
    close(first)
    assert only().pid == first.pid


def test_a_killed_run_leaves_the_engine_well() -> None:
    script = (
        "import asyncio\nfrom tests import test_keep_loaded as t\n"
        "engine = t.engine()\nprint(engine.pid, flush=True)\n"
        "async def ask():\n"
        "    await asyncio.gather(*(engine.generate(t.Prompt((t.Message('user', 'wait'),)),\n"
        "        t.Sampling()) for _ in range(3)))\n"
        "asyncio.run(ask())\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        pid = int(run.stdout.readline())
    assert only().idle_s is None
    run.kill()
    run.wait()
    wait_until(lambda: only().idle_s is not None)
    following = engine()
    _, dropped, renewed, at = answer(following, "a")
    assert (int(dropped) <= 3, renewed, at) == (True, "1", str(pid))
    close(following)


def test_one_that_is_stuck_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engines.process.warm_address._GREETS_WITHIN_S", 0.3)
    first = engine()
    close(first)
    os.kill(first.pid, signal.SIGSTOP)
    for _ in range(12):  # more than its queue of callers holds
        with pytest.raises(Hung):
            adopt(keep())
    second = engine()
    assert second.note == str(Hung())
    assert answer(second, "a")[-1] == str(second.pid) != str(first.pid)
    close(second)
    assert gone(second.pid)
    os.kill(first.pid, signal.SIGCONT)
    assert only().pid == first.pid


@pytest.mark.usefixtures("true_processes")  # it is known by its command line
def test_one_that_is_stuck_is_shown_and_ended(place: Path) -> None:
    first, second = engine("one"), engine("two")
    close(first)
    os.kill(first.pid, signal.SIGSTOP)
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for each in crowd:  # those who looked at it before and gave up: no more are let in
        each.setblocking(False)
        with contextlib.suppress(OSError):
            each.connect(str(place / "one.sock"))
    began = time.monotonic()
    stuck, used = surelocal("engines").stdout.splitlines()
    assert time.monotonic() - began < 8
    assert f"pid {first.pid} " in stuck and "does not answer; `surelocal engines --stop`" in stuck
    assert used.endswith("in use")
    for each in crowd:
        each.close()
    ended = surelocal("engines", "--stop").stdout.splitlines()
    assert [line.split("GiB")[1].strip() for line in ended] == ["ended", "in use"]
    wait_until(lambda: gone(first.pid))
    assert not (place / "one.lock").exists()
    os.kill(second.pid, signal.SIGSTOP)  # this process has it
    assert "does not answer; a run uses it" in surelocal("engines", "--stop").stdout
    assert not gone(second.pid)
    os.kill(second.pid, signal.SIGCONT)
    close(second)


def test_a_number_that_is_another_process_s_by_now_is_left_alone(place: Path) -> None:
    first = engine()
    close(first)
    note = json.loads((place / "one.lock").read_bytes())
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        note["process"] = [other.pid, note["process"][1]]
        (place / "one.lock").write_text(json.dumps(note))
        os.kill(first.pid, signal.SIGSTOP)
        assert kept() == []
        assert not end_stuck(place / "one.lock")
        assert other.poll() is None
        other.kill()
    os.killpg(first.pid, signal.SIGKILL)


def test_one_whose_model_has_changed_goes(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("old")

    def kept_by(name: str, owner: str = "") -> ChildEngine:
        there = Keep(made_folder(), name, 10, str(model), None, owner, files_digest(str(model)))
        return in_child(Echo, None, there, 0)

    idle, busy = kept_by("idle"), kept_by("busy")
    close(idle)
    same = kept_by("same")  # by another job, of the same model: it stays beside
    assert same.note == "" and {one.name for one in kept()} == {"idle", "busy", "same"}
    close(same)
    (model / "weights").write_text("newer")
    fresh = kept_by("fresh", "a job")
    assert {one.name for one in kept()} == {"busy", "fresh"}
    assert f"a kept engine of {model} was ended (pid {idle.pid})" in fresh.note
    assert f"is left, as a run uses it (pid {busy.pid})" in fresh.note
    close(busy, fresh)
    other = kept_by("otherwise set", "a job")
    assert {one.name for one in kept()} == {"otherwise set"}
    close(other)


# --- its end ---


def test_an_engine_that_nobody_comes_for_ends_itself(place: Path) -> None:
    first = engine(minutes=0.01)
    close(first)
    wait_until(lambda: gone(first.pid))
    assert [path.name for path in place.iterdir()] == ["key"]


def test_what_a_killed_engine_left_behind_is_replaced(place: Path) -> None:
    first = engine()
    close(first)
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: gone(first.pid))
    assert (place / "one.sock").exists()
    second = engine()
    assert second.pid != first.pid and answer(second, "a")[0] == "a"
    close(second)
    os.kill(second.pid, signal.SIGKILL)
    wait_until(lambda: gone(second.pid))
    wait_until(lambda: kept() == [] and [path.name for path in place.iterdir()] == ["key"])


def test_a_kept_engine_that_dies_in_use_is_started_again() -> None:
    first = engine()
    close(first)
    again = engine()
    with pytest.raises(EngineDied):
        answer(again, "die")
    close(again)
    calm = Reviving(partial(in_child, Echo, None, keep()), pause_s=0)
    pid = int(answer(calm, "a")[-1])
    os.kill(pid, signal.SIGKILL)
    following = int(answer(calm, "b")[-1])
    assert following not in (first.pid, pid)
    close(calm)
    assert only().pid == following


def test_one_that_cannot_be_loaded_leaves_nothing(place: Path) -> None:
    def broken() -> Echo:
        raise AssertionError

    with pytest.raises(AttributeError):  # it is not even sent there
        in_child(lambda thrift: broken(), None, keep(), 0)
    with pytest.raises(UsageError, match="no such thing"):
        in_child(partial(_fails, UsageError("no such thing")), None, keep(), 0)
    assert [path.name for path in place.iterdir()] == ["key"]


def _fails(error: Exception, thrift: int) -> Echo:
    raise error


# --- which engine it is ---


def test_settings_and_environment_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = name_of({"model": "m"})
    assert name == name_of({"model": "m"}) != name_of({"model": "n"})
    monkeypatch.setenv("NOBODY_READS_THIS", "1")
    assert name_of({"model": "m"}) == name
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    assert name_of({"model": "m"}) != name


# --- what is said ---


def job_with(folder: Path, **keys: Any) -> Path:
    local = {"model": str(DEMO / "model"), "keep_loaded": 5, **keys.pop("local", {})}
    return write_job(
        folder, "http://127.0.0.1:9", [{"id": "a", "message": "b"}], local=local, **keys
    )


@pytest.mark.parametrize(
    ("local", "keys", "words"),
    [
        ({"keep_loaded": 0}, {}, "`local.keep_loaded`: input should be greater than 0"),
        ({"keep_loaded": "soon"}, {}, "`local.keep_loaded`: is a plain number, such as"),
        ({"base_url": "http://127.0.0.1:9/v1"}, {}, "`base_url` names a server, which stays"),
        ({}, {"cluster": {"replicas": 2}}, "`cluster`: its engines end with the run, but"),
    ],
)
def test_where_it_cannot_be(
    tmp_path: Path, local: dict[str, Any], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=words):
        load_job(job_with(tmp_path, local=local, **keys))


def test_the_option_before_the_job_s_name(tmp_path: Path) -> None:
    done = surelocal("run", "--keep-loaded", job_with(tmp_path))
    assert done.exit_code == 2
    assert "is no number of minutes; write --keep-loaded=10, or put the option" in done.stderr


def test_a_folder_that_others_can_enter(place: Path) -> None:
    made_folder().chmod(0o755)
    with pytest.raises(UsageError, match=f"make it yours alone: chmod 700 {place}"):
        made_folder()
    place.chmod(0o700)


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "surelocal").write_text("a file")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(UsageError, match=r"keep_loaded: cannot make .*: File exists; set XDG_RUNT"):
        made_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("long" * 30)))
    assert folder() == tmp_path / ("long" * 30) / "surelocal" / "engines"
    with pytest.raises(UsageError, match="is too long a path for a socket"):
        made_folder()


def test_it_is_no_part_of_a_job_s_identity(tmp_path: Path) -> None:
    path = job_with(tmp_path)
    other = load_job(path, ["local.keep_loaded=7"]).job
    assert load_job(path).job.identity() == other.identity()
    assert load_job(path, ["local.keep_loaded=null"]).job.identity() == other.identity()


def test_they_are_listed_and_ended() -> None:
    assert surelocal("engines").stderr == "no engine is kept loaded\n"
    first, second = engine("one"), engine("two")
    close(first)
    listed = surelocal("engines").stdout.splitlines()
    assert re.match(rf"echo  pid {first.pid}  0\.\d GiB  idle for \d s, ends in 10 min$", listed[0])
    assert re.match(rf"echo  pid {second.pid}  0\.\d GiB  in use$", listed[1])
    ended = json.loads(surelocal("engines", "--stop", "--json").stdout)
    assert [(row["name"], row["stopped"]) for row in ended] == [("one", True), ("two", False)]
    assert only().name == "two"
    wait_until(lambda: gone(first.pid))
    close(second)
    assert surelocal("engines", "--stop").stdout.endswith(" GiB  ended\n")


# --- the real one ---


@pytest.mark.slow
def test_the_demo_s_rows_are_the_same_bytes(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "job", ignore=shutil.ignore_patterns("clinc150"))
    job, environment = tmp_path / "job" / "job.yaml", {"VLLM_CPU_KVCACHE_SPACE": "1"}
    rows, pids = [], []
    for number, option in enumerate(("--keep-loaded", "--keep-loaded=5")):
        run = start(job, "--limit", "60", "--set", NO_KEY, option, **environment)
        assert run.wait(200) == 3, (tmp_path / "job" / "stderr.txt").read_text()
        rows.append((job.parent / "run" / "results.jsonl").read_bytes())
        (job.parent / "run").rename(tmp_path / str(number))
        pids.append(only().pid)
    assert rows[0].count(b"\n") == 60
    assert rows[0] == rows[1] and pids[0] == pids[1]
    local = [row for row in map(json.loads, rows[0].splitlines()) if row["decided_by"] == "local"]
    assert len(local) > 20
    for row in local:
        assert row["confidence"] >= 0.9
        assert set(row["value"]) == set(row["field_confidence"]) == {"intent", "domain"}
