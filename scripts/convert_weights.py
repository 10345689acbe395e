"""Converts a Swin checkpoint of any kind: `python scripts/convert_weights.py --help`.

    python scripts/convert_weights.py swin_base_patch244_window877_kinetics400_22k k400_base
    python -m vswin_jax.predict clip.mp4 --checkpoint k400_base

SRC is a PyTorch, safetensors or npz file, a run or checkpoint of ours, the name of a released
checkpoint, or a URL. What it is is read from it. DST is a run's directory that predicts, evaluates
and starts other runs, or a .safetensors file for a PyTorch loader.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from vswin_jax.errors import InputError
from vswin_jax.runtime.script_parser import script_parser
from vswin_jax.weights.convert import KINDS, convert
from vswin_jax.weights.inflation.inflate import PATCHES, TABLES
from vswin_jax.weights.layouts.target_spec import Wishes


def run(arguments: Sequence[str]) -> int:
    """The command line; prints where the tensors went and returns the exit status."""
    asked = vars(_parser().parse_args(arguments))
    source, destination = asked.pop("source"), asked.pop("destination")
    to, report, every_tensor = (asked.pop(key) for key in ("to", "report", "table"))
    _show_downloads()
    try:
        account = convert(source, destination, Wishes(**asked), to=to, report=report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(account.table() if every_tensor else account.summary())
    print(f"written to {destination}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__,
    )
    size = {"type": _size, "metavar": "T,H,W"}
    parser.add_argument("source", metavar="SRC", help="file, directory, released name or URL")
    parser.add_argument("destination", metavar="DST", help="directory, or file.safetensors")
    parser.add_argument(
        "--model", metavar="NAME", help="swin_tiny, swin_small, ...; default: SRC's"
    )
    parser.add_argument("--window", **size, help="tokens; default: SRC's, 8 in time for images")
    parser.add_argument("--patch", **size, help="frames, pixels; default: SRC's, 2 frames")
    parser.add_argument("--num-classes", type=int, metavar="N", help="another count: a fresh head")
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line: picks, orders")
    parser.add_argument("--patches", choices=PATCHES, default="inflate", help="of an image model")
    parser.add_argument("--tables", choices=TABLES, default="duplicate", help="of an image model")
    parser.add_argument("--to", choices=KINDS, help="default: orbax, or original for a file")
    parser.add_argument("--report", metavar="JSON", help="where every tensor went, to a file")
    parser.add_argument("--table", action="store_true", help="print where every tensor went")
    return parser


def _size(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected sizes such as 16,7,7 but {text!r} came")
    return tuple(map(int, parts))


def _show_downloads() -> None:
    # The report's summary is printed at the end; of the log only downloads are news.
    log = logging.getLogger("vswin_jax")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    downloads = logging.getLogger("vswin_jax.weights.download")
    downloads.addHandler(logging.StreamHandler(sys.stderr))
    downloads.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
