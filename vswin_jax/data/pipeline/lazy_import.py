"""Late import of the pipeline, and so of TensorFlow, which takes seconds and writes to stderr."""

import contextlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

# `tf.data.AUTOTUNE`, for callers that choose the number of threads before TensorFlow is imported.
AUTOTUNE = -1


def load_pipeline() -> ModuleType:
    """Import `vswin_jax.data.pipeline.pipeline` without the output of TensorFlow's C++ code."""
    with _silent_stderr():
        from vswin_jax.data.pipeline import pipeline
    return pipeline


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what is written to file descriptor 2; TensorFlow has no switch for its messages."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:
        # The stream is closed, as in `2>&-`.
        yield
        return
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
