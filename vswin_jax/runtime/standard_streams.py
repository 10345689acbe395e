"""stdin, stdout and stderr of a command: any text, closed streams and readers that end early."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vswin_jax.runtime.cpu_count import apply_cpu_quota
from vswin_jax.runtime.disk_full import disk_full_reason

# The exit status that a shell reports for a process that a closed pipe ended.
_PIPE_STATUS = 128 + 13  # SIGPIPE, which Windows lacks
# The second one is of a socket whose reader has left text unread.
_READER_LOST = (BrokenPipeError, ConnectionResetError)


def prepare_streams() -> None:
    """Let stdout and stderr take any text, and replace those that are closed by /dev/null.

    Characters that a stream's encoding lacks, and bytes of file names that are not UTF-8, are
    written as escapes. Without a replacement the next file that is opened would get the number of
    the closed stream, and the messages of C++ libraries would be written into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        _open_descriptor(descriptor)
        stream: Any = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            mode = "w" if descriptor else "r"
            stream = os.fdopen(null, mode, encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, stream)
        elif descriptor and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _open_descriptor(descriptor: int) -> None:
    """Open /dev/null as `descriptor` unless it is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        os.set_inheritable(descriptor, True)
        if null != descriptor:
            os.close(null)


def print_message(text: str) -> None:
    """Print a message for the user to stderr; without a reader it is lost."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(2)


def print_result(text: str) -> None:
    """Print a result to stdout at once; without a reader it is lost, and the work goes on."""
    try:
        print(text, flush=True)
    except _READER_LOST:
        _discard(1)


def flush_streams() -> None:
    """Flush stdout and stderr; what cannot be written is lost."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _discard(descriptor)


def run_script(run: Callable[[Sequence[str]], int]) -> int:
    """Run a command line with the arguments of this process and return its exit status.

    A reader of the output that ends early, such as `head`, and a full disk end the script without
    a traceback.
    """
    prepare_streams()
    apply_cpu_quota()
    try:
        try:
            return run(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except OSError as error:
        status = _lost_output_status(error)
        if status is None:
            raise
        return status
    finally:
        flush_streams()


def _lost_output_status(error: OSError) -> int | None:
    """Return the exit status if `error` means that the output was lost, else None."""
    if isinstance(error, _READER_LOST) and any(map(_has_lost_reader, (1, 2))):
        return _PIPE_STATUS
    reason = disk_full_reason(error)
    if reason is None:
        return None
    print_message(f"error: The output cannot be written ({reason}): make room there.")
    return 1


def _has_lost_reader(descriptor: int) -> bool:
    poll = select.poll()
    # macOS reports the end of a reader only to who asks for POLLOUT.
    poll.register(descriptor, select.POLLOUT)
    # Linux reports POLLERR for a pipe; macOS, and Linux for a socket, POLLHUP.
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard(descriptor: int) -> None:
    """Discard what is written to a stream from here on; flushing it at the end would fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
