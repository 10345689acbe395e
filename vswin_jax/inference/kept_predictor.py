"""Keeps the last predictor, so that a second call of `predict` neither loads nor compiles."""

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from vswin_jax import factory
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.inference.opened_checkpoint import OpenedCheckpoint, is_weights, open_checkpoint
from vswin_jax.inference.predictor import Predictor
from vswin_jax.inference.views import with_views

log = logging.getLogger(__name__)

# The name, size and time of the last change of each file.
Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class PredictorRequest:
    """The arguments of `Predictor`; equal ones give the same predictor while no file changes."""

    checkpoint: str
    views: tuple[int, int] | None = None
    which: str = "latest"
    labels: str | None = None

    def files(self, downloaded: str | None = None) -> Fingerprint:
        """Return the fingerprint of the files that are read; `downloaded` is that of a name."""
        path = self.checkpoint
        if downloaded is not None and not os.path.exists(path):
            path = downloaded
        elif os.path.isdir(os.path.join(path, "checkpoints")):
            path = os.path.join(path, "checkpoints")
        return fingerprint(path) + (fingerprint(self.labels) if self.labels else ())


@dataclass(frozen=True)
class _Kept:
    request: PredictorRequest
    files: Fingerprint
    opened: OpenedCheckpoint
    own_files: Fingerprint
    predictor: Predictor

    def is_current(self, request: PredictorRequest) -> bool:
        """Return True if `request` would give the same predictor, by a look at the files alone."""
        files = self.files
        return bool(request == self.request and files) and files == request.files(self.opened.path)

    def has_same_step(self, request: PredictorRequest, opened: OpenedCheckpoint) -> bool:
        """Return True if the run has changed, but not the step that the predictor is of."""
        is_same = (request, opened.path) == (self.request, self.opened.path)
        return is_same and bool(self.own_files) and self.own_files == fingerprint(opened.path)


class PendingPredictor:
    """A predictor that is kept, or one whose checkpoint is open and that `get` loads.

    Attributes:
      spec: the sampling and the views of its clips.
      note: a line on the checkpoint that was taken.
    """

    def __init__(self, request: PredictorRequest) -> None:
        self._request = request
        kept = _kept
        self._predictor = kept.predictor if kept and kept.is_current(request) else None
        if self._predictor is not None:
            self.spec: ClipSpec = self._predictor.spec
            self.note = self._predictor.model.note
            return
        # Before the checkpoint is opened: a change in the meantime is then seen by the next call.
        self._files = request.files()
        self._opened = open_checkpoint(request.checkpoint, request.which, request.labels)
        self.spec = with_views(factory.clip_spec(self._opened.config), request.views)
        self.note = self._opened.note

    def get(self) -> Predictor:
        """Return the predictor, which is loaded and compiled if it was not kept."""
        if self._predictor is None:
            self._predictor = _load(self._request, self._opened, self._files)
        elif self._predictor.model.warning:
            log.warning("warning: %s", self._predictor.model.warning)
        return self._predictor


_kept: _Kept | None = None
_lock = threading.Lock()


def _load(request: PredictorRequest, opened: OpenedCheckpoint, files: Fingerprint) -> Predictor:
    """Return the kept predictor if it is of the same step, or else load another one and keep it."""
    global _kept
    with _lock:
        own_files = fingerprint(opened.path)
        if _kept is not None and _kept.has_same_step(request, opened):
            predictor = _kept.predictor
        else:
            # Two models at a time may be more than the memory holds.
            _kept = None
            predictor = Predictor(opened, views=request.views)
        if is_weights(request.checkpoint) and not files:
            files = request.files(opened.path)
        _kept = _Kept(request, files, opened, own_files, predictor)
        return predictor


def forget_predictor() -> None:
    """Free the memory of the predictor that `predict` keeps for its next call."""
    global _kept
    with _lock:
        _kept = None


def fingerprint(path: str) -> Fingerprint:
    """Return the name, size and time of each file at `path`; nothing if there is none."""
    return tuple(sorted(_entries(path)))


def _entries(path: str) -> Iterator[tuple[str, int, int]]:
    for name in [path] if os.path.isfile(path) else _files_in(path):
        try:
            status = os.stat(name)
        except OSError:  # deleted meanwhile
            continue
        yield name, status.st_size, status.st_mtime_ns


def _files_in(directory: str) -> Iterator[str]:
    for folder, _, names in os.walk(directory):
        yield from (os.path.join(folder, name) for name in names)
