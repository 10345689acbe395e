"""Notices a hang: a thread that says where each process is when nothing has happened for long.

It ends nothing. A step that waits for another host looks like any other step; what helps is to
know what all of them are doing, and where in the program.
"""

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
from jax._src import distributed  # JAX has no public door to its key-value store

log = logging.getLogger("vswin_jax")

# Compiling and restoring say nothing while they last.
PATIENT = 4.0
# A hang that goes on is said again after this many times the first wait.
_AGAIN = 6.0
_PREFIX = "vswin_jax/watchdog"


class Board(Protocol):
    """Where processes read what the others write, whatever their main threads are at."""

    def write(self, text: str) -> None:
        """Puts `text` in the place of what this process wrote before."""

    def read(self) -> dict[int, str]:
        """What each process wrote last."""


class CoordinationBoard:
    """The key-value store of `jax.distributed`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def write(self, text: str) -> None:
        """See `Board`."""
        key = f"{_PREFIX}/{jax.process_index()}"
        self._client.key_value_set(key, text, allow_overwrite=True)

    def read(self) -> dict[int, str]:
        """See `Board`."""
        entries = self._client.key_value_dir_get(_PREFIX)
        return {int(key.rpartition("/")[2]): text for key, text in entries}


def of_run(hang_after: float, say: Callable[[str], None] = log.warning) -> "Watchdog":
    """The watchdog of this process, with the processes of its run; `hang_after` is in seconds."""
    client = distributed.global_state.client if jax.process_count() > 1 else None
    board = None if client is None else CoordinationBoard(client)
    process, processes = jax.process_index(), jax.process_count()
    return Watchdog(hang_after, board=board, process=process, processes=processes, say=say)


_current: "Watchdog | None" = None


def alive() -> None:
    """Something has moved: called for each batch of an evaluation, say. Free without a watchdog."""
    if _current is not None:
        _current.alive()


class Watchdog:
    """Watches the thread that makes it, from `with` to the end of the block."""

    def __init__(
        self,
        hang_after: float,
        *,
        board: Board | None = None,
        process: int = 0,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        """`hang_after` is in seconds; 0 watches nothing."""
        self._hang_after, self._board, self._clock, self._say = hang_after, board, clock, say
        self._process, self._processes = process, processes
        self._watched = threading.get_ident()
        self._phase, self._step, self._patience = "starting", 0, PATIENT
        self._since = self._moved = clock()
        self._said_at: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        global _current
        if self._hang_after:
            _current = self
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = None
        self._closed.set()
        if self._thread.ident:
            self._thread.join()

    def enter(self, phase: str, step: int, patience: float = 1.0) -> None:
        """What the watched thread does from now on, for the step after `step` steps.

        It may take `patience` times as long as usual until it moves.
        """
        self._phase, self._step, self._since = phase, step, self._clock()
        self._move(patience)

    def alive(self) -> None:
        """The phase goes on, and has moved."""
        self._move(1.0)

    def _move(self, patience: float) -> None:
        self._moved, self._patience = self._clock(), patience
        if self._said_at is not None:
            self._said_at = None
            self._say(f"process {self._process} goes on: {self._phase}, step {self._step}")
            self._write()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._hang_after / 10, 5.0)):
            self.look()

    def look(self) -> None:
        """What the thread does now and then: says so if the watched one hangs."""
        waited = self._clock() - self._moved
        allowed = self._hang_after * self._patience
        # Before anyone says where all are, all have written it.
        if waited > allowed / 2:
            self._write()
        due = allowed if self._said_at is None else self._said_at + _AGAIN * allowed
        if waited > due:
            self._said_at = waited
            self._say(self._report(waited))

    def _write(self) -> None:
        if self._board is not None:
            entry = {
                "phase": self._phase,
                "step": self._step,
                "at": self._since,
                "now": self._clock(),
            }
            # The service may be gone with the process that runs it.
            with contextlib.suppress(RuntimeError):
                self._board.write(json.dumps(entry))

    def _report(self, waited: float) -> str:
        lines = [f"nothing has happened for {waited:.0f} s; this run does not end by itself:"]
        lines += self._places()
        stack = sys._current_frames().get(self._watched)
        lines += [f"process {self._process} is at", *_indented(stack)]
        return "\n".join(lines)

    def _places(self) -> Iterator[str]:
        own = {self._process: f"{self._phase}, step {self._step}"}
        for process in range(self._processes):
            place = (self._others() | own).get(process, "moving, or not there to say")
            yield f"  process {process} of {self._processes}: {place}"

    def _others(self) -> dict[int, str]:
        if self._board is None:
            return {}
        try:
            entries = self._board.read().items()
        except RuntimeError as error:
            return {0: f"the service that it runs does not answer ({error})"}
        return {process: _described(json.loads(text)) for process, text in entries}


def _described(entry: dict[str, Any]) -> str:
    return f"{entry['phase']}, step {entry['step']}, for {entry['now'] - entry['at']:.0f} s"


def _indented(frame: Any) -> list[str]:
    stack = "".join(traceback.format_stack(frame)) if frame else "no Python code"
    return [f"  {line}" for line in stack.rstrip().splitlines()]
