"""The page in a real browser: an upload, its results, the keyboard, and a narrow window."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from headless_browser import PROGRAM, Browser, browser

from vswin_jax.inference import Predictor, ServeSettings, VideoServer
from vswin_jax.timeline import timeline

if TYPE_CHECKING:
    from conftest import Run

pytest.importorskip("uvicorn", reason="the server is an extra")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def server(tiny_run: "Run") -> Iterator[VideoServer]:
    settings = ServeSettings(port=0, max_mb=0.5)
    with VideoServer(lambda: Predictor(tiny_run.workdir), settings, [].append) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(chromium: Browser, server: VideoServer) -> Browser:
    chromium.requests.clear()
    chromium.errors.clear()
    chromium.set_width(1000)
    chromium.open(server.url)
    chromium.wait_for("document.getElementById('limits').textContent")
    return chromium


@pytest.fixture(scope="module")
def video(tiny_run: "Run") -> Path:
    return next((tiny_run.workdir / "moving_shapes" / "test").glob("grow/*.mp4"))


def count(page: Browser, selector: str) -> int:
    return page.evaluate(f"document.querySelectorAll({selector!r}).length")


def test_an_upload_shows_classes_a_timeline_and_a_map(
    page: Browser, server: VideoServer, video: Path, tiny_run: "Run"
) -> None:
    page.choose_file("#file", video)
    page.wait_for("document.getElementById('picture').naturalWidth > 0")
    text = page.text()
    assert video.name in text
    prediction = server.predictor(video)[0]
    for label, share in zip(prediction.labels, prediction.probabilities, strict=True):
        assert f"{label}\n{100 * share:.1f} %" in text
    expected = timeline(video, tiny_run.workdir, crops=1)
    names = page.evaluate("[...document.querySelectorAll('#rows div')].map((row) => row.title)")
    assert names == [expected.label_names[k] for k in expected.main_classes(8)]
    # The colour at the left edge of the first row is the probability of the first window.
    red = page.evaluate(
        "document.getElementById('canvas').getContext('2d').getImageData(1, 1, 1, 1).data[0]"
    )
    share = float(expected.probabilities[0, expected.main_classes(1)[0]])
    assert red == pytest.approx(255 + 3 * share * (188 - 255), abs=2)
    assert page.errors == []
    elsewhere = [url for url in page.requests if not re.match(f"data:|(blob:)?{server.url}/", url)]
    assert elsewhere == []


def test_the_timeline_and_the_map_follow_their_options(page: Browser, video: Path) -> None:
    page.choose_file("#file", video)
    page.wait_for("document.getElementById('picture').naturalWidth > 0")
    assert "No class reaches this probability anywhere." in page.text()
    page.evaluate("document.getElementById('rules').elements.threshold.value = 0.1")
    page.evaluate("document.querySelector('#rules button').click()")
    page.wait_for("document.querySelector('#segments button')")
    # The video, of one second, moves to the place that is clicked on.
    page.click("document.getElementById('plot')")
    page.wait_for("Math.abs(document.getElementById('video').currentTime - 0.5) < 0.02")
    page.wait_for("Math.abs(parseFloat(document.getElementById('playhead').style.left) - 50) < 2")
    page.evaluate("document.querySelector('#segments button').click()")
    page.wait_for("document.getElementById('video').currentTime === 0")
    page.evaluate("document.getElementById('label').value = 'shrink'")
    before = page.evaluate("document.getElementById('picture').src")
    page.evaluate("document.getElementById('label').onchange()")
    page.wait_for(f"document.getElementById('picture').src !== {before!r}")
    assert page.errors == []


def test_bad_and_large_files_get_a_sentence(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "<b>bad.mp4").write_text("no video")
    page.choose_file("#file", tmp_path / "<b>bad.mp4")
    page.wait_for("document.querySelector('#predict .error')")
    assert "'<b>bad.mp4' cannot be read as a video" in page.text()
    assert count(page, "#classes li") == count(page, "b") == 0
    (tmp_path / "large.mp4").write_bytes(bytes(600_000))
    page.choose_file("#file", tmp_path / "large.mp4")
    page.wait_for("document.body.innerText.includes('large.mp4')")
    assert "Expected at most 0.5 MB" in page.text()


def test_the_keyboard_reaches_everything(page: Browser, video: Path) -> None:
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert (
        page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    )
    page.choose_file("#file", video)
    page.wait_for("document.getElementById('picture').naturalWidth > 0")
    reached = set()
    for _ in range(20):
        page.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"video", "label", "strip", "BUTTON"} <= reached


def test_a_phone_needs_no_scrolling_to_the_side(page: Browser, video: Path) -> None:
    page.set_width(360)
    page.choose_file("#file", video)
    page.wait_for("document.getElementById('picture').naturalWidth > 0")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.getElementById('plot').clientWidth") > 150
