"""TensorBoard files of a run, written by a thread.

CLU (Common Loop Utils) writes them by TensorFlow, which takes seconds to import: the thread imports
both when the first values come, which is while the device works on the first steps.
"""

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from vswin_jax.runtime.quiet_import import import_quietly

log = logging.getLogger("vswin_jax")

_SCALARS, _IMAGES = "write_scalars", "write_images"


class TensorBoard:
    """Writes scalars and images to `workdir`, in the order of the calls; `close` waits for them.

    Without CLU or TensorFlow it says so in the log once, and writes nothing. Its methods raise what
    was raised when earlier values were written, such as the OSError of a full disk.
    """

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir
        self._entries: queue.SimpleQueue[tuple[str, int, Mapping[str, Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write numbers by name."""
        self._put(_SCALARS, step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write images uint8 `[N, H, W, 3]` by name."""
        self._put(_IMAGES, step, images)

    def close(self) -> None:
        """Wait until everything is written."""
        if self._thread is not None:
            self._entries.put(None)
            self._thread.join()
            self._thread = None
        self._raise_error()

    def _put(self, method: str, step: int, values: Mapping[str, Any]) -> None:
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="TensorBoard")
            self._thread.start()
        self._entries.put((method, step, values))

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self._write_all(import_quietly("clu.metric_writers").SummaryWriter(self._workdir))
        except ImportError as error:
            log.info("TensorBoard is off (%s); metrics.jsonl has the same numbers.", error)
        except Exception as error:
            self._error = error

    def _write_all(self, writer: Any) -> None:
        while (entry := self._entries.get()) is not None:
            method, step, values = entry
            getattr(writer, method)(step, values)
        writer.close()
