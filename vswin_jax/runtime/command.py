"""Exit status of a command: interruptions, wrong inputs and failures of any of its processes."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from vswin_jax.errors import InputError
from vswin_jax.runtime import distributed, preemption
from vswin_jax.runtime.console import print_once


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
            print(f"error: {error}", file=sys.stderr)
            status = 2
            watcher.publish_failure(status, str(error))
        except Exception as error:
            if distributed.get_peers() is None:
                raise
            # Leaving the others may end this process, so the traceback is printed first.
            traceback.print_exc()
            status = 1
            watcher.publish_failure(status, f"{type(error).__name__}: {error}")
        distributed.shutdown()
    return status


def run_process(run: Callable[[], int]) -> int:
    """Run this process's command line; a status other than 0 ends the process at once.

    It then does not wait for threads that still compile, or for a device whose peers are gone.
    """
    try:
        status = run()
    except Exception:
        traceback.print_exc()
        status = 1
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
