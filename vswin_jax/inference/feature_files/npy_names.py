"""Names of `.npy` files after the names of videos, different for different videos."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from vswin_jax.data.sources.folders import is_video


def npy_files(names: Sequence[str]) -> tuple[str, ...]:
    """Return a relative path for each video: its name with the suffix `.npy`.

    Folders that all videos are in are left out, and so is `..`. The suffix of a video file is
    replaced, unless two videos would then have one name.
    """
    relative = _relative(names)
    stems = [_without_suffix(name) for name in relative]
    # Some file systems take upper and lower case for the same.
    stem_uses = Counter(stem.lower() for stem in stems)
    chosen = [
        stem if stem_uses[stem.lower()] == 1 else name
        for stem, name in zip(stems, relative, strict=True)
    ]
    uses = Counter(name.lower() for name in chosen)
    return tuple(
        f"{name}.npy" if uses[name.lower()] == 1 else f"{name}.{index}.npy"
        for index, name in enumerate(chosen)
    )


def _relative(names: Sequence[str]) -> list[str]:
    """Return the names without the folders that are common to all."""
    paths = [
        [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")] or ["video"]
        for name in names
    ]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(path[common:]) for path in paths]


def _without_suffix(name: str) -> str:
    return name.rpartition(".")[0] if is_video(name) else name
