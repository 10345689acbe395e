"""The directory of feature files: its settings, checked at each start, and its complete shards."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from vswin_jax.errors import InputError, first_line
from vswin_jax.inference.feature_files.feature_shard import FeatureShard
from vswin_jax.inference.feature_files.feature_shard_plan import Piece, ShardPlan
from vswin_jax.inference.feature_files.shard_formats import FORMATS
from vswin_jax.inference.written_settings import describe_changes
from vswin_jax.runtime.atomic_write import write_json
from vswin_jax.runtime.disk_full import reraise_disk_full
from vswin_jax.runtime.file_lock import exclusive_lock

SETTINGS_FILE = "features.json"
_PHRASES = {"data": "other videos or labels", "weights": "other weights"}
_ADVICE = "the same command goes on with the shards that are missing"

Settings = Mapping[str, Any]


class FeatureDirectory:
    """A directory with the shards of one data set under one model.

    Attributes:
      path: the directory.
      settings: the content of its `features.json`.
      plan: the shards that it has when it is complete.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.plan = ShardPlan(settings["num_videos"], settings["videos_per_shard"])
        self._format = FORMATS[settings["format"]]

    def shard_path(self, shard: int) -> Path:
        """Return the file that a shard has when it is complete."""
        return self.path / (self.plan.name(shard) + self._format.suffix)

    def is_complete(self, shard: int) -> bool:
        """Return True if a shard is written."""
        return self.shard_path(shard).exists()

    def write(self, shard: int, content: FeatureShard, piece: Piece) -> None:
        """Write a shard; it is there as a whole, or not at all."""
        self._format.write(self.shard_path(shard), self._partial(shard, piece), content)

    def read(self, shard: int) -> FeatureShard:
        """Read a complete shard.

        Raises:
          InputError: the file is damaged.
        """
        path = self.shard_path(shard)
        try:
            return self._format.read(path)
        except (OSError, ValueError, LookupError, EOFError, BadZipFile) as error:
            reason = first_line(error, 200)
            raise InputError(
                f"{os.fspath(path)!r} cannot be read ({reason}): delete it and start "
                f"the command again, which writes it anew."
            ) from error

    @contextlib.contextmanager
    def writing(self, piece: Piece) -> Iterator[None]:
        """Lock the share of one process, and remove what a killed one has left of it."""
        name = f".share-{piece.number}-of-{piece.count}.lock"
        activity = f"writing the share {piece} of '{self.path}'"
        with (
            reraise_disk_full(self.path, lambda: _ADVICE),
            exclusive_lock(self.path / name, activity),
        ):
            for shard in self.plan.shards_of(piece):
                self._partial(shard, piece).unlink(missing_ok=True)
            yield

    def _partial(self, shard: int, piece: Piece) -> Path:
        # Named after the process: several may write one shard if their shares overlap.
        path = self.shard_path(shard)
        return path.with_name(f".{path.name}.{piece.number}-of-{piece.count}.partial")


def create_directory(path: Path, settings: Settings) -> FeatureDirectory:
    """Return the directory for these settings, which is made if it is missing.

    Raises:
      InputError: it has the features of other settings; the message names those that differ.
    """
    directory = FeatureDirectory(path, settings)
    with reraise_disk_full(path, lambda: _ADVICE):
        path.mkdir(parents=True, exist_ok=True)
        # Several processes start at once: one writes the settings, and all compare them.
        with exclusive_lock(path / ".settings.lock", f"starting in '{path}'", wait_seconds=60.0):
            if not (path / SETTINGS_FILE).exists():
                _write_settings(path / SETTINGS_FILE, settings)
    _check_same(path, read_settings(path), settings)
    return directory


def open_directory(path: Path) -> FeatureDirectory:
    """Open a directory that `create_directory` has made.

    Raises:
      InputError: there is none at `path`.
    """
    return FeatureDirectory(path, read_settings(path))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the features in a directory.

    Raises:
      InputError: it has none.
    """
    file = path / SETTINGS_FILE
    if not file.is_file():
        raise InputError(
            f"Expected a directory of features but {os.fspath(path)!r} has no {SETTINGS_FILE}: "
            f"give one that `python -m vswin_jax.features` has written."
        )
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        # Fails where the sizes of the set are not numbers.
        _ = FeatureDirectory(path, settings).plan.num_shards
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        reason = first_line(error, 200)
        raise InputError(
            f"{os.fspath(file)!r} is damaged ({reason}): delete its directory and "
            f"write the features anew."
        ) from error
    return settings


def _write_settings(path: Path, settings: Settings) -> None:
    if next(path.parent.glob("shard-*"), None):
        raise InputError(
            f"{os.fspath(path.parent)!r} has shards but no {SETTINGS_FILE}: give another directory."
        )
    write_json(path, settings, sync=True)


def _check_same(path: Path, old: Settings, new: Settings) -> None:
    """Compare the settings that an earlier start has written with those of this one."""
    # The address of the same weights may have changed.
    ignored = ("checkpoint", "label_names")
    shown = describe_changes(old, new, ignored=ignored, phrases=_PHRASES)
    if shown:
        raise InputError(
            f"The features in {os.fspath(path)!r} are of other settings ({shown}): give the same "
            f"ones to go on there, or another directory."
        )
