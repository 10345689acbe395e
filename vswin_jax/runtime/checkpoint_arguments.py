"""Command-line arguments about the checkpoint, the same for every command that loads a model."""

import argparse
import logging
import os
import re
import sys


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint, --which, --labels and --plugins."""
    add = parser.add_argument
    checkpoint_help = "a run's directory, a released name, a URL or a file of weights"
    path = {"type": os.path.expanduser}
    add("--checkpoint", **path, required=True, metavar="CHECKPOINT", help=checkpoint_help)
    which_help = "checkpoint of a run (latest)"
    add("--which", choices=("latest", "best"), default="latest", help=which_help)
    add("--labels", **path, metavar="FILE", help="class names, one a line, for weights without")
    plugins_help = "your modules with the run's own layers, by commas; they are imported"
    add("--plugins", default="", metavar="MODULES", help=plugins_help)


def add_views_argument(parser: argparse.ArgumentParser) -> None:
    """Add --views, which is parsed to (clips, crops)."""
    views_help = "clips x crops; default: the run's own"
    parser.add_argument("--views", type=parse_views, metavar="4x3", help=views_help)


def parse_views(text: str) -> tuple[int, int]:
    """Parse test views such as "4x3", clips x crops."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected clips x crops, such as 4x3, but {text!r} came")
    return int(match[1]), int(match[2])


def log_downloads() -> None:
    """Print the lines about the download of a released checkpoint to stderr."""
    log = logging.getLogger("vswin_jax.weights.download")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
