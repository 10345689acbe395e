"""Opens data sets of many formats as sources of examples with random access.

The formats, which `kind` names and "auto" detects:

    list      a file of `path label` lines; the label is the last field, so paths may have spaces
    frames    a file of `folder frames label` lines, or sub-folders of frame folders per class
    csv       .csv or .tsv with a header that has a column path/video/filename and a column
              label/class; its cells are separated by `,`, `;` or tabs
    jsonl     .jsonl or .json objects with those keys, one a line or in an array
    folder    a folder with a sub-folder of videos per class
    kinetics, ssv2, ucf101, hmdb51, mit
              a list as the data set published it (see `data.sources.published`); for HMDB51
              `FOLDER:train1`
    tfds      a split of a TFDS data set, `DIRECTORY:train` or `tfds:NAME:train` (see
              `data.sources.tfds_path`)

Others are registered by `source_registry.register_source` and named `FORMAT:PATH`.

A video with several labels is written `a.mp4 run;jump` or `a.mp4 3;17` in a list, the same way in
the label column of a CSV file, where an empty cell is an empty set, and as a list of labels in
JSON, which may be empty. In folders and published lists every video has one label.
"""

import hashlib
import json
import logging
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from vswin_jax.data.decoding.frames import FrameFolder
from vswin_jax.data.example import Example, Source
from vswin_jax.data.sources import published
from vswin_jax.data.sources.annotations import AnnotationRow, read_annotations
from vswin_jax.data.sources.folders import has_frame_folders, read_folder
from vswin_jax.data.sources.labels import Labels, check_same_names, resolve_labels
from vswin_jax.data.sources.source_registry import (
    KINDS,
    SourceOptions,
    missing_error,
    open_registered,
    split_scheme,
)
from vswin_jax.data.sources.tfds_path import is_tfds_path
from vswin_jax.errors import InputError
from vswin_jax.runtime.label_names import LABEL_NAMES_FILE, read_label_names

__all__ = ["KINDS", "VideoSource", "open_source"]

log = logging.getLogger("vswin_jax")
_KIND_OF_SUFFIX = {".csv": "csv", ".tsv": "csv", ".json": "jsonl", ".jsonl": "jsonl"}
# Looking up every file of a longer list would take minutes on a network disk.
_MAX_CHECKED_FILES = 10_000


class VideoSource:
    """Videos on disk, with paths that are absolute or relative to `root`; see `Source`.

    Attributes:
      labels: int32 [N], or a tuple of classes for each video if videos have sets of labels.
      root: the folder that relative paths begin in.
    """

    def __init__(
        self,
        rows: Sequence[AnnotationRow],
        labels: Labels,
        label_names: tuple[str, ...],
        root: str,
        frames: bool,
    ) -> None:
        self.label_names = label_names
        self.labels = labels
        self.multi_label = isinstance(labels, tuple)
        self._rows = rows
        self.root = root
        self._frames = frames

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        path = os.path.join(self.root, row.path)
        video = FrameFolder(path, row.num_frames) if self._frames else path
        label = self.labels[index]
        return Example(video, label if self.multi_label else int(label), index, row.path)

    @property
    def identity(self) -> str:
        """A digest of the paths as written and the labels, in their order."""
        videos = [(row.path, row.num_frames) for row in self._rows]
        labels = self.labels if self.multi_label else self.labels.tolist()
        content = json.dumps([videos, labels, self.label_names, self._frames])
        return hashlib.sha256(content.encode()).hexdigest()


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
    """Open a data set in one of the formats that this module's docstring lists.

    Args:
      path: a file, a folder, or the split of a TFDS data set.
      root: the folder to which paths in a file are relative; empty is the file's own folder. The
        videos of a published list may be in sub-folders of it, and missing ones are left out. For
        `tfds:NAME:SPLIT`, TFDS's data_dir; empty is the default of TFDS.
      kind: one of `KINDS`, or a registered format.
      label_names: the classes of the training set or the model; None takes those of a
        `label_names.txt` beside a list, if there is one.
      num_classes: the number of classes of the model.
      must_exist: require all files of a list; otherwise one file is enough.
      multi_label: let videos have sets of labels.

    Raises:
      InputError: something is missing, empty or malformed; the message names it.
    """
    path, root = os.fspath(path), os.fspath(root)
    options = _ClassOptions(label_names, num_classes, multi_label)
    own_format, path_in_format = split_scheme(path, kind)
    if own_format is not None:
        own = SourceOptions(root, label_names, num_classes, must_exist, multi_label)
        return open_registered(own_format, path_in_format, own)
    if kind == "tfds" or (kind == "auto" and is_tfds_path(path)):
        return _open_tfds(path, root, options)
    if not os.path.exists(published.without_split(path)):
        raise missing_error(path)
    kind = _detect_kind(path, root) if kind == "auto" else kind
    if kind in published.KINDS:
        return _open_published(path, root, kind, options)
    if os.path.isdir(path):
        return _open_folder(path, kind, options)
    return _open_list(path, root, kind, options, must_exist)


class _ClassOptions(NamedTuple):
    """The arguments of `open_source` about classes."""

    label_names: Sequence[str] | None
    num_classes: int | None
    multi_label: bool


def _detect_kind(path: str, root: str) -> str:
    published_kind = published.detect_kind(path)
    if published_kind:
        return published_kind
    if os.path.isdir(path):
        return "frames" if has_frame_folders(path) else "folder"
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _KIND_OF_SUFFIX:
        return _KIND_OF_SUFFIX[suffix]
    first = read_annotations(path, "list")[0]
    folder, *num_frames = first.path.rsplit(None, 1)
    is_folder = os.path.isdir(os.path.join(_base(path, root), folder))
    return "frames" if is_folder and num_frames and num_frames[0].isdecimal() else "list"


def _open_tfds(path: str, root: str, options: _ClassOptions) -> Source:
    if options.multi_label:
        raise InputError(
            f"Expected lists or folders for multi_label but {path!r} is a TFDS data set, whose "
            "videos have one class: set it to False, or give a list.",
            ["multi_label"],
        )
    # Importing TFDS takes seconds, so it is imported only for a TFDS data set.
    from vswin_jax.data.sources.tfds_source import open_tfds

    return open_tfds(path, root, options.label_names, options.num_classes)


def _open_folder(path: str, kind: str, options: _ClassOptions) -> VideoSource:
    if kind not in ("folder", "frames"):
        raise InputError(
            f"{path!r} is a folder, so the data format cannot be {kind!r}: leave it out.",
            ["the data format"],
        )
    rows = read_folder(path, frames=kind == "frames")
    labels, names = _resolve(rows, path, options, allow_indices=False)
    return VideoSource(rows, labels, names, path, frames=kind == "frames")


def _open_list(
    path: str, root: str, kind: str, options: _ClassOptions, must_exist: bool
) -> VideoSource:
    if kind == "folder":
        raise InputError(
            f"{path!r} is a file, so the data format cannot be 'folder': leave it out.",
            ["the data format"],
        )
    rows = read_annotations(path, kind, options.multi_label)
    if options.label_names is None:
        options = options._replace(label_names=_sibling_label_names(path))
    labels, names = _resolve(rows, path, options, allow_indices=True)
    base = _base(path, root)
    if len(rows) <= _MAX_CHECKED_FILES:
        _check_files(rows, base, path, must_exist)
    _report_contradictions(rows, labels, path)
    return VideoSource(rows, labels, names, base, frames=kind == "frames")


def _sibling_label_names(path: str) -> tuple[str, ...] | None:
    """Read the class names in the folder of a list, where a prepared data set stores them."""
    sibling = os.path.join(os.path.dirname(path), LABEL_NAMES_FILE)
    return read_label_names(sibling) if os.path.isfile(sibling) else None


def _open_published(path: str, root: str, kind: str, options: _ClassOptions) -> VideoSource:
    listing = published.read_listing(path, kind)
    options = options._replace(label_names=_published_names(listing, path, options.label_names))
    base = _base(os.path.abspath(published.without_split(path)), root)
    rows = published.find_videos(listing.videos, base, path)
    labels, names = _resolve(rows, path, options, allow_indices=False)
    return VideoSource(rows, labels, names, base, frames=False)


def _published_names(
    listing: published.Listing, path: str, label_names: Sequence[str] | None
) -> Sequence[str]:
    # Only a published order is compared with the model's. Alphabetical orders may differ, since a
    # part of Kinetics may lack classes of the whole.
    if label_names is not None and listing.names_file and listing.label_names is not None:
        check_same_names(label_names, listing.label_names, path)
    names = listing.label_names if label_names is None else label_names
    if names is None:
        raise InputError(
            f"Expected {listing.names_file!r} beside {path!r}, which has the order of the "
            "classes: put it there, or give the label names.",
            ["the label names"],
        )
    return names


def _resolve(
    rows: Sequence[AnnotationRow], path: str, options: _ClassOptions, *, allow_indices: bool
) -> tuple[Labels, tuple[str, ...]]:
    def location_of(index: int) -> str:
        line = rows[index].line
        return f"{path!r}, line {line}" if line else f"The folder {path!r}"

    return resolve_labels(
        [row.label for row in rows],
        location_of,
        path,
        allow_indices=allow_indices,
        **options._asdict(),
    )


def _base(path: str, root: str) -> str:
    return root or os.path.dirname(path)


def _check_files(rows: Sequence[AnnotationRow], root: str, path: str, must_exist: bool) -> None:
    missing = [row for row in rows if not os.path.exists(os.path.join(root, row.path))]
    if missing and (must_exist or len(missing) == len(rows)):
        count = f" ({len(missing)} of {len(rows)} are missing)" if len(missing) > 1 else ""
        raise InputError(
            f"{path!r}, line {missing[0].line}: there is no {missing[0].path!r} in "
            f"{root or '.'!r}{count}; {_correction(missing[0].path, root)}.",
            ["the root of its paths"],
        )


def _correction(path: str, root: str) -> str:
    """Return how to correct a list that names the missing file `path`."""
    forms = [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
    if any(os.path.exists(os.path.join(root, form)) for form in forms):
        return "the name of the file there is in another form of Unicode (NFC or NFD): rename it"
    if os.path.exists(os.path.join(root, path.replace("\\", "/"))):
        return "write / between folders instead of \\"
    if os.path.exists(os.path.join(root, path.strip("\"'"))):
        return "leave out the quotes, which are part of a name in such a list"
    return "correct the list or the root of its paths"


def _report_contradictions(rows: Sequence[AnnotationRow], labels: Labels, path: str) -> None:
    """Log how many lines give a video another label than a line before."""
    values = labels if isinstance(labels, tuple) else labels.tolist()
    first_of: dict[str, int] = {}
    firsts = [first_of.setdefault(row.path, index) for index, row in enumerate(rows)]
    others = [index for index, first in enumerate(firsts) if values[first] != values[index]]
    if others:
        first, second = rows[firsts[others[0]]], rows[others[0]]
        log.warning(
            "%d lines of %r give a video another label than a line before, as line %d after line "
            "%d for %r: correct them, or give all labels of a video on one line and set "
            "config.data.multi_label to true.",
            *(len(others), path, second.line, first.line, first.path),
        )
