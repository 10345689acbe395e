"""Exit status of a command: interruptions, wrong inputs and failures of any of its processes."""

import contextlib
import os
import signal
import traceback
from collections.abc import Callable

from vswin_jax.errors import InputError
from vswin_jax.runtime import distributed, preemption
from vswin_jax.runtime.console import print_once
from vswin_jax.runtime.cpu_count import apply_cpu_quota
from vswin_jax.runtime.script_parser import print_error
from vswin_jax.runtime.standard_streams import flush_streams, prepare_streams


def run_command(command: Callable[[], int]) -> int:
    """Run `command` and return the exit status: its own, 2 for a wrong input, 128 + n for signal n.

    When one of several processes fails, all end with its status and its reason.
    """
    with preemption.handle_signals() as watcher:
        try:
            status = command()
            if status == 0:
                distributed.shutdown_when_all_done()
        except preemption.StopRequested as stopped:
            print_once(
                f"{signal.Signals(stopped.number).name} stopped this run: nothing is lost, the "
                f"same command resumes from what is saved."
            )
            status = 128 + stopped.number
        except InputError as error:
            status = print_error(error)
            watcher.publish_failure(status, str(error))
        except Exception as error:
            if distributed.get_peers() is None:
                raise
            # Leaving the others may end this process, so the traceback is printed first.
            _print_traceback()
            status = 1
            watcher.publish_failure(status, f"{type(error).__name__}: {error}")
        distributed.shutdown()
    return status


def run_process(run: Callable[[], int]) -> int:
    """Run this process's command line; a status other than 0 ends the process at once.

    It then does not wait for threads that still compile, or for a device whose peers are gone.
    """
    prepare_streams()
    apply_cpu_quota()
    try:
        status = run()
    except Exception:
        _print_traceback()
        status = 1
    flush_streams()
    if status:
        os._exit(status)
    return status


def _print_traceback() -> None:
    # Whatever reads stderr may have ended; that is no reason to go on.
    with contextlib.suppress(OSError):
        traceback.print_exc()
