"""A server of a trained model: a page, and an interface for programs."""

import contextlib
import functools
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from vswin_jax.errors import InputError
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, Source, open_checkpoint
from vswin_jax.inference.predictor import TOPK, Predictor
from vswin_jax.inference.serving.listening_socket import is_local, listen, server_url
from vswin_jax.inference.serving.serve_settings import ServeSettings
from vswin_jax.inference.serving.web_libraries import check_web_libraries
from vswin_jax.runtime.standard_streams import print_message

if TYPE_CHECKING:
    from vswin_jax.inference.serving.server_thread import ServerThread


class VideoServer:
    """A server that answers requests during a `with` block, in a thread of its own.

        with VideoServer(lambda: Predictor("runs/mine"), ServeSettings(port=0)) as server:
            print(server.url)

    Attributes:
      url: the address of the page.
      predictor: the model.
      settings: the address, and the limits of a request.
    """

    def __init__(
        self,
        load: Callable[[], Predictor],
        settings: ServeSettings,
        write_line: Callable[[str], None] = print_message,
    ) -> None:
        """Take the address, then call `load` and compile what requests need.

        `write_line` gets a line about each request.

        Raises:
          InputError: the address is in use, or a library is missing.
        """
        check_web_libraries()
        _check_system()
        # After the check of the libraries, which this module imports.
        from vswin_jax.inference.serving.served_model import ServedModel

        self.settings, self._write_line = settings, write_line
        with contextlib.ExitStack() as stack:
            self._socket = stack.enter_context(listen(settings.host, settings.port))
            self.url = server_url(settings.host, self._socket)
            self.predictor = load()
            self._model = ServedModel(self.predictor, settings.max_windows)
            stack.callback(self._model.close)
            self._running = stack.pop_all()

    def describe(self) -> tuple[str, ...]:
        """Return lines about the model, the address and the limits."""
        model, settings = self.predictor.model, self.settings
        name, classes = model.config.model.name, len(model.label_names)
        step = "" if model.step is None else f", step {model.step}"
        lines = (
            f"serving {name} ({classes} classes{step}) at {self.url}",
            f"limits: videos of {settings.max_mb:g} MB, {settings.timeout:g} seconds a request, "
            f"{settings.max_requests} requests at a time, {settings.num_decoders} of them at work",
        )
        if is_local(self._socket):
            return lines
        return (*lines, "anyone who reaches this machine can use it: it has no password")

    def wait(self) -> None:
        """Wait until the server ends, or a signal interrupts this."""
        self._thread.wait()

    def __enter__(self) -> "VideoServer":
        from vswin_jax.inference.serving.server_thread import running_server

        server = running_server(self._model, self.settings, self._socket, self._write_line)
        self._thread: ServerThread = self._running.enter_context(server)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.close()


def serve(
    checkpoint: Source,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    views: tuple[int, int] | None = None,
    topk: int = TOPK,
    which: str = "latest",
    labels: Source | None = None,
    max_mb: float = ServeSettings.max_mb,
    timeout: float = ServeSettings.timeout,
    max_requests: int = ServeSettings.max_requests,
    decoders: int = ServeSettings.decoders,
    max_windows: int = ServeSettings.max_windows,
    allow_hosts: tuple[str, ...] = (),
    allow_origins: tuple[str, ...] = (),
    report: Callable[[str], None] = print_message,
) -> None:
    """Serve a page and an interface for programs until Ctrl-C; `VideoServer` does so for a block.

    Args:
      checkpoint: as for `load`, and so are `which` and `labels`.
      host: the address, and all other settings of the server, as of `ServeSettings`.
      port: 0 stands for a free one.
      views: as for `Predictor`.
      topk: classes of a video, unless a request asks for another number.
      which: the checkpoint that a run's directory stands for.
      labels: a text file with one class name a line.
      max_mb: the largest video.
      timeout: seconds of a request after its upload.
      max_requests: requests at a time.
      decoders: processes that decode; 0 stands for 2 to 4, as there are CPUs.
      max_windows: of a timeline.
      allow_hosts: names by which clients may address the server.
      allow_origins: web sites whose pages may call the server.
      report: gets the lines about the server and its requests.

    Raises:
      InputError: the address is in use, there is no such checkpoint, a setting is wrong, or a
        library is missing.
    """
    settings = ServeSettings(
        host=host,
        port=port,
        max_mb=max_mb,
        timeout=timeout,
        max_requests=max_requests,
        decoders=decoders,
        max_windows=max_windows,
        allow_hosts=tuple(allow_hosts),
        allow_origins=tuple(allow_origins),
    )
    opened = functools.partial(open_checkpoint, checkpoint, which, labels)
    server = VideoServer(lambda: load_predictor(opened(), views, topk, report), settings, report)
    with server, contextlib.suppress(KeyboardInterrupt):
        for line in server.describe():
            report(line)
        server.wait()


def load_predictor(
    opened: OpenedCheckpoint,
    views: tuple[int, int] | None,
    topk: int,
    report: Callable[[str], None],
) -> Predictor:
    """Load a predictor, which may take a minute; `report` gets a line at the start."""
    report(f"{opened.note}; it is loaded and compiled")
    return Predictor(opened, views=views, topk=topk)


def _check_system() -> None:
    if os.name != "posix":
        raise InputError(
            "The videos of a server are decoded in processes with limits of time and memory, which "
            "this system lacks: use Linux or macOS."
        )
