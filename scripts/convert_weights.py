"""Converts a Swin checkpoint of any kind: `python scripts/convert_weights.py --help`.

    python scripts/convert_weights.py swin_base_patch244_window877_kinetics400_22k k400_base
    python -m vswin_jax.predict clip.mp4 --checkpoint k400_base

SRC is a PyTorch, safetensors or npz file, a Hugging Face directory or the index of its shards, a
run or checkpoint of vswin_jax, the name of a released checkpoint, or a URL. Its kind is detected
from its content, and prefixes of wrappers are removed. DST is a run's directory, from which to
predict, evaluate or start other runs, or a file for a PyTorch loader: .safetensors, or a .pth, .pt
or .bin that `torch.load(DST, weights_only=True)` reads.

    python scripts/convert_weights.py runs/mine mine.pth --to mmaction2
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from vswin_jax.errors import InputError
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import print_error, script_parser
from vswin_jax.runtime.standard_streams import run_script
from vswin_jax.weights.convert import KINDS, convert
from vswin_jax.weights.inflation.inflate import PATCHES, TABLES
from vswin_jax.weights.layouts.target_spec import TargetSpec
from vswin_jax.weights.load import IMAGE_HEADS


def run(arguments: Sequence[str]) -> int:
    """Run the command line: convert, print the load report and return the exit status."""
    args = vars(_parser().parse_args(arguments))
    source, destination = args.pop("source"), args.pop("destination")
    to, report, print_table = (args.pop(key) for key in ("to", "report", "table"))
    _log_downloads_only()
    try:
        load_report = convert(source, destination, TargetSpec(**args), to=to, report=report)
    except InputError as error:
        return print_error(error)
    print(load_report.table() if print_table else load_report.summary())
    print(f"written to {printable(destination)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    size = {"type": _size, "metavar": "T,H,W"}
    path = {"type": os.path.expanduser}
    add("source", **path, metavar="SRC", help="file, directory, released name or URL")
    add("destination", **path, metavar="DST", help="directory, or file.safetensors or .pth")
    add("--model", metavar="NAME", help="swin_tiny, swin_small, ...; default: SRC's")
    add("--window", **size, help="tokens; default: SRC's, 8 in time for images")
    add("--patch", **size, help="frames, pixels; default: SRC's, 2 frames")
    add("--num-classes", type=int, metavar="N", help="another count: a fresh head")
    add("--labels", **path, metavar="FILE", help="class names, one a line: selects and orders")
    add("--patches", choices=PATCHES, default="inflate", help="of an image model")
    add("--tables", choices=TABLES, default="duplicate", help="of an image model")
    add("--image-head", choices=IMAGE_HEADS, default="fresh", help="classifier of an image model")
    add("--prefix", metavar="NAME", help="of the Swin's names, if SRC has several, such as ema")
    add("--to", choices=KINDS, help="default: orbax, or original for a file")
    add("--report", **path, metavar="JSON", help="file for the load report of every tensor")
    add("--table", action="store_true", help="print the load report for every tensor")
    return parser


def _size(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected sizes such as 16,7,7 but {text!r} came")
    return tuple(map(int, parts))


def _log_downloads_only() -> None:
    # The load report that the package logs is printed at the end, so only downloads are logged.
    log = logging.getLogger("vswin_jax")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    downloads = logging.getLogger("vswin_jax.weights.download")
    downloads.addHandler(logging.StreamHandler(sys.stderr))
    downloads.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(run_script(run))
