"""The fuzz of `tests.reply_fuzz`, small: each way that a reply comes in by, each provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reply_fuzz import fuzz


@pytest.mark.process
@pytest.mark.parametrize("way", ["live", "serve", "journal", "batch"])
@pytest.mark.parametrize(("provider", "kind"), [("anthropic", "schema"), ("openai", "text")])
def test_an_odd_reply_is_one_record_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, provider: str, kind: str
) -> None:
    monkeypatch.setenv("A_FUZZ_KEY", "")  # taken back after the test
    fuzz(way, provider, kind, seed=12, bodies=60, folder=tmp_path)
