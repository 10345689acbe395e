"""Shows the clips that a model really gets: `python scripts/show_clips.py --help`.

    python scripts/show_clips.py --config experiments/quickstart.py --out shown

Writes DIR/clips.png, a contact sheet with a row for each clip, and DIR/clips.mp4, the clips side by
side. They are those of a run with this config at that step: sampled, augmented, erased and mixed
by the very functions that training uses; only the normalisation is undone. moving_shapes are
written to DIR unless --config.data.root says where they are.

With --augmentations, DIR/augmentations.png shows each augmentation alone, on the first clip of that
batch and at the config's strength; those that the config has off are there too, and say so.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from vswin_jax.data.example import Source

from vswin_jax import factory
from vswin_jax.config import flags, rules
from vswin_jax.data.pipeline.bad_videos import BadVideos
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.main import load_pipeline
from vswin_jax.preview import training_clips
from vswin_jax.preview.augmentations import augmentation_clips
from vswin_jax.reporting.contact_sheet import ShownClip, draw_sheet, save_mosaic, save_sheet
from vswin_jax.runtime.script_parser import script_parser

FLAGS = ("--config", "--out", "--split", "--count", "--step", "--augmentations")
Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """What was asked for."""

    config: ConfigDict
    out: Path
    split: str
    count: int
    step: int
    augmentations: bool


def run(arguments: Sequence[str]) -> int:
    """The command line; prints what was written and returns the exit status."""
    options, overrides = _parser().parse_known_args(arguments)
    try:
        written = show(_ask(options, overrides))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {', '.join(map(str, written))}")
    return 0


def show(asked: Asked) -> list[Path]:
    """Writes clips.png, clips.mp4 and, if asked for, augmentations.png; returns their paths.

    Raises:
        InputError: no such data, a video that cannot be read, a step past the last one.
    """
    asked.out.mkdir(parents=True, exist_ok=True)
    source = _open(asked)
    batch = _batch(asked, source)
    clips = _clips(asked, source, batch)
    examples = [source[int(row)] for row in batch["id"][batch["mask"] > 0][: len(clips)]]
    rate = training_clips.clip_rate(examples, factory.clip_spec(asked.config))
    title = training_clips.describe_batch(asked.config, asked.split, asked.step, clips)
    written = [asked.out / "clips.png", asked.out / "clips.mp4"]
    save_sheet(written[0], draw_sheet(clips, title))
    save_mosaic(written[1], clips, rate)
    if asked.augmentations:
        written.append(asked.out / "augmentations.png")
        save_sheet(written[-1], _draw_augmentations(asked, source, batch))
    return written


def _draw_augmentations(asked: Asked, source: Source, batch: Batch) -> np.ndarray:
    # Mixing takes from the clip before, and for the first one that is the last.
    example, partner = (source[int(batch["id"][row])] for row in (0, -1))
    config, spec = asked.config, factory.clip_spec(asked.config)
    clips = augmentation_clips(
        example, partner, config=config, spec=spec, label_names=source.label_names
    )
    return draw_sheet(clips, f"{config.name or 'run'}: each augmentation alone, {example.name}")


def _open(asked: Asked) -> Source:
    if asked.split == "train":
        return factory.open_split(asked.config, asked.out, "train")
    names = None
    if asked.config.data.train:
        names = factory.open_split(asked.config, asked.out, "train").label_names
    return factory.open_split(asked.config, asked.out, "eval", names)


def _batch(asked: Asked, source: Source) -> Batch:
    batch = next(_batches(asked, source), None)
    if batch is None:
        raise InputError(
            f"Expected a batch of the {len(source)} videos to evaluate but --step {asked.step} is "
            f"past the last one: give a smaller step."
        )
    return batch


def _batches(asked: Asked, source: Source) -> Iterator[Batch]:
    """The batches from the asked step on."""
    pipeline = load_pipeline()
    config, spec = asked.config, factory.clip_spec(asked.config)
    reading = {"threads": config.data.threads or pipeline.AUTOTUNE, "prefetch": 1}
    if asked.split == "train":
        order = factory.training_order(config, source)
        order["bad_videos"] = BadVideos(max_fraction=config.data.max_bad_fraction)
        return pipeline.train_batches(source, spec, start_step=asked.step, **order, **reading)
    batches = pipeline.eval_batches(source, spec, batch_size=config.eval.batch_size, **reading)
    return itertools.islice(batches, asked.step, None)


def _clips(asked: Asked, source: Source, batch: Batch) -> list[ShownClip]:
    if asked.split == "eval":
        return training_clips.evaluation_clips(batch, source=source, count=asked.count)
    return training_clips.training_clips(
        batch, asked.step, config=asked.config, source=source, count=asked.count
    )


def _ask(options: argparse.Namespace, overrides: Sequence[str]) -> Asked:
    for override in overrides:
        if not override.startswith("--config."):
            raise unknown_name("argument", override, FLAGS)
    if options.count < 1 or options.step < 0:
        raise InputError(
            f"Expected --count from 1 and --step from 0 up but {options.count} and {options.step} "
            f"came: correct them."
        )
    if options.augmentations and options.split != "train":
        raise InputError(
            "--augmentations shows what training does to a clip, but --split eval came: leave one "
            "of them out."
        )
    config = flags.override(flags.load(options.config), overrides)
    rules.check(config)
    out, flag = Path(options.out), options.augmentations
    return Asked(config, out, options.split, options.count, options.step, flag)


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        __doc__,
        allow_abbrev=False,
        usage="%(prog)s --config FILE[:ARGUMENT] --out DIR [--config.KEY=VALUE ...] [options]",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="an experiment")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--split", choices=("train", "eval"), default="train")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="clips (8)")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="steps done before (0)")
    parser.add_argument("--augmentations", action="store_true", help="show each of them alone, too")
    return parser


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
