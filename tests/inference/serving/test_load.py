"""Many clients at once, bad files among them: each gets its own answer, and memory stays."""

import collections
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attack_files import attacks, listener, write_secret
from http_client import Answer, ask, post, post_form
from served_runs import served_run

import vswin_jax

if TYPE_CHECKING:
    from conftest import Run

pytest.importorskip("uvicorn", reason="the server is an extra")

REQUESTS, CLIENTS = 200, 16
# A leak of one video's views, or of a result, would be more.
MOST_GROWTH = 32 << 20  # bytes


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_no_request_is_lost_and_memory_stays(tiny_run: "Run", tmp_path: Path) -> None:
    videos = sorted((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))[:8]
    expected = {video: vswin_jax.predict(video, tiny_run.workdir)[0] for video in videos}
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    with listener() as (port, calls), served_run(tiny_run.workdir, uploads) as run:
        bad = bad_files(videos[0], tmp_path, port)
        jobs = [*itertools.islice(itertools.cycle(videos), REQUESTS)]

        def request(number: int) -> tuple[int, bool]:
            """Return the status, and True if the answer is the right one."""
            if number % 10 == 9:
                content, status = bad[number // 10 % len(bad)]
                answer = post_form(f"{run.url}/predict", content)
                return answer.status, answer.status == status and bool(answer.error)
            video = jobs[number]
            if number % 10 in (3, 6):
                path = "timeline" if number % 10 == 3 else "explain"
                answer = post(f"{run.url}/{path}?name={number}", video.read_bytes())
                return answer.status, answer.status == 200 and len(answer.body) > 100
            answer = post(f"{run.url}/predict?name={number}", video.read_bytes())
            return answer.status, is_prediction(answer, expected[video], str(number))

        with ThreadPoolExecutor(CLIENTS) as clients:
            assert all(is_right for _, is_right in clients.map(request, range(60)))
            before = memory(run.process.pid), open_files(run.process.pid)
            results = list(clients.map(request, range(REQUESTS)))
        assert [result for result in results if not result[1]] == []
        statuses = collections.Counter(status for status, _ in results)
        assert statuses == {200: 180, 400: 5, 422: 15}
        assert ask(f"{run.url}/health").json == {"status": "ok", "requests": 0}
        grown = memory(run.process.pid) - before[0]
        assert grown < MOST_GROWTH, f"{grown / 1e6:.1f} MB"
        # A request leaves none; single arrays wait for the garbage collector.
        assert open_files(run.process.pid) < before[1] + 8
        assert [path for path in uploads.rglob("*") if path.is_file()] == []
        assert run.stop() == 130
        assert list(uploads.iterdir()) == []
    assert calls == []


def is_prediction(answer: Answer, expected: vswin_jax.Prediction, name: str) -> bool:
    if answer.status != 200:
        return False
    result = answer.json
    shares = zip(result["probabilities"], expected.probabilities, strict=True)
    is_near = all(abs(a - b) < 1e-5 for a, b in shares)
    return is_near and (result["video"], result["classes"]) == (name, list(expected.labels))


def bad_files(video: Path, folder: Path, port: int) -> list[tuple[bytes, int]]:
    """Return contents with the status that each deserves."""
    content = video.read_bytes()
    playlist = attacks(write_secret(folder), port)["hls_http"]
    return [(content[:-500], 422), (b"", 400), (b"no video", 422), (playlist, 422)]


def memory(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
