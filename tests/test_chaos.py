"""A small chaos; `python -m tests.chaos` plays a large one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import chaos

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("provider", list(chaos.PROVIDERS))
def test_no_record_is_lost_or_paid_twice_whatever_fails(tmp_path: Path, provider: str) -> None:
    found = chaos.play(tmp_path, count=20, kills=1, provider=provider, seed=3)
    assert sum(found.statuses.values()) == 20
    assert set(found.statuses) <= {"done", "review"}
    assert found.twice == []
    assert found.bill <= found.spent <= chaos.CAP
    assert found.exact == found.settled > 0
    assert found.states["reserved"] == 0
    assert set(found.lanes) == {"live", "batch"}
    assert found.trail is None
