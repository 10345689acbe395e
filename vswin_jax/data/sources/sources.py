"""Where examples come from: lists, folders of classes or records, with random access."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources import published, tfds_path
from vswin_jax.data.sources.annotations import Row, read_annotations
from vswin_jax.data.sources.folders import holds_frame_folders, read_folder
from vswin_jax.data.sources.labels import (
    LABEL_NAMES_FILE,
    Labels,
    check_same_names,
    read_label_names,
    resolve_labels,
)
from vswin_jax.errors import InputError, unknown_name

KINDS = ("auto", "list", "csv", "jsonl", "folder", "frames", "tfds", *published.KINDS)
# Looking for every file of a bigger list would take minutes on a network disk.
_CHECKED_AT_OPEN = 10_000


class VideoSource:
    """Videos on disk, whose paths are relative to `root` or absolute.

    labels: int32 [N], or where videos have sets of labels a tuple for each.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        labels: Labels,
        label_names: tuple[str, ...],
        root: str,
        frames: bool,
    ) -> None:
        self.label_names = label_names
        self.labels = labels
        self.multi_label = isinstance(labels, tuple)
        self._rows = rows
        self._root = root
        self._frames = frames

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        path = os.path.join(self._root, row.path)
        video = FrameFolder(path, row.total) if self._frames else path
        label = self.labels[index]
        return Example(video, label if self.multi_label else int(label), index, row.path)

    @property
    def identity(self) -> str:
        """A digest of the paths as written and the labels, in their order."""
        videos = [(row.path, row.total) for row in self._rows]
        labels = self.labels if self.multi_label else self.labels.tolist()
        said = json.dumps([videos, labels, self.label_names, self._frames])
        return hashlib.sha256(said.encode()).hexdigest()


def open_source(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] = "",
    kind: str = "auto",
    label_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    must_exist: bool = True,
    multi_label: bool = False,
) -> Source:
    """Open a data set.

    Args:
        path: a file of `path label` lines (the label is the last field), a .csv with a header
            (path/video/filename and label/class), .jsonl or .json objects with those keys, a file
            of `folder frames label` lines, a folder with a sub-folder of videos, or of folders
            of images, per class, a list as Kinetics, Something-Something v2, UCF101, HMDB51
            (`FOLDER:train1`) or Moments in Time published it (see `data.sources.published`), or
            a split of a TFDS data set (`DIRECTORY:train`, see `vswin_jax.data.sources.tfds_path`).
        root: what paths in a file are relative to; empty is the file's own folder. The videos of
            a published list may be in folders under it; those that are not there are left out.
            For `tfds:NAME:SPLIT`, where TFDS keeps its data; empty is its default.
        kind: one of `KINDS`; `frames` are extracted frames, in a list or in folders.
        label_names: the training set's, when this is the evaluation set of a model; without them
            those in a `label_names.txt` beside a list count, if there is one.
        num_classes: how many classes the model has.
        must_exist: whether all the files of a list must be there, or else just one of them.
        multi_label: whether videos have sets of labels: `a.mp4 run;jump` or `a.mp4 3;17` in a
            list, the same in the label column of a .csv (where nothing is an empty set), a list
            of labels in JSON (which may be empty). In folders of classes and published lists every
            video has one label, so its set has one.

    Raises:
        InputError: something is missing, empty, or not as expected; it says what and where.
    """
    path, root = os.fspath(path), os.fspath(root)
    if kind not in KINDS:
        raise unknown_name("data format", kind, KINDS)
    if kind == "tfds" or (kind == "auto" and tfds_path.is_tfds(path)):
        if multi_label:
            raise InputError(
                f"Expected lists or folders for config.data.multi_label but {path!r} is a TFDS "
                "data set, whose videos have one class: set it to False, or give a list."
            )
        # TFDS is imported by those who use it.
        from vswin_jax.data.sources.tfds_source import open_tfds

        return open_tfds(path, root, label_names, num_classes)
    if not os.path.exists(published.folder_of(path)):
        raise InputError(f"There is no annotation file or folder of videos at {path!r}.")
    kind = _detect(path, root) if kind == "auto" else kind
    classes = _Classes(label_names, num_classes, multi_label)
    if kind in published.KINDS:
        return _open_published(path, root, kind, classes)
    if os.path.isdir(path):
        return _open_folder(path, kind, classes)
    return _open_list(path, root, kind, classes, must_exist)


class _Classes(NamedTuple):
    """What is known of the classes before a data set is read; see `open_source`."""

    label_names: Sequence[str] | None
    num_classes: int | None
    multi_label: bool


def _detect(path: str, root: str) -> str:
    known = published.recognise(path)
    if known:
        return known
    if os.path.isdir(path):
        return "frames" if holds_frame_folders(path) else "folder"
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".csv", ".json", ".jsonl"):
        return "csv" if suffix == ".csv" else "jsonl"
    first = read_annotations(path, "list")[0]
    folder, *total = first.path.rsplit(None, 1)
    is_folder = os.path.isdir(os.path.join(_base(path, root), folder))
    return "frames" if is_folder and total and total[0].isdecimal() else "list"


def _open_folder(path: str, kind: str, classes: _Classes) -> VideoSource:
    if kind not in ("folder", "frames"):
        raise InputError(f"{path!r} is a folder, so the data format cannot be {kind!r}.")
    rows = read_folder(path, frames=kind == "frames")
    labels, names = resolve_labels(
        [row.label for row in rows],
        lambda _: f"The folder {path!r}",
        path,
        numbers=False,
        **classes._asdict(),
    )
    return VideoSource(rows, labels, names, path, kind == "frames")


def _open_list(path: str, root: str, kind: str, classes: _Classes, must_exist: bool) -> VideoSource:
    if kind == "folder":
        raise InputError(f"{path!r} is a file, so the data format cannot be 'folder'.")
    rows = read_annotations(path, kind, classes.multi_label)
    if classes.label_names is None:
        classes = classes._replace(label_names=_names_beside(path))
    labels, names = resolve_labels(
        [row.label for row in rows],
        lambda index: f"{path!r}, line {rows[index].line}",
        path,
        **classes._asdict(),
    )
    base = _base(path, root)
    if len(rows) <= _CHECKED_AT_OPEN:
        _check_files(rows, base, path, must_exist)
    return VideoSource(rows, labels, names, base, kind == "frames")


def _names_beside(path: str) -> tuple[str, ...] | None:
    """The label map in the folder of a list, where a prepared data set has it."""
    beside = os.path.join(os.path.dirname(path), LABEL_NAMES_FILE)
    return read_label_names(beside) if os.path.isfile(beside) else None


def _open_published(path: str, root: str, kind: str, classes: _Classes) -> VideoSource:
    listing = published.read_listing(path, kind)
    classes = classes._replace(label_names=_published_names(listing, path, classes.label_names))
    base = _base(os.path.abspath(published.folder_of(path)), root)
    rows = published.find_videos(listing.entries, base, path)
    labels, names = resolve_labels(
        [row.label for row in rows],
        lambda index: f"{path!r}, line {rows[index].line}",
        path,
        numbers=False,
        **classes._asdict(),
    )
    return VideoSource(rows, labels, names, base, frames=False)


def _published_names(
    listing: published.Listing, path: str, label_names: Sequence[str] | None
) -> Sequence[str]:
    # An alphabet is no published order: a part of Kinetics may lack classes of the whole.
    if label_names is not None and listing.names_file and listing.label_names is not None:
        check_same_names(label_names, listing.label_names, path)
    names = listing.label_names if label_names is None else label_names
    if names is None:
        raise InputError(
            f"Expected {listing.names_file!r} beside {path!r}, which has the order of the "
            "classes: put it there, or give the label names."
        )
    return names


def _base(path: str, root: str) -> str:
    return root or os.path.dirname(path)


def _check_files(rows: Sequence[Row], root: str, path: str, must_exist: bool) -> None:
    missing = [row for row in rows if not os.path.exists(os.path.join(root, row.path))]
    if missing and (must_exist or len(missing) == len(rows)):
        count = f" ({len(missing)} of {len(rows)} are missing)" if len(missing) > 1 else ""
        raise InputError(
            f"{path!r}, line {missing[0].line}: there is no {missing[0].path!r} in "
            f"{root or '.'!r}{count}; correct the list or the root of its paths."
        )
