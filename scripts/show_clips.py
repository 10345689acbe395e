"""Shows the clips that the model is trained on: `python scripts/show_clips.py --help`.

    python scripts/show_clips.py --config experiments/quickstart.py --out shown

Writes DIR/clips.png, a contact sheet with a row for each clip, and DIR/clips.mp4, the clips side by
side. They are the clips of a run with this config at that step: sampled, augmented, erased and
mixed by the functions that training uses, with only the normalisation undone. moving_shapes are
written to DIR unless --config.data.root is given.

With --augmentations, DIR/augmentations.png shows each augmentation alone, on the first clip of that
batch and at the config's strength; augmentations that are off in the config are marked as such.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vswin_jax import factory
from vswin_jax.config import flags, rules
from vswin_jax.data.example import Source
from vswin_jax.data.pipeline import pipeline
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.preview import training_clips
from vswin_jax.preview.augmentations import augmentation_clips
from vswin_jax.reporting.contact_sheet import ShownClip, draw_sheet, save_mosaic, save_sheet
from vswin_jax.runtime.output_path import output_directory
from vswin_jax.runtime.printable import printable
from vswin_jax.runtime.script_parser import print_error, script_parser
from vswin_jax.runtime.standard_streams import run_script

FLAGS = ("--config", "--out", "--split", "--count", "--step", "--augmentations")
Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ShowOptions:
    """The command line's options."""

    config: ConfigDict
    out: Path
    split: str
    count: int
    step: int
    augmentations: bool


def run(arguments: Sequence[str]) -> int:
    """Run the command line: write the files, print their paths and return the exit status."""
    args, overrides = _parser().parse_known_args(arguments)
    try:
        written = show(_read_options(args, overrides))
    except InputError as error:
        return print_error(error)
    print(f"written: {', '.join(map(printable, written))}")
    return 0


def show(options: ShowOptions) -> list[Path]:
    """Write clips.png, clips.mp4 and optionally augmentations.png, and return their paths.

    Raises:
      InputError: the data are missing, a video is unreadable, or the step is past the last one.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    source = _open(options)
    batch = _batch(options, source)
    clips = _clips(options, source, batch)
    examples = [source[int(row)] for row in batch["id"][batch["mask"] > 0][: len(clips)]]
    rate = training_clips.playback_rate(examples, factory.clip_spec(options.config))
    title = training_clips.describe_batch(options.config, options.split, options.step, clips)
    written = [options.out / "clips.png", options.out / "clips.mp4"]
    save_sheet(written[0], draw_sheet(clips, title))
    save_mosaic(written[1], clips, rate)
    if options.augmentations:
        written.append(options.out / "augmentations.png")
        save_sheet(written[-1], _draw_augmentations(options, source, batch))
    return written


def _draw_augmentations(options: ShowOptions, source: Source, batch: Batch) -> np.ndarray:
    # Mixing pairs each clip with the one before it, and the first clip with the last.
    example, partner = (source[int(batch["id"][row])] for row in (0, -1))
    config, spec = options.config, factory.train_spec(options.config)
    clips = augmentation_clips(
        example, partner, config=config, spec=spec, label_names=source.label_names
    )
    return draw_sheet(clips, f"{config.name or 'run'}: each augmentation alone, {example.name}")


def _open(options: ShowOptions) -> Source:
    if options.split == "train":
        return factory.open_split(options.config, options.out, "train")
    names = None
    if options.config.data.train:
        names = factory.open_split(options.config, options.out, "train").label_names
    return factory.open_split(options.config, options.out, "eval", names)


def _batch(options: ShowOptions, source: Source) -> Batch:
    batch = next(_batches(options, source), None)
    if batch is None:
        raise InputError(
            f"Expected a batch of the {len(source)} videos to evaluate but --step {options.step} "
            "is past the last one: give a smaller step."
        )
    return batch


def _batches(options: ShowOptions, source: Source) -> Iterator[Batch]:
    """Yield the batches from the requested step on."""
    config, spec = options.config, factory.clip_spec(options.config)
    loading = {"threads": config.data.threads or pipeline.AUTOTUNE, "prefetch": 1}
    if options.split == "train":
        sampling = factory.sampler_options(config, source)
        sampling["bad_videos"] = BadVideos(max_fraction=config.data.max_bad_fraction)
        spec = factory.train_spec(config)
        return pipeline.train_batches(source, spec, start_step=options.step, **sampling, **loading)
    batches = pipeline.eval_batches(source, spec, batch_size=config.eval.batch_size, **loading)
    return itertools.islice(batches, options.step, None)


def _clips(options: ShowOptions, source: Source, batch: Batch) -> list[ShownClip]:
    if options.split == "eval":
        return training_clips.evaluation_clips(batch, source=source, count=options.count)
    return training_clips.training_clips(
        batch, options.step, config=options.config, source=source, count=options.count
    )


def _read_options(args: argparse.Namespace, overrides: Sequence[str]) -> ShowOptions:
    for override in overrides:
        if not override.startswith("--config."):
            raise unknown_name("argument", override, FLAGS)
    if args.count < 1 or args.step < 0:
        raise InputError(
            f"Expected --count from 1 and --step from 0 up but {args.count} and {args.step} came: "
            "correct them."
        )
    if args.augmentations and args.split != "train":
        raise InputError(
            "--augmentations shows the augmentations of training, but --split eval came: leave one "
            "of them out."
        )
    config = flags.override(flags.load(args.config), overrides)
    rules.check(config)
    return ShowOptions(
        config=config,
        out=output_directory(args.out, "--out"),
        split=args.split,
        count=args.count,
        step=args.step,
        augmentations=args.augmentations,
    )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__,
        allow_abbrev=False,
        usage="%(prog)s --config FILE[:ARGUMENT] --out DIR [--config.KEY=VALUE ...] [options]",
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="an experiment")
    add("--out", required=True, metavar="DIR", help="the folder to write to")
    add("--split", choices=("train", "eval"), default="train")
    add("--count", type=int, default=8, metavar="N", help="clips (8)")
    add("--step", type=int, default=0, metavar="N", help="training steps before the batch (0)")
    add("--augmentations", action="store_true", help="also show each augmentation alone")
    return parser


if __name__ == "__main__":
    sys.exit(run_script(run))
