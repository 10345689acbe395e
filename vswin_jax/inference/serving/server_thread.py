"""Runs the web application in a thread, with all that it needs."""

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from vswin_jax.data.pipeline.process_limits import ProcessLimits
from vswin_jax.inference.serving.decoder_queue import DecoderQueue
from vswin_jax.inference.serving.request_guard import RequestGuard
from vswin_jax.inference.serving.request_runner import RequestRunner
from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.serving.served_model import ServedModel
from vswin_jax.inference.serving.web_app import WebApp

# Requests that are running when the server is stopped have so many seconds to end.
_GRACE_SECONDS = 3
# Further ones get a 503 of uvicorn.
_MAX_CONNECTIONS = 512


class ServerThread:
    """A thread with the event loop of uvicorn, which answers requests at a socket."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            # `RequestGuard` writes the lines about requests and errors.
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        run = {"target": self._server.run, "args": ([listening],)}
        self._thread = threading.Thread(**run, daemon=True, name="server")

    def start(self) -> None:
        """Start the thread, and return when requests are answered."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server has not started")
            time.sleep(0.01)

    def wait(self) -> None:
        """Wait until the thread ends; signals interrupt it."""
        while self._thread.is_alive():
            self._thread.join(timeout=1)

    def stop(self) -> None:
        """End the thread; requests that are running have a few seconds to end."""
        self._server.should_exit = True
        self._thread.join()


@contextlib.contextmanager
def running_server(
    model: ServedModel,
    settings: ServeSettings,
    listening: socket.socket,
    write_line: Callable[[str], None],
) -> Iterator[ServerThread]:
    """Answer requests at a socket during the block."""
    limits = ProcessLimits(cpu_seconds=settings.timeout, wall_seconds=settings.timeout)
    with (
        tempfile.TemporaryDirectory(prefix="vswin_jax-serve-") as directory,
        contextlib.closing(DecoderQueue(settings.num_decoders, limits)) as queue,
    ):
        runner = RequestRunner(queue, settings, directory)
        app = RequestGuard(WebApp(model, runner, settings).app, settings, write_line)
        thread = ServerThread(app, listening)
        thread.start()
        try:
            yield thread
        finally:
            thread.stop()
