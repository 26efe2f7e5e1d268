"""The report as a browser shows it: on a desk and on a phone, by day and by night.

The browser is the one that `make setup` brought (`scripts/browser.py`). Pictures of every page stay
in pytest's temporary folder, to be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.browser import executable
from tests import jobs
from tests.browser import Browser, Page
from tests.fakes import run_rows, surelocal, write_job

# The same runs, made in the same ways.
from tests.test_report import audited, made, uncalibrated

__all__ = ["audited", "made", "uncalibrated"]

pytestmark = pytest.mark.skipif(
    executable() is None, reason="no browser in .venv: `python scripts/browser.py` says why"
)
WINDOWS = [(1280, False), (1280, True), (400, False), (400, True)]
LEAST_CONTRAST = 4.5

TEXTS = """
(() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node; node = walker.nextNode();) {
    if (!node.data.trim()) continue
    const range = document.createRange()
    range.selectNodeContents(node)
    for (const box of range.getClientRects()) {
      if (!box.width || !box.height) continue
      let clipped = false
      for (let e = node.parentElement; e; e = e.parentElement) {
        const style = getComputedStyle(e), outer = e.getBoundingClientRect()
        if (style.overflow !== 'visible' && e.tagName !== 'HTML' && e.tagName !== 'BODY')
          clipped ||= box.left < outer.left - 1 || box.right > outer.right + 1 ||
            box.top < outer.top - 1 || box.bottom > outer.bottom + 1
      }
      found.push({text: node.data.trim().slice(0, 60), clipped, left: box.left, right: box.right,
        top: box.top + scrollY, bottom: box.bottom + scrollY,
        size: parseFloat(getComputedStyle(node.parentElement).fontSize) *
          (node.parentElement.ownerSVGElement ?
            node.parentElement.ownerSVGElement.getScreenCTM().a : 1)})
    }
  }
  return found
})()
"""
COLOURS = """
(() => {
  const seen = {}
  for (const e of document.querySelectorAll('body, body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    if (!own || !e.getClientRects().length) continue
    let behind = e
    while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)')
      behind = behind.parentElement
    const style = getComputedStyle(e)
    const front = e.ownerSVGElement ? style.fill : style.color
    const back = getComputedStyle(behind || document.body).backgroundColor
    seen[front + ' on ' + back] = e.textContent.trim().slice(0, 40)
  }
  return seen
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = executable()
    assert path is not None
    with Browser(path) as running:
        yield running


def looked_at(browser: Browser, report: Path, pictures: Path) -> None:
    for width, dark in WINDOWS:
        with browser.page(report, width, dark=dark) as page:
            page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
            page.picture(pictures / f"{width}-{'dark' if dark else 'light'}.png")
            assert page.complaints() == []
            assert page.requests() == [report.absolute().as_uri()]
            assert page.value("innerWidth") == width
            assert page.value("document.documentElement.scrollWidth") <= width
            nothing_is_cut(page, width)
            everything_can_be_read(page)


def nothing_is_cut(page: Page, width: int) -> None:
    texts = page.value(TEXTS)
    assert len(texts) > 40
    for one in texts:
        assert not one["clipped"], one
        assert one["left"] >= 0 and one["right"] <= width, one
        assert one["size"] >= 8.5, one
    texts.sort(key=lambda one: one["top"])
    for n, one in enumerate(texts):
        for other in texts[n + 1 :]:
            if other["top"] > one["bottom"]:
                break
            assert not overlap(one, other), (one, other)


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """By their letters: a line's box is a third higher than these."""
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    lower = min(one["bottom"] - one["top"], other["bottom"] - other["top"])
    return across > 1 and down > 0.5 * lower


def everything_can_be_read(page: Page) -> None:
    for pair, text in page.value(COLOURS).items():
        front, back = (luminance(colour) for colour in pair.split(" on "))
        light, dark = max(front, back), min(front, back)
        assert (light + 0.05) / (dark + 0.05) >= LEAST_CONTRAST, (pair, text)


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [float(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def reported(run_dir: Path) -> Path:
    assert surelocal("report", run_dir).exit_code == 0
    return run_dir / "report.html"


@pytest.mark.process
def test_a_certified_run_with_everything(audited: Path, browser: Browser, tmp_path: Path) -> None:
    looked_at(browser, reported(audited), tmp_path)


@pytest.mark.process
def test_an_uncalibrated_run_with_a_queue(
    uncalibrated: Path, browser: Browser, tmp_path: Path
) -> None:
    looked_at(browser, reported(uncalibrated), tmp_path)


@pytest.mark.process
def test_a_run_without_any_model(browser: Browser, tmp_path: Path) -> None:
    run_rows(write_job(tmp_path, "id,message\n1,a\n,b\n"), status=3)
    looked_at(browser, reported(tmp_path / "run"), tmp_path)


@pytest.mark.parametrize(
    "style",
    [
        "h1 { margin-left: -40px }",
        ".lead { width: 90px; height: 10px; overflow: hidden }",
        ".says { position: relative; top: -60px }",
        ".what { color: var(--line) }",
        "svg.plot { width: 150px !important }",
    ],
)
def test_what_is_ugly_is_found(uncalibrated: Path, browser: Browser, style: str) -> None:
    with browser.page(reported(uncalibrated), 400) as page:
        add = "document.head.appendChild(document.createElement('style')).textContent"
        page.value(f"{add} = {json.dumps(style)}")
        with pytest.raises(AssertionError):
            nothing_is_cut(page, 400)
            everything_can_be_read(page)


@pytest.mark.process
def test_words_without_a_space_and_very_long_ones(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, texts and reasons as real exports have them; nothing of it is markup."""
    jobs.use_engine(monkeypatch, jobs.Scripted(lambda text: jobs.unsure()))
    name = "x" * 300
    rows = jobs.records([name, "<script>alert(1)</script>", "ids\nwith\tspaces"], "local",
                        message=f"https://example.org/{'y' * 500} <img src=x onerror=alert(1)> "
                        + "a long story. " * 400)  # fmt: skip
    job = jobs.write_job(
        tmp_path, "http://localhost:1", rows, {"api_key_env": "NOBODY_HAS_THIS_KEY"},
        local={"model": str(jobs.DEMO_MODEL)}, confidence={"threshold": 0.9, "below": "review"},
        name="a-job-with-a-very-long-name-" + "z" * 100,
    )  # fmt: skip
    ran = jobs.run(job)
    assert len(json.dumps(ran.rows)) > 600
    looked_at(browser, reported(ran.run_dir), tmp_path)
