"""What was made while the product was called localfirst goes on."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from escalation.providers.openai_batches import _marked
from runner.job.escalation import default_spend_file

FORMER = "localfirst"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_spend_file_of_before_is_the_same_file(state: Path) -> None:
    former = state / FORMER / "spend.sqlite"
    former.parent.mkdir()
    with sqlite3.connect(former) as before:
        before.execute("CREATE TABLE spent (usd)")
    for _ in range(2):
        now = default_spend_file()
        assert now == state / "surelocal" / "spend.sqlite"
        with sqlite3.connect(now) as both:
            both.execute("INSERT INTO spent VALUES (1)")
    # And what a run of the former version spends meanwhile counts too.
    before.execute("INSERT INTO spent VALUES (5)")
    before.commit()
    assert both.execute("SELECT sum(usd) FROM spent").fetchone() == (7,)
    before.close()
    both.close()


def test_where_the_former_folder_was_deleted_a_new_file_begins(state: Path) -> None:
    former = state / FORMER / "spend.sqlite"
    former.parent.mkdir()
    former.write_bytes(b"old")
    assert default_spend_file().read_bytes() == b"old"
    shutil.rmtree(former.parent)
    assert not default_spend_file().is_symlink()


def test_one_of_the_new_name_is_never_given_up(state: Path) -> None:
    now = default_spend_file()
    now.parent.mkdir()
    now.write_bytes(b"new")
    (state / FORMER).mkdir()
    (state / FORMER / "spend.sqlite").write_bytes(b"old")
    assert default_spend_file().read_bytes() == b"new"


@pytest.mark.parametrize("name", [FORMER, "surelocal"])
def test_a_batch_is_known_by_either_mark(name: str) -> None:
    assert _marked({"metadata": {name: "abc"}}, "abc") is True
    assert _marked({"metadata": {name: "other"}}, "abc") is False
    assert _marked({"metadata": {}}, "abc") is None
