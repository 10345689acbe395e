"""Runs the jobs of requests in threads, each with a decoding process; other jobs wait in order."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from vswin_jax.data.pipeline.clip_processes import ClipProcesses
from vswin_jax.data.pipeline.process_limits import ProcessLimits

Result = TypeVar("Result")


class DecoderQueue:
    """A number of decoding processes, and the jobs that wait for them, first come, first served.

    A job that is cancelled loses its process, which is killed and replaced, so that a video that
    nobody waits for is not decoded to its end. All methods but `close` belong to one event loop.
    """

    def __init__(self, count: int, limits: ProcessLimits) -> None:
        self._limits = limits
        # One process each, to be killed on its own.
        self._decoders = {ClipProcesses(1, limits) for _ in range(count)}
        self._idle: asyncio.Queue[ClipProcesses] = asyncio.Queue()
        for decoder in self._decoders:
            self._idle.put_nowait(decoder)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="request")

    async def run(self, job: Callable[[ClipProcesses], Result]) -> Result:
        """Return `job(decoder)`, which runs in a thread when a process is free."""
        decoder = await self._idle.get()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, job, decoder)
            # The thread cannot be cancelled; it ends soon after its process.
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_ignore)
            decoder = self._replace(decoder)
            raise
        finally:
            self._idle.put_nowait(decoder)

    def _replace(self, decoder: ClipProcesses) -> ClipProcesses:
        decoder.close()
        self._decoders.discard(decoder)
        new = ClipProcesses(1, self._limits)
        self._decoders.add(new)
        return new

    def close(self) -> None:
        """Kill all processes; jobs that are running end with an error."""
        for decoder in self._decoders:
            decoder.close()
        self._threads.shutdown(cancel_futures=True)


def _ignore(future: "asyncio.Future[Any]") -> None:
    """Take the error of a job that nobody waits for, which asyncio would report."""
    if not future.cancelled():
        future.exception()
