"""Watchdog: a thread that logs the position of every process when training hangs.

It never ends the run: a step that waits for another host looks like any slow step. To find the
cause, the position of all processes and the stack of this one are needed.
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
from jax._src import distributed  # JAX has no public API for its key-value store

log = logging.getLogger("vswin_jax")

# Factor on the timeout of compiling and restoring, which give no heartbeat until they are done.
SLOW_PHASE_FACTOR = 4.0
# A hang that lasts is reported again each time this many further timeouts have passed.
_REPEAT_FACTOR = 6.0
_PREFIX = "vswin_jax/watchdog"


class KeyValueStore(Protocol):
    """One value per process that all processes can read, even while their main threads hang."""

    def put(self, value: str) -> None:
        """Store `value` for this process, in place of the previous one."""

    def get_all(self) -> dict[int, str]:
        """Return the latest value of each process that has stored one."""


class CoordinationStore:
    """The key-value store of the coordination service of `jax.distributed`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def put(self, value: str) -> None:
        """Store `value` for this process, in place of the previous one."""
        key = f"{_PREFIX}/{jax.process_index()}"
        self._client.key_value_set(key, value, allow_overwrite=True)

    def get_all(self) -> dict[int, str]:
        """Return the latest value of each process that has stored one."""
        entries = self._client.key_value_dir_get(_PREFIX)
        return {int(key.rpartition("/")[2]): value for key, value in entries}


def create_watchdog(hang_after: float, warn: Callable[[str], None] = log.warning) -> "Watchdog":
    """Create the watchdog of this process, connected to the other processes of the run.

    Args:
      hang_after: seconds without a heartbeat that count as a hang; 0 switches the watchdog off.
      warn: called with each report.
    """
    client = distributed.global_state.client if jax.process_count() > 1 else None
    return Watchdog(
        hang_after,
        store=None if client is None else CoordinationStore(client),
        process=jax.process_index(),
        processes=jax.process_count(),
        warn=warn,
    )


_current: "Watchdog | None" = None


def heartbeat() -> None:
    """Signal progress to the active watchdog, if any; for code that has no reference to it."""
    if _current is not None:
        _current.heartbeat()


class Watchdog:
    """Watches the thread that creates it, for the duration of a `with` block."""

    def __init__(
        self,
        hang_after: float,
        *,
        store: KeyValueStore | None = None,
        process: int = 0,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        """`hang_after` is in seconds; with 0 nothing is watched."""
        self._hang_after, self._store, self._clock, self._warn = hang_after, store, clock, warn
        self._process, self._processes = process, processes
        self._watched_thread = threading.get_ident()
        self._phase, self._step, self._timeout_factor = "starting", 0, SLOW_PHASE_FACTOR
        self._phase_start = self._last_heartbeat = clock()
        # Seconds without a heartbeat at the latest report; None while there is no hang.
        self._reported_after: float | None = None
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

    def enter(self, phase: str, step: int, timeout_factor: float = 1.0) -> None:
        """Record that the watched thread enters `phase`, after `step` completed steps.

        The phase may take `timeout_factor` times the usual timeout until its first heartbeat.
        """
        self._phase, self._step, self._phase_start = phase, step, self._clock()
        self._reset_timer(timeout_factor)

    def heartbeat(self) -> None:
        """Record progress within the current phase."""
        self._reset_timer(1.0)

    def _reset_timer(self, timeout_factor: float) -> None:
        self._last_heartbeat, self._timeout_factor = self._clock(), timeout_factor
        if self._reported_after is not None:
            self._reported_after = None
            self._warn(f"process {self._process} continues: {self._phase}, step {self._step}")
            self._publish()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._hang_after / 10, 5.0)):
            self.check()

    def check(self) -> None:
        """Report if the watched thread hangs; the watchdog's thread calls this periodically."""
        waited = self._clock() - self._last_heartbeat
        timeout = self._hang_after * self._timeout_factor
        # Published from half of the timeout on: before the first process reports the positions of
        # all, every process that hangs has stored its own.
        if waited > timeout / 2:
            self._publish()
        if self._reported_after is None:
            due = timeout
        else:
            due = self._reported_after + _REPEAT_FACTOR * timeout
        if waited > due:
            self._reported_after = waited
            self._warn(self._report(waited))

    def _publish(self) -> None:
        if self._store is not None:
            entry = {
                "phase": self._phase,
                "step": self._step,
                "at": self._phase_start,
                "now": self._clock(),
            }
            # The coordination service ends with process 0.
            with contextlib.suppress(RuntimeError):
                self._store.put(json.dumps(entry))

    def _report(self, waited: float) -> str:
        lines = [f"no progress for {waited:.0f} s; this run does not end by itself:"]
        lines += self._positions()
        stack = sys._current_frames().get(self._watched_thread)
        lines += [f"process {self._process} is at", *_format_stack(stack)]
        return "\n".join(lines)

    def _positions(self) -> Iterator[str]:
        own = {self._process: f"{self._phase}, step {self._step}"}
        positions = self._published_positions() | own
        for process in range(self._processes):
            position = positions.get(process, "making progress, or not running")
            yield f"  process {process} of {self._processes}: {position}"

    def _published_positions(self) -> dict[int, str]:
        if self._store is None:
            return {}
        try:
            entries = self._store.get_all().items()
        except RuntimeError as error:
            return {0: f"the coordination service does not respond ({error})"}
        return {process: _format_entry(json.loads(text)) for process, text in entries}


def _format_entry(entry: dict[str, Any]) -> str:
    return f"{entry['phase']}, step {entry['step']}, for {entry['now'] - entry['at']:.0f} s"


def _format_stack(frame: Any) -> list[str]:
    stack = "".join(traceback.format_stack(frame)) if frame else "no Python code"
    return [f"  {line}" for line in stack.rstrip().splitlines()]
