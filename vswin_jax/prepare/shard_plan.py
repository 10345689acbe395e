"""The plan of a prepared data set: a file in the output that every process reads.

The assignment of examples to shards depends on the sizes of the splits alone. Bad videos are left
out of their shard, so they move no other video to another shard.
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vswin_jax.data.example import Example, Source
from vswin_jax.data.pipeline.sampler import permutation
from vswin_jax.errors import InputError
from vswin_jax.prepare.options import PrepareOptions, describe_differences
from vswin_jax.runtime.atomic_write import write_json

PLAN_FILE = "prepare.json"
FORMAT_VERSION = 1
# The seed of the order in the shards, for sequential readers; training shuffles on its own.
_SEED = 0


class Shard(NamedTuple):
    """A part of a split whose videos are finished together."""

    split: str
    number: int


@dataclass(frozen=True)
class SplitPlan:
    """The number of examples of a split, and the digest of its source."""

    examples: int
    identity: str


@dataclass(frozen=True)
class PreparePlan:
    """The options, the class names in the order of the labels, and the splits by name."""

    options: PrepareOptions
    label_names: tuple[str, ...]
    splits: dict[str, SplitPlan]

    @property
    def shards(self) -> list[Shard]:
        """All shards of all splits, in their order."""
        counts = {name: self.shard_count(name) for name in self.splits}
        return [Shard(name, number) for name, count in counts.items() for number in range(count)]

    @property
    def examples(self) -> int:
        """The number of examples in all splits."""
        return sum(split.examples for split in self.splits.values())

    def shard_count(self, split: str) -> int:
        """Return the number of shards of a split."""
        return math.ceil(self.splits[split].examples / self.options.videos_per_shard)

    def indices(self, shard: Shard) -> list[int]:
        """Return the examples of a shard: shuffled for records, in the source's order for files."""
        size, count = self.splits[shard.split].examples, self.shard_count(shard.split)
        first, last = (size * number // count for number in (shard.number, shard.number + 1))
        if self.options.to == "videos":
            return list(range(first, last))
        return permutation(_SEED, 0, size)[first:last].tolist()

    def save(self, out: Path) -> None:
        """Write the plan into the output."""
        write_json(out / PLAN_FILE, self._to_json(), sync=True)

    def check_same(self, out: Path) -> None:
        """Compare this plan with the one in the output.

        Raises:
          InputError: the plans differ (the message lists how), or the output's cannot be read.
        """
        found, own = _read(out), self._to_json()
        differences = describe_differences(self.options, found.get("settings", {}))
        if found.get("format_version") != FORMAT_VERSION:
            differences.append(f"format {found.get('format_version')} (not {FORMAT_VERSION})")
        if found.get("label_names") != own["label_names"]:
            differences.append("other classes")
        if found.get("splits") != own["splits"]:
            differences.append(_describe_splits(own["splits"], found.get("splits", {})))
        if differences:
            raise InputError(
                f"{str(out)!r} was begun with {', '.join(differences)}: give the same command as "
                "then, or another --out."
            )

    def _to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "settings": dataclasses.asdict(self.options),
            "label_names": list(self.label_names),
            "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()},
        }


@functools.lru_cache(maxsize=1)
def load_plan(out: str) -> PreparePlan:
    """Load the plan of an output, once in each process."""
    content = _read(Path(out))
    return PreparePlan(
        options=PrepareOptions(**content["settings"]),
        label_names=tuple(content["label_names"]),
        splits={name: SplitPlan(**split) for name, split in content["splits"].items()},
    )


def make_plan(options: PrepareOptions, sources: Mapping[str, Source]) -> PreparePlan:
    """Make the plan for the sources of all splits, whose classes are those of the first source."""
    splits = {name: SplitPlan(len(source), source.identity) for name, source in sources.items()}
    return PreparePlan(options, next(iter(sources.values())).label_names, splits)


def video_file(plan: PreparePlan, split: str, example: Example) -> str:
    """Return the path of an example's video in the output, such as `train/run/0000007_a.mp4`."""
    folder = _safe_file_name(plan.label_names[example.label])
    stem = _safe_file_name(os.path.splitext(os.path.basename(example.name))[0])
    return f"{split}/{folder}/{example.id:07d}_{stem}.mp4"


def _safe_file_name(name: str) -> str:
    """Replace all characters but letters, digits, spaces and `_.-()` by underscores."""
    return re.sub(r"[^\w.() -]|^\.", "_", name)[:60] or "_"


def _read(out: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((out / PLAN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{str(out)!r} exists already and was not begun by this script (no readable "
            f"{PLAN_FILE}): name another --out, or remove it."
        ) from error


def _describe_splits(own: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if list(own) != list(found):
        return f"the splits {', '.join(found)} (not {', '.join(own)})"
    changed = [name for name in own if own[name] != found[name]]
    return f"other videos in {' and '.join(changed)}"
