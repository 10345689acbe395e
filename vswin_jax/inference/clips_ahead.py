"""Decodes the test views of a video while the device computes those of the video before."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from vswin_jax.data.clips import clips
from vswin_jax.data.clips.clip_spec import ClipSpec
from vswin_jax.data.example import Example
from vswin_jax.data.pipeline.buffer_pool import allocate
from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import ProcessLimits
from vswin_jax.errors import InputError

# Recordings of hours may have to be decoded as a whole to count their frames.
_LIMITS = ProcessLimits(cpu_seconds=1200.0, wall_seconds=2400.0)
Views = UInt8[np.ndarray, "V T size size 3"]


@contextlib.contextmanager
def read_ahead(
    examples: Sequence[Example], spec: ClipSpec
) -> Iterator[Iterator[tuple[Example, Views | InputError]]]:
    """Yield an iterator over each example with its test views, or with the error of reading them.

    A video that hangs or crashes the process that decodes it is an error too. Reading begins at
    once, and one video is read ahead.
    """
    # At its end the pool waits for its thread, and this for the process, which is ended first.
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        # Other systems cannot pass a socket to a process: the thread decodes there.
        loader, allocator = clips, allocate
        if os.name == "posix":
            loader = ClipProcesses(1, _LIMITS)
            stack.callback(loader.close)
            allocator = loader.memory.empty
        shape = (spec.views, spec.num_frames, spec.size, spec.size, 3)

        def read(example: Example) -> Views | InputError:
            out = allocator(int(np.prod(shape))).reshape(shape)
            try:
                return loader.test_views(example, spec, out=out)
            except InputError as error:
                return error

        first = pool.submit(read, examples[0])
        yield _one_ahead(examples, first, lambda example: pool.submit(read, example))


def _one_ahead(
    examples: Sequence[Example],
    result: Future[Views | InputError],
    submit: Callable[[Example], Future[Views | InputError]],
) -> Iterator[tuple[Example, Views | InputError]]:
    """Yield each example with its result; `result` is that of the first one."""
    for example, following in itertools.zip_longest(examples, examples[1:]):
        read = result.result()
        if following is not None:
            result = submit(following)
        yield example, read
