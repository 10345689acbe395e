"""Several processes that train as one: how they find each other, and what they tell each other.

JAX's coordination service, which process 0 runs, carries all of it. No device takes part, so it
works while one of them compiles for minutes, and it costs a training step nothing.

A process that dies ends the others too: on CPUs their collectives fail at once, on other devices
the service misses its heartbeats for `HEARTBEAT_SECONDS`; where process 0 dies, all lose the
service at once. A process that ends for a reason tells the others before it goes.
"""

import collections
import contextlib
import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import distributed as jax_distributed
from jax._src import xla_bridge

from vswin_jax.errors import InputError

# A process that is stopped for longer, in a debugger or by a busy machine, counts as dead.
HEARTBEAT_SECONDS = 100
# How long a process that ends waits for the others to end too, within any grace period.
PARTING_SECONDS = 10.0
# As long as no process dies, what all wait for takes the time that it takes: data to be written,
# a program to be compiled.
_PATIENCE_SECONDS = 7 * 24 * 3600.0
_PREFIX = "vswin_jax"
# Gloo gives up on a peer that is more than 30 seconds late for their first collective.
_MEET = "all are here"

# While a process joins or leaves: a call of another thread would end it as a fatal error.
_is_untouchable, _asking = threading.Event(), threading.Lock()
# How often a barrier of that name was used: every use is another one.
_uses: collections.Counter[str] = collections.Counter()


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is, and where process 0 listens (HOST:PORT)."""

    coordinator: str
    num_processes: int
    process_id: int

    @classmethod
    def of(
        cls, coordinator: str, num_processes: int | None, process_id: int | None
    ) -> "Place | None":
        """The place that three flags say; None if they say none.

        Raises:
            InputError: some are missing or wrong.
        """
        given = {
            "--coordinator HOST:PORT": coordinator or None,
            "--num_processes N": num_processes,
            "--process_id I": process_id,
        }
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == len(given):
            return None
        if num_processes == 1 and process_id in (None, 0):
            return cls(coordinator, 1, 0)
        if missing:
            raise InputError(
                f"Expected --coordinator HOST:PORT, --num_processes N and --process_id I together "
                f"but {' and '.join(missing)} did not come: give all three, or none where SLURM or "
                f"a TPU's own environment says them."
            )
        if not re.fullmatch(r".+:\d+", coordinator):
            raise InputError(
                f"Expected --coordinator to be HOST:PORT of process 0 but {coordinator!r} came."
            )
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise InputError(
                f"Expected --num_processes from 1 up and --process_id from 0 to one below it but "
                f"{num_processes} and {process_id} came."
            )
        return cls(coordinator, num_processes, process_id)


def join(place: Place | None, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> None:
    """Makes this process one of a run's, before any use of a device; alone it does nothing.

    Without a `place` the environment says it, as `jax.distributed` reads it: that of a TPU slice,
    of SLURM, of Open MPI, or of an indexed Kubernetes job (which needs the package `kubernetes`).

    Raises:
        InputError: the other processes cannot be reached.
    """
    if jax.distributed.is_initialized() or (place and place.num_processes == 1):
        return
    if place is None and (xla_bridge.backends_are_initialized() or not _may_be_in_a_cluster()):
        return
    # SIGTERM is for `signals`; JAX's own service would take it away from there, and look at it
    # once a second.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _untouched():
            _initialize(place, heartbeat_seconds)
    except RuntimeError as error:
        where = place.coordinator if place else "the coordinator that the environment names"
        raise InputError(
            f"Expected to meet the other processes at {where} but {_first_line(error)}: start all "
            f"of them with the same address, where process 0 runs and the port is free."
        ) from error
    peers = current()
    if peers is not None:
        peers.wait(_MEET)


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    _is_untouchable.set()
    try:
        with _asking:
            yield
    finally:
        _is_untouchable.clear()


def _initialize(place: Place | None, heartbeat_seconds: int) -> None:
    if place is not None:
        if place.process_id == 0:
            _check_free(place.coordinator)
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
        return
    with warnings.catch_warnings():
        # Whoever runs in a pod alone, or gives the flags, needs no package to find others.
        warnings.filterwarnings("ignore", message="Kubernetes environment detected")
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
        except ValueError as error:
            # No environment that JAX knows: this process is alone.
            if "should be defined" not in str(error) and "must be defined" not in str(error):
                raise


def _check_free(coordinator: str) -> None:
    """JAX crashes where the port of its service is taken."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    with socket.socket(family) as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            port.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            raise RuntimeError(f"its port cannot be had ({error.strerror})") from error


def _may_be_in_a_cluster() -> bool:
    # A pod that is no part of an indexed job has nobody to find, and JAX fails where it looks.
    names = ("JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    return "KUBERNETES_SERVICE_HOST" not in os.environ or any(name in os.environ for name in names)


class Peers:
    """The processes of this run, this one among them."""

    def __init__(self, client: Any, index: int, count: int) -> None:
        self.index, self.count = index, count
        self._client = client

    def tell(self, kind: str, text: str) -> None:
        """Says something to all; of each kind only what was said first counts."""
        self._client.key_value_set(f"{_PREFIX}/{kind}/{self.index}", text)

    def heard(self, kind: str) -> str | None:
        """What was said of that `kind`, by this process or another."""
        # A thread asks now and then; while the process joins or leaves it need not.
        if not _asking.acquire(blocking=False):
            return None
        try:
            return next(iter(self._all(kind).values()), None)
        finally:
            _asking.release()

    def exchange(self, kind: str, text: str, seconds: float) -> list[str]:
        """What every process says of that `kind`, in their order; all call it once.

        Raises:
            RuntimeError: they did not all come within that many seconds.
        """
        self.tell(kind, text)
        self.wait(kind, seconds)
        said = self._all(kind)
        return [said[index] for index in range(self.count)]

    def wait(self, name: str, seconds: float = _PATIENCE_SECONDS) -> None:
        """Returns when all processes have called it with this name, as often as this one.

        Raises:
            RuntimeError: they did not all come within that many seconds, or one is gone.
        """
        _uses[name] += 1
        barrier = f"{_PREFIX}/{name}/{_uses[name]}"
        self._client.wait_at_barrier(barrier, timeout_in_ms=int(seconds * 1000))

    def _all(self, kind: str) -> dict[int, str]:
        entries = self._client.key_value_dir_get(f"{_PREFIX}/{kind}/")
        return {int(key.rpartition("/")[2]): text for key, text in entries}


def current() -> Peers | None:
    """The processes that this one has joined; None if it is alone."""
    state = jax_distributed.global_state
    if state.client is None or state.num_processes == 1 or _is_untouchable.is_set():
        return None
    return Peers(state.client, state.process_id, state.num_processes)


def wait_for_all(name: str) -> None:
    """Returns when all processes have called it with this name; at once in one that is alone."""
    peers = current()
    if peers is not None:
        peers.wait(name)


def compile_together(function: Any, *arguments: Any) -> None:
    """Compiles `function`, made by `jax.jit`, and returns when all processes have done so.

    Called with such arguments it then starts at once, everywhere: on CPUs collectives fail whose
    processes first come to them more than 30 seconds apart.
    """
    function.lower(*arguments).compile()
    wait_for_all("compiled")


def part(seconds: float = PARTING_SECONDS) -> None:
    """Leaves the others: waits for them, so long at most, and ends the service.

    Nobody sees another one vanish, and take the service along, before it is done itself.
    """
    peers = current()
    if peers is None:
        return
    try:
        peers.wait("part", seconds)
    except RuntimeError:
        return
    with _untouched():
        jax.distributed.shutdown()


def part_when_all_are_done() -> None:
    """Leaves the others when all of them are done, however long that takes."""
    part(_PATIENCE_SECONDS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
