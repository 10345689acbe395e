"""Places, limits of time and clients that leave, over real connections, with jobs that wait."""

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from http_client import connect, post

from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import ProcessLimits
from vswin_jax.inference.serving.decoder_queue import DecoderQueue
from vswin_jax.inference.serving.listening_socket import listen, server_url
from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.serving.uploaded_video import UploadedVideo

pytest.importorskip("uvicorn", reason="the server is an extra")
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vswin_jax.inference.serving import receive_upload, server_thread
from vswin_jax.inference.serving.error_responses import HANDLERS
from vswin_jax.inference.serving.request_runner import RequestRunner
from vswin_jax.inference.serving.server_thread import ServerThread

_PATIENCE = 60.0  # seconds


def job(video: UploadedVideo, decoder: ClipProcesses) -> int:
    """Wait in the decoding process for the seconds that the upload has; or compute for ever."""
    text = Path(video.file.path).read_text()
    (pid,) = decoder.pids
    if text == "compute":
        decoder.call(sum, (range(10**15),), None, video.name)
    else:
        decoder.call(time.sleep, (float(text),), None, video.name)
    return pid


@dataclass
class Started:
    """A server whose answer is the number of the process that did the work."""

    url: str
    runner: RequestRunner
    directory: Path

    def wait_for_requests(self, count: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self.runner.num_requests != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def started(
    directory: Path, timeout: float = 3600, max_requests: int = 8, cpu_seconds: float = 60
) -> Iterator[Started]:
    settings = ServeSettings(timeout=timeout, max_requests=max_requests)
    queue = DecoderQueue(1, ProcessLimits(cpu_seconds=cpu_seconds))
    runner = RequestRunner(queue, settings, str(directory))

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(await runner.run(request, "clip.mp4", job)))

    routes = [Route("/", endpoint, methods=["POST"])]
    with (
        contextlib.closing(queue),
        listen("127.0.0.1", 0) as listening,
    ):
        thread = ServerThread(Starlette(routes=routes, exception_handlers=HANDLERS), listening)
        thread.start()
        try:
            yield Started(server_url("127.0.0.1", listening), runner, directory)
        finally:
            thread.stop()


def test_a_full_server_refuses_and_has_a_place_again_when_a_client_leaves(tmp_path: Path) -> None:
    with started(tmp_path, max_requests=1) as server:
        # A client that has sent a part of its video.
        slow = connect(server.url)
        slow.putrequest("POST", "/")
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b"0")
        server.wait_for_requests(1)
        refused = post(server.url, b"0")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert refused.error == "The server is busy with 1 requests: try again later."
        slow.close()
        server.wait_for_requests(0)
        assert post(server.url, b"0").status == 200
        assert list(tmp_path.iterdir()) == []


def test_a_client_that_leaves_ends_the_work_on_its_video(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        before = post(server.url, b"0").body
        clients = [connect(server.url) for _ in range(3)]
        for client in clients:
            client.request("POST", "/", b"3600")
        server.wait_for_requests(3)
        for client in clients:
            client.close()
        server.wait_for_requests(0)
        after = post(server.url, b"0")
        assert after.status == 200
        assert after.body != before
        assert not Path(f"/proc/{int(before)}").exists()
        assert list(tmp_path.iterdir()) == []


def test_a_slow_request_is_given_up(tmp_path: Path) -> None:
    with started(tmp_path, timeout=2) as server:
        answer = post(server.url, b"3600")
        assert answer.status == 504
        assert answer.error == (
            "'clip.mp4' took more than 2 seconds, because it is long or the server is busy: send a "
            "shorter video, or try again later."
        )
        assert list(tmp_path.iterdir()) == []
        # The new process has to start within the same limit.
        assert any(post(server.url, b"0").status == 200 for _ in range(10))


def test_a_video_that_computes_for_ever_is_given_up(tmp_path: Path) -> None:
    with started(tmp_path, cpu_seconds=0.3) as server:
        answer = post(server.url, b"compute")
        assert answer.status == 504
        assert "'clip.mp4' takes more than 0.3 seconds of processor time" in answer.error
        assert post(server.url, b"0").status == 200


def test_requests_wait_for_each_other(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        answers = in_threads(lambda: post(server.url, b"0.01"), 8)
        assert [answer.status for answer in answers] == [200] * 8
        assert len({answer.body for answer in answers}) == 1


def test_an_upload_that_stops_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive_upload, "_PAUSE_SECONDS", 0.5)
    with started(tmp_path) as server, contextlib.closing(connect(server.url)) as client:
        client.putrequest("POST", "/")
        client.putheader("Content-Length", "1000")
        client.endheaders(b"0")
        answer = client.getresponse()
        assert answer.status == 408
        assert b"The upload has stopped for 0.5 seconds" in answer.read()
        assert server.runner.num_requests == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs the limit of Linux")
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            answer = post(server.url, bytes(3 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert answer.status == 507
        assert answer.error.startswith("The server has no room for the video (File too large)")
        assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_server_does_not_wait_for_its_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_thread, "_GRACE_SECONDS", 1)
    with started(tmp_path) as server:
        pid = int(post(server.url, b"0").body)
        client = connect(server.url)
        client.request("POST", "/", b"3600")
        server.wait_for_requests(1)
    assert not Path(f"/proc/{pid}").exists()
    client.close()
    with pytest.raises(ConnectionError):
        post(server.url, b"0")


def in_threads(function: Callable[[], object], count: int) -> list:
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
