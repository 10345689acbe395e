"""The files of explanations: a strip as PNG, a video as mp4, the map as npy."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.inference.explanations.explanation import Explanation
from vswin_jax.reporting.contact_sheet import save_pictures, save_sheet
from vswin_jax.reporting.overlay_pictures import OverlaidClip, draw_strip, draw_video
from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.output_path import output_directory, output_file
from vswin_jax.runtime.printable import printable

VIDEO_RATE = 8.0  # frames a second, at which motion can be followed
_SUFFIXES = {"out": ".png", "video": ".mp4", "map": ".npy"}


def save_explanation(explanation: Explanation, files: Mapping[str, Path]) -> None:
    """Write the files "out" (strip), "video" and "map" of `files`; each is there as a whole."""
    for kind, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _SAVERS[kind](explanation, path)


def _save_strip(explanation: Explanation, path: Path) -> None:
    save_sheet(path, draw_strip(overlaid_clip(explanation)))


def _save_video(explanation: Explanation, path: Path) -> None:
    save_pictures(path, draw_video(overlaid_clip(explanation)), VIDEO_RATE)


def _save_map(explanation: Explanation, path: Path) -> None:
    content = io.BytesIO()
    np.save(content, explanation.tokens)
    with atomic_write(path) as partial:
        partial.write_bytes(content.getvalue())


_SAVERS: dict[str, Callable[[Explanation, Path], None]] = {
    "out": _save_strip,
    "video": _save_video,
    "map": _save_map,
}


def overlaid_clip(explanation: Explanation) -> OverlaidClip:
    """Return the clip and its map with captions, to be drawn."""
    name = os.path.join(*Path(os.path.normpath(explanation.video)).parts[-2:])
    return OverlaidClip(
        frames=explanation.frames,
        heat=explanation.heat,
        outline=explanation.outline,
        title=f"{printable(explanation.label)}  {explanation.probability:.1%}",
        caption=f"{explanation.caption}    {printable(name)}",
    )


@dataclass(frozen=True)
class ExplanationPaths:
    """The files or directories that explanations are written to.

    Attributes:
      targets: the path of each kind that was asked for, "out", "video" and "map".
      in_directories: the paths are directories, with a file for each video.
    """

    targets: Mapping[str, Path]
    in_directories: bool

    @classmethod
    def create(
        cls, paths: Mapping[str, str | os.PathLike[str] | None], num_videos: int
    ) -> "ExplanationPaths":
        """Check the paths: for one video files, or else directories.

        Raises:
          InputError: a path does not fit the number of videos, or cannot be written.
        """
        given = {kind: Path(path) for kind, path in paths.items() if path is not None}
        is_file = {path.suffix.lower() == _SUFFIXES[kind] for kind, path in given.items()}
        if is_file == {True, False}:
            raise InputError(
                "Expected either files (.png, .mp4, .npy) or directories for all outputs but "
                f"{', '.join(map(str, given.values()))} came: change one."
            )
        if is_file == {True} and num_videos > 1:
            raise InputError(
                f"Expected directories for the outputs of {num_videos} videos but "
                f"{', '.join(map(str, given.values()))} came: leave the suffix away."
            )
        check = output_file if is_file == {True} else output_directory
        return cls({k: check(path, _flag(k)) for k, path in given.items()}, is_file == {False})

    def of_videos(self, videos: Sequence[str]) -> list[dict[str, Path]]:
        """Return the files of each video: in directories they have the video's name.

        The names have as many folders as are needed to differ, counted from the end of the path.
        """
        if not self.in_directories:
            return [dict(self.targets) for _ in videos]
        names = distinct_names(videos)
        return [
            {kind: path / f"{name}{_SUFFIXES[kind]}" for kind, path in self.targets.items()}
            for name in names
        ]


def _flag(kind: str) -> str:
    return f"--{kind}"


def distinct_names(videos: Sequence[str]) -> list[str]:
    """Return the path of each video below the folder that all of them share."""
    absolute = [os.path.abspath(video) for video in videos]
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
    names = [os.path.relpath(path, folder) for path in absolute]
    stems = [os.path.splitext(name)[0] for name in names]
    # a.mp4 and a.avi of one folder keep their suffixes.
    return stems if len(set(stems)) == len(set(names)) else names
