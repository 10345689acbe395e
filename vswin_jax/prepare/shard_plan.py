"""What is to be prepared and where it goes: a file in the output that every process reads.

Which example is in which shard, and where, depends on the sizes of the source alone. Videos that
turn out bad are left out of their shard, so no other one moves.
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
from vswin_jax.prepare.options import Settings, differing
from vswin_jax.runtime.atomic_write import whole_file

PLAN_FILE = "prepare.json"
FORMAT_VERSION = 1
# The order of a sequential reader; training shuffles on its own.
_SEED = 0


class Shard(NamedTuple):
    """A part of a split that is finished together."""

    split: str
    number: int


@dataclass(frozen=True)
class SplitPlan:
    """The size of a split, and a digest of which examples it has."""

    examples: int
    identity: str


@dataclass(frozen=True)
class Plan:
    """Settings, classes in the order of their labels, and the splits by name."""

    settings: Settings
    label_names: tuple[str, ...]
    splits: dict[str, SplitPlan]

    @property
    def shards(self) -> list[Shard]:
        """All shards of all splits, in their order."""
        counts = {name: self.shard_count(name) for name in self.splits}
        return [Shard(name, number) for name, count in counts.items() for number in range(count)]

    @property
    def examples(self) -> int:
        """How many there are in all splits."""
        return sum(split.examples for split in self.splits.values())

    def shard_count(self, split: str) -> int:
        """How many shards a split has."""
        return math.ceil(self.splits[split].examples / self.settings.videos_per_shard)

    def indices(self, shard: Shard) -> list[int]:
        """The examples of a shard in their order: of records mixed, of videos the source's."""
        size, count = self.splits[shard.split].examples, self.shard_count(shard.split)
        first, last = (size * number // count for number in (shard.number, shard.number + 1))
        if self.settings.to == "videos":
            return list(range(first, last))
        return permutation(_SEED, 0, size)[first:last].tolist()

    def save(self, out: Path) -> None:
        """Writes the plan into the output."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        with whole_file(out / PLAN_FILE, sync=True) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def check_same(self, out: Path) -> None:
        """Compares with the plan in the output.

        Raises:
            InputError: it is another one, or cannot be read; says how it differs.
        """
        found = _read(out)
        differences = differing(self.settings, found.get("settings", {}))
        if found.get("format_version") != FORMAT_VERSION:
            differences.append(f"format {found.get('format_version')} (not {FORMAT_VERSION})")
        if found.get("label_names") != list(self.label_names):
            differences.append("other classes")
        splits = {name: dataclasses.asdict(split) for name, split in self.splits.items()}
        if found.get("splits") != splits:
            differences.append(_other_splits(splits, found.get("splits", {})))
        if differences:
            raise InputError(
                f"{str(out)!r} was begun with {', '.join(differences)}: give the same command as "
                "then, or another --out."
            )


@functools.lru_cache(maxsize=1)
def load_plan(out: str) -> Plan:
    """The plan in an output, read once a process."""
    content = _read(Path(out))
    splits = {name: SplitPlan(**split) for name, split in content["splits"].items()}
    return Plan(Settings(**content["settings"]), tuple(content["label_names"]), splits)


def make_plan(settings: Settings, sources: Mapping[str, Source]) -> Plan:
    """The plan for sources, by split, which all have the classes of the first one."""
    splits = {name: SplitPlan(len(source), source.identity) for name, source in sources.items()}
    return Plan(settings, next(iter(sources.values())).label_names, splits)


def video_file(plan: Plan, split: str, example: Example) -> str:
    """Where the video of an example goes, relative to the output: `train/run/0000007_a.mp4`."""
    folder = _safe(plan.label_names[example.label])
    stem = _safe(os.path.splitext(os.path.basename(example.name))[0])
    return f"{split}/{folder}/{example.id:07d}_{stem}.mp4"


def _safe(name: str) -> str:
    """A class's or a video's name as that of a file: letters, digits, `_.-()` and spaces stay."""
    return re.sub(r"[^\w.() -]|^\.", "_", name)[:60] or "_"


def _read(out: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((out / PLAN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{str(out)!r} is there already and was not begun by this script (no readable "
            f"{PLAN_FILE}): name another --out, or remove it."
        ) from error


def _other_splits(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    if list(ours) != list(theirs):
        return f"the splits {', '.join(theirs)} (not {', '.join(ours)})"
    changed = [name for name in ours if ours[name] != theirs[name]]
    return f"other videos in {' and '.join(changed)}"
