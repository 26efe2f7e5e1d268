"""What must be so before any test module is imported, and the fixtures that several share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.stand_in import StandIn

# Read when torch is first imported: with two counts of threads in one process, vLLM's CPU
# attention gives up.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Shells start what they put into the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A key of whoever runs the tests must never be used by them.
for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: with whole files dealt out, the last one would be waited for alone."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
