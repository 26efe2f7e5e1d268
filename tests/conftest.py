"""What must be so before any test module is imported, and the fixtures that several share."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from runner import keys
from tests.forks import client
from tests.forks.client import PLACE
from tests.forks.zygote import zygotes

if TYPE_CHECKING:
    from tests.stand_in import StandIn

# Read when torch is first imported: with two counts of threads in one process, vLLM's CPU
# attention gives up.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Shells start what they put into the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A key of whoever runs the tests must never be used by them.
for name in keys.withheld():
    os.environ.pop(name, None)


# Fixtures that start a server or a process, or load a model.
_STARTING = {"api", "base", "browser", "collector", "done", "server", "vllm"}
# What no quick test does, by Python's own audit events.
_UNQUICK = {
    "socket.bind": "starts a server",
    "subprocess.Popen": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.kill": "kills a process",
    "os.killpg": "kills a process",
}
_running_quick: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only what starts nothing: `make quick`")


def pytest_configure(config: pytest.Config) -> None:
    """Fewer examples in a hurry; a test that says how many has as many as it says."""
    if config.getoption("--quick"):
        settings.register_profile("quick", max_examples=10)
        settings.load_profile("quick")
        return
    if not hasattr(config, "workerinput"):  # the workers of a run share what it forks from
        _fork_from_now_on(config)
    client.install()


def _fork_from_now_on(config: pytest.Config) -> None:
    stack = contextlib.ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="forks-"))
    stack.enter_context(zygotes(Path(folder)))
    config.add_cleanup(stack.close)
    os.environ[PLACE] = folder
    path = [str(Path(client.__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A module that starts something in each test is not even imported in a hurry."""
    if not config.getoption("--quick") or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text("utf-8")
    return True if re.search(r"(?m)^pytestmark = (SLOW|.*\.mark\.(slow|process))\b", text) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow ones first: with whole files dealt out, the last one would be waited for alone."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if config.getoption("--quick"):
        items[:] = [item for item in items if not _starts_something(item)]


def _starts_something(item: pytest.Item) -> bool:
    marked = item.get_closest_marker("slow") or item.get_closest_marker("process")
    return bool(marked) or not _STARTING.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if item.config.getoption("--quick"):
        _running_quick.append(item.nodeid)
    try:
        return (yield)
    finally:
        _running_quick.clear()


def _audit(event: str, arguments: object) -> None:
    if event in _UNQUICK and _running_quick:
        # A BaseException: neither the test nor the product takes it for a failure of its own.
        pytest.fail(
            f"{_running_quick[-1]} {_UNQUICK[event]}: mark it `process`, and it is left out of "
            "`make quick`"
        )


sys.addaudithook(_audit)


@pytest.fixture
def true_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines, couriers and commands start as users start them: `tests.forks`."""
    monkeypatch.delenv(PLACE, raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment: for a whole module by ``pytestmark``, as most jobs need none."""
    from tests.jobs import KEY

    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)


@pytest.fixture
def oracle() -> Callable[[str], str] | None:
    """What the stand-in answers to a text; a module with answers of its own has its own."""
    return None


@pytest.fixture
def api(tmp_path: Path, oracle: Callable[[str], str] | None) -> Iterator[StandIn]:
    from tests.stand_in import StandIn

    with StandIn(tmp_path, oracle=oracle) as server:
        yield server
