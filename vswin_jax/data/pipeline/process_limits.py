"""Limits of the time and the memory that one video may take in a process that decodes it.

A decoder that hangs within C code never returns to Python, so the system enforces the limits: a
timer's signal ends the process, and an allocation past the limit of memory fails.
"""

import signal
import sys
from dataclasses import dataclass

import cv2

from vswin_jax.errors import InputError

# The default action of both signals ends the process. Windows has neither.
_CPU_SIGNAL, _WALL_SIGNAL = "SIGPROF", "SIGALRM"


class TooSlowError(InputError):
    """The error for a video that exceeds a limit of time."""


@dataclass(frozen=True)
class ProcessLimits:
    """The limits of one process; the memory is limited on Linux alone.

    The time of the processor is the stricter limit, because it does not depend on other load. The
    time of the clock ends a process that waits forever, as for a pipe that nobody writes to.

    Attributes:
      cpu_seconds: for one video; in the check of a whole video, for 32 of its frames.
      wall_seconds: the same, by the clock.
      memory_bytes: private memory of the process. A frame of the largest size takes 106 MB as RGB;
        a decoder keeps up to 17 of them.
    """

    cpu_seconds: float = 300.0
    wall_seconds: float = 600.0
    memory_bytes: int = 4 << 30

    def apply(self) -> None:
        """Limit the memory of this process, and let the timers' signals end it."""
        # A parent that ignores or blocks the signals passes that on.
        signals = {signal.Signals[name] for name in (_CPU_SIGNAL, _WALL_SIGNAL)}
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        _limit_memory(self.memory_bytes)

    def start_timers(self) -> None:
        """Start the timers of this process, or start them again."""
        signal.setitimer(signal.ITIMER_PROF, self.cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, self.wall_seconds)

    def death_error(self, exit_code: int, name: str) -> InputError:
        """Return the error for the video `name`, whose process ended with this code."""
        seconds = {_CPU_SIGNAL: self.cpu_seconds, _WALL_SIGNAL: self.wall_seconds}
        for ending, limit in seconds.items():
            if exit_code == -signal.Signals[ending]:
                of_what = "processor time" if ending == _CPU_SIGNAL else "time"
                return TooSlowError(
                    f"{name!r} takes more than {limit:g} seconds of {of_what} to read: encode it "
                    f"again, or take it off the list."
                )
        return InputError(
            f"{name!r} crashes the process that reads it: take it off the list, or encode it again."
        )

    def memory_error(self, name: str) -> InputError:
        """Return the error for the video `name`, whose decoder asked for too much memory."""
        return InputError(
            f"{name!r} needs more than the {self.memory_bytes / 2**30:g} GiB of memory that a "
            f"decoding process may take: encode it again, or take it off the list."
        )


def exceeded_cpu(exit_code: int) -> bool:
    """Return True if the limit of processor time ended a process with this code."""
    return exit_code == -signal.Signals[_CPU_SIGNAL]


def stop_timers() -> None:
    """Stop the timers of this process."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an allocation failed, in Python, NumPy, FFmpeg or OpenCV."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, MemoryError)


def _limit_memory(memory_bytes: int) -> None:
    # Other systems count other memory, and Windows has no limits.
    if sys.platform != "linux":
        return
    import resource

    # RLIMIT_AS would count the batches too, which are shared memory of all processes.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, hard))
