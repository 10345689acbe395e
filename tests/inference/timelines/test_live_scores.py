"""A live source: a line a stride, of the newest frames."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.inference.timelines.live_reader import THREAD, DecodingLoad
from vswin_jax.inference.timelines.live_scores import live_timeline
from vswin_jax.inference.timelines.window_scores import WindowScorer

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")

RATE = 12


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Encode ten seconds of an MPEG transport stream."""
    path = tmp_path_factory.mktemp("stream") / "a.ts"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=RATE, options={"g": "6", "bf": "0"})
        video.width, video.height = 48, 32
        for index in range(10 * RATE):
            shade = np.full((32, 48, 3), 2 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(video.encode())
    return path.read_bytes()


class Feeder:
    """Writes a stream to a pipe: a part at once, and the rest when it is told to."""

    def __init__(self, path: Path, content: bytes, first: int) -> None:
        os.mkfifo(path)
        self._released = threading.Event()
        arguments = (path, content, first)
        self._thread = threading.Thread(target=self._feed, args=arguments, daemon=True)
        self._thread.start()

    def _feed(self, path: Path, content: bytes, first: int) -> None:
        with path.open("wb") as pipe:
            pipe.write(content[:first])
            pipe.flush()
            self._released.wait()
            pipe.write(content[first:])

    def release(self) -> None:
        """Write the rest, and close the pipe."""
        self._released.set()


def test_a_source_gives_a_line_a_stride_until_it_ends(
    stream: bytes, scorer: WindowScorer, tmp_path: Path
) -> None:
    Feeder(tmp_path / "pipe", stream, len(stream)).release()
    lines: list[str] = []
    source = str(tmp_path / "pipe")
    found = list(live_timeline(source, scorer, stride=0.5, topk=2, report=lines.append))
    assert lines == [f"{source} is open: a line every 0.5 s, Ctrl-C ends it"]
    times = [moment.time for moment in found]
    # The first window is complete when its fourth frame comes.
    assert times[0] >= 3 / RATE - 1e-6
    assert times[-1] <= 10
    strides = len(found) - 1 + sum(moment.dropped for moment in found)
    assert strides == pytest.approx((times[-1] - times[0]) / 0.5, abs=1)
    assert len(found[0].labels) == len(found[0].probabilities) == 2


def test_windows_are_left_out_if_the_model_is_too_slow(
    stream: bytes, scorer: WindowScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder = Feeder(tmp_path / "pipe", stream, len(stream) // 4)
    score = WindowScorer.score_clip
    calls: list[np.ndarray] = []

    def slow_score(self: WindowScorer, views: np.ndarray) -> np.ndarray:
        calls.append(views)
        if len(calls) == 2:  # the first call compiles
            feeder.release()
            (reader,) = (thread for thread in threading.enumerate() if thread.name == THREAD)
            reader.join()
        return score(self, views)

    monkeypatch.setattr(WindowScorer, "score_clip", slow_score)
    first, second, *_ = live_timeline(str(tmp_path / "pipe"), scorer, stride=0.5)
    assert first.dropped == 0
    assert second.dropped > 4
    # The newest frames, not those after the first window.
    assert calls[2].mean() > calls[1].mean() + 50


def test_a_source_that_cannot_be_opened_is_one_sentence(
    scorer: WindowScorer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"The live source 'none\.ts' cannot be opened \(No such"):
        next(live_timeline("none.ts", scorer))
    (tmp_path / "a.ts").write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match="check that `ffmpeg -i"):
        next(live_timeline(str(tmp_path / "a.ts"), scorer))


def shares(load: DecodingLoad, share: float, seconds: int, start: float) -> Iterator[int]:
    for tenth in range(10 * seconds):
        yield load.add(start + tenth / 10, share / 10)


def test_frames_that_no_other_needs_are_left_out_if_decoding_is_too_slow() -> None:
    load = DecodingLoad()
    assert set(shares(load, 0.3, 5, 0.0)) == {0}
    assert [*shares(load, 1.5, 10, 5.0)][-1] == 2
    # Between the two limits the level stays.
    assert set(shares(load, 0.7, 5, 15.0)) == {2}
    assert [*shares(load, 0.2, 10, 20.0)][-1] == 0
