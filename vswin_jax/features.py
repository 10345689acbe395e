"""Writes the features of videos to files: pooled vectors, or the feature maps of a stage.

    python -m vswin_jax.features videos/ --checkpoint runs/my_run --out features/
    python -m vswin_jax.features test.csv --checkpoint runs/my_run --out maps/
        --layer stage2_before_merge --dtype float16 --format parquet

VIDEO is a video file, a folder of frames, or a folder with either at any depth; or one list or data
set that training reads, such as train.csv, tfds:NAME:SPLIT, or a folder of classes with --kind
folder, for features with labels. CHECKPOINT is a run's directory, the directory of one checkpoint,
the name of a released one, a URL, a PyTorch, safetensors or npz file, or a Hugging Face directory.
It needs no classifier: weights that are only pretrained, also those of an image model, will do.

The features are those of the test views of each video, as the run was evaluated (--views 4x3: 4
clips and 3 crops; 1x1: the clip in the middle). LAYER is "pooled" (the input of the classifier, C
values a view), or a feature map [D, H, W, C]: patch_embed, stage0_before_merge, stage0_after_merge,
..., final.

The directory gets features.json, with all settings, the class names and the order of the views, and

  npz      shard-*.npz: features [N, V, ...], names, labels (-1: none), index in the data set, and
           unreadable_index, unreadable_names, unreadable_reasons
  parquet  shard-*.parquet: a row a video with index, name, label, features, reason
  npy      (--per-video) NAME.npy for each video [V, ...], and shard-*.json with names and labels
           (with --stride too) NAME.npy [W, ...] of the W windows of the whole video, its centre
           crop, and NAME.windows.json with their times in seconds

From Python `vswin_jax.inference.load_features(DIR)` reads all of them; without this package:

  files = sorted(glob.glob("DIR/shard-*.npz"))
  features = numpy.concatenate([numpy.load(file)["features"] for file in files])
  table = pandas.concat(map(pandas.read_parquet, sorted(glob.glob("DIR/shard-*.parquet"))))

A shard is there as a whole or not at all. The same command goes on with the shards that are missing
and ends in the same files; with other settings it is refused. Several machines share the work with
--share 1/4, --share 2/4 and so on, in one directory; processes that train as one (SLURM, a TPU
slice, --coordinator) each take their share. The exit status is 0 if all videos have features, 1 if
some could not be read (each gets a sentence on stderr), and 2 for a wrong input, or if none could.

From Python the module itself can be called: `vswin_jax.features(...)` is
`vswin_jax.inference.features(...)`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vswin_jax.errors import InputError
from vswin_jax.runtime.callable_module import make_callable
from vswin_jax.runtime.checkpoint_arguments import (
    add_checkpoint_arguments,
    add_views_argument,
    log_downloads,
)
from vswin_jax.runtime.cluster_member import ClusterMember
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import command_parser, positive_int, print_error, print_reasons
from vswin_jax.runtime.standard_streams import print_message

if TYPE_CHECKING:
    from vswin_jax.inference import ExtractedFeatures
    from vswin_jax.inference.feature_files import WindowOptions


def run(arguments: Sequence[str]) -> int:
    """Write the features that the arguments ask for and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        member = ClusterMember.from_flags(
            options.coordinator, options.num_processes, options.process_id
        )
    except InputError as error:
        return print_error(error)
    from vswin_jax.runtime.command import run_command

    return run_command(lambda: _run(options, member))


def _run(options: argparse.Namespace, member: ClusterMember | None) -> int:
    log_downloads()
    from vswin_jax.config.plugins import import_plugins
    from vswin_jax.inference import features
    from vswin_jax.runtime import distributed

    if options.share is None:
        distributed.join(member)
    import_plugins(options.plugins)
    result = features(
        options.videos,
        options.checkpoint,
        options.out,
        layer=options.layer,
        dtype=options.dtype,
        format="npy" if options.per_video else options.format,
        views=options.views,
        root=options.root,
        kind=options.kind,
        share=options.share,
        videos_per_shard=options.videos_per_shard,
        windows=_windows(options),
        batch_size=options.batch_size,
        which=options.which,
        labels=options.labels,
        report=print_message,
    )
    return _print(result)


def _windows(options: argparse.Namespace) -> "WindowOptions | None":
    """Return the places of windows; None without a stride."""
    from vswin_jax.inference.feature_files import WindowOptions

    given = [name for name in ("window", "frame_rate") if getattr(options, name) is not None]
    if options.stride is None:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is about windows: give --stride too.")
        return None
    return WindowOptions(options.stride, options.window, options.frame_rate)


def _print(result: "ExtractedFeatures") -> int:
    """Print the result of this start and return the exit status."""
    print_reasons(video.reason for video in result.unreadable)
    bad, good = len(result.unreadable), result.num_videos
    if bad > 1:
        print_message(f"error: {bad} of {good + bad} videos have no features")
    settings = result.settings
    text = f"features of {good} videos ({settings['layer']}, {settings['dtype']} "
    text += f"{settings['shape']}) are written to {printable(result.directory)}"
    if result.earlier:
        text += f"; {result.earlier} shards were there before"
    print(text, flush=True)
    if not bad:
        return 0
    return 1 if good or result.earlier else 2


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "features")
    add = parser.add_argument
    path = {"type": os.path.expanduser}
    add("videos", **path, nargs="+", metavar="VIDEO", help="a video file, a folder, or a list")
    add_checkpoint_arguments(parser)
    add("--out", **path, required=True, metavar="DIR", help="the directory to write to")
    add("--layer", default="pooled", metavar="LAYER", help="the features (pooled)")
    add("--dtype", default="float32", help="float32 or float16 (float32)")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--format", default="npz", help="npz, parquet or npy (npz)")
    formats.add_argument("--per-video", action="store_true", help="a .npy file a video")
    add_views_argument(parser)
    add("--root", **path, default="", metavar="DIR", help="where the paths of a list begin")
    add("--kind", default="auto", help="the format of a list, as config.data.format (auto)")
    _add_windows(parser)
    _add_sharing(parser)
    return parser


def _add_windows(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    stride_help = "with --per-video: a window every so many seconds of the whole video"
    add("--stride", type=float, metavar="SECONDS", help=stride_help)
    window_help = "length of a window, for uniform sampling alone"
    add("--window", type=float, metavar="SECONDS", help=window_help)
    add("--frame-rate", type=float, metavar="FPS", help="frames a second of folders of frames")


def _add_sharing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--share", "--shard", metavar="I/N", help="the share of this process, such as 2/4")
    shard_help = "default: as many as have 256 MB of features, at most 1000"
    add("--videos-per-shard", type=positive_int, metavar="N", help=shard_help)
    add("--batch-size", type=positive_int, metavar="N", help="videos of a batch (up to 8)")
    add("--coordinator", default="", metavar="HOST:PORT", help="as of vswin_jax.main")
    add("--num_processes", type=int, metavar="N", help="as of vswin_jax.main")
    add("--process_id", type=int, metavar="I", help="as of vswin_jax.main")


def main() -> int:
    """Run the command line of this process."""
    from vswin_jax.runtime.command import run_process

    return run_process(lambda: run(sys.argv[1:]))


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(main())
