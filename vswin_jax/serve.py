"""Serves a trained model: a page to drop a video into, and an interface for programs.

    python -m vswin_jax.serve --checkpoint runs/my_run
    python -m vswin_jax.serve --checkpoint runs/my_run --host 0.0.0.0 --port 80 --max-mb 50

The page shows the most probable classes of a video, a heat map of the classes over time with the
segments, and the Grad-CAM map of its middle clip. It needs nothing from the network. Programs send
the video as the body, or as the field "video" of a form, and get JSON:

    curl -F video=@clip.mp4 http://127.0.0.1:8000/predict
    curl --data-binary @clip.mp4 "http://127.0.0.1:8000/timeline?stride=0.5&threshold=0.3"
    curl -F video=@clip.mp4 "http://127.0.0.1:8000/explain?label=grow" --output strip.png

CHECKPOINT is a run's directory, the directory of one checkpoint, the name of a released one, a URL,
a PyTorch, safetensors or npz file, or a Hugging Face directory. It needs pip install -e ".[demo]".

Only this machine can reach the server, unless --host is the address of a network (0.0.0.0: all of
them). Then everyone there can use it: there is no password, and no encryption. Requests of web
pages of other sites are refused. A video is stored in a private directory until its result is
there; FFmpeg reads it in a process with limits of time and memory, and opens nothing else.

A line is written about each request. Ctrl-C ends the server, with exit status 130; the status is 2
for a wrong input, such as a port that is in use.

From Python the module itself can be called: `vswin_jax.serve(...)` is
`vswin_jax.inference.serve(...)`.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the program at once while the model is loaded.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from vswin_jax.errors import InputError, rename_arguments
from vswin_jax.runtime.callable_module import make_callable
from vswin_jax.runtime.checkpoint_arguments import (
    add_checkpoint_arguments,
    add_views_argument,
    log_downloads,
)
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import command_parser, positive_int, print_error
from vswin_jax.runtime.standard_streams import print_message, run_script

if TYPE_CHECKING:
    from vswin_jax.inference import Predictor, VideoServer

_SETTINGS = ("host", "port", "max_mb", "timeout", "max_requests", "decoders", "max_windows")


def run(arguments: Sequence[str]) -> int:
    """Serve until a signal comes; return the exit status for a wrong input."""
    options = _parser().parse_args(arguments)
    flags = {name: f"--{name.replace('_', '-')}" for name in _SETTINGS}
    try:
        with rename_arguments(flags):
            server = _server(options)
    except InputError as error:
        return print_error(error)
    if __name__ == "__main__":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _exit)
    with server:
        for line in server.describe():
            _print(line)
        server.wait()
    return 0


def _server(options: argparse.Namespace) -> "VideoServer":
    log_downloads()
    from vswin_jax import inference
    from vswin_jax.config.plugins import import_plugins
    from vswin_jax.inference.opened_checkpoint import open_checkpoint
    from vswin_jax.inference.serving.video_server import load_predictor

    import_plugins(options.plugins)
    given = {name: getattr(options, name) for name in _SETTINGS}
    settings = inference.ServeSettings(
        **{name: value for name, value in given.items() if value is not None},
        allow_hosts=tuple(options.allow_host),
        allow_origins=tuple(options.allow_origin),
    )

    def load() -> "Predictor":
        opened = open_checkpoint(options.checkpoint, options.which, options.labels)
        return load_predictor(opened, options.views, options.topk, _print)

    return inference.VideoServer(load, settings)


def _print(line: str) -> None:
    print_message(printable(line))


def _exit(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "serve")
    add = parser.add_argument
    add_checkpoint_arguments(parser)
    add("--host", metavar="ADDRESS", help="the address to listen on (127.0.0.1)")
    add("--port", type=int, metavar="N", help="0: a free one (8000)")
    add_views_argument(parser)
    add("--topk", type=positive_int, default=5, metavar="K", help="classes of a video (5)")
    add("--max-mb", type=float, metavar="MB", help="the largest video (200)")
    add("--timeout", type=float, metavar="SECONDS", help="of a request after its upload (300)")
    requests_help = "at a time, uploads included; further ones get a 503 (32)"
    add("--max-requests", type=int, metavar="N", help=requests_help)
    add("--decoders", type=int, metavar="N", help="requests at work at a time (CPUs, 2 to 4)")
    add("--max-windows", type=int, metavar="N", help="of a timeline (60)")
    host_help = "a name by which clients address the server; may be repeated"
    add("--allow-host", action="append", default=[], metavar="NAME", help=host_help)
    origin_help = "a site such as https://example.org whose pages may call; may be repeated"
    add("--allow-origin", action="append", default=[], metavar="SITE", help=origin_help)
    return parser


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(run_script(run))
