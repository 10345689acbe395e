"""The processes that train as one: joining, exchanging values, barriers and leaving.

All of it goes through JAX's coordination service, which runs in process 0. No device takes part,
so it works while a process compiles for minutes, and it costs a training step nothing.

The death of a process ends the others too: on CPUs their collectives fail at once; on other
devices the service misses heartbeats for `HEARTBEAT_SECONDS`; the death of process 0 ends the
service, which the others notice at once. A process that fails publishes its reason before it exits
(`signal_watcher`).
"""

import collections
import contextlib
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed as jax_distributed
from jax._src import xla_bridge

from vswin_jax.errors import InputError, first_line
from vswin_jax.runtime.cluster_member import ClusterMember

# A process that is suspended for longer, in a debugger or on a busy machine, counts as dead.
HEARTBEAT_SECONDS = 100
# An exiting process waits this long for the others; any scheduler's grace period is longer.
SHUTDOWN_TIMEOUT_SECONDS = 10.0
# A barrier that waits for data to be written or a program to be compiled has no deadline of its
# own: if a process dies meanwhile, the service's heartbeat ends the wait.
_BARRIER_TIMEOUT_SECONDS = 7 * 24 * 3600.0
_PREFIX = "vswin_jax"

# JAX ends the whole process (a fatal error) if a thread uses the coordination client while another
# thread connects or disconnects it. The event keeps new calls out for that time, and the lock waits
# for a `Peers.get` that is under way; see `_client_change`.
_is_client_changing = threading.Event()
_client_lock = threading.Lock()
# Uses of each barrier name so far. The service allows a barrier id once, so each use gets a number.
_barrier_uses: collections.Counter[str] = collections.Counter()


def join(member: ClusterMember | None, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> None:
    """Connect this process to the others of its run, before any device is used.

    Without a `member`, `jax.distributed` detects the environment of a TPU slice, of SLURM, of Open
    MPI, or of an indexed Kubernetes job (with the package `kubernetes`). A process that
    runs alone starts no service.

    Raises:
      InputError: the other processes cannot be reached.
    """
    if jax.distributed.is_initialized() or (member and member.num_processes == 1):
        return
    if member is None and (xla_bridge.backends_are_initialized() or not _may_be_in_a_cluster()):
        return
    # SIGTERM belongs to `preemption`. JAX's preemption service would install its own handler and
    # poll for the signal once a second.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _client_change():
            _initialize(member, heartbeat_seconds)
    except RuntimeError as error:
        where = member.coordinator if member else "the coordinator that the environment names"
        raise InputError(
            f"Expected to meet the other processes at {where} but {first_line(error)}: start all "
            f"of them with the same address, where process 0 runs and the port is free."
        ) from error
    # Gloo, for collectives on CPUs, fails if a peer is more than 30 seconds late for the first one.
    wait_for_all("joined")


@contextlib.contextmanager
def _client_change() -> Iterator[None]:
    """Keep other threads from using the coordination client while it connects or disconnects."""
    # In this order: from the event on no thread obtains a `Peers`, and with the lock no thread
    # that already has one is inside `get`.
    _is_client_changing.set()
    try:
        with _client_lock:
            yield
    finally:
        _is_client_changing.clear()


def _initialize(member: ClusterMember | None, heartbeat_seconds: int) -> None:
    if member is None:
        _initialize_by_environment(heartbeat_seconds)
        return
    if member.process_id == 0:
        _check_port_is_free(member.coordinator)
    jax.distributed.initialize(
        coordinator_address=member.coordinator,
        num_processes=member.num_processes,
        process_id=member.process_id,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=heartbeat_seconds,
    )


def _initialize_by_environment(heartbeat_seconds: int) -> None:
    with warnings.catch_warnings():
        # In a pod JAX warns that the package `kubernetes` is missing; a pod that runs alone, or
        # with the flags, does not need it.
        warnings.filterwarnings("ignore", message="Kubernetes environment detected")
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
        except ValueError as error:
            # JAX detected no cluster, so it requires the arguments: this process runs alone.
            if "should be defined" not in str(error) and "must be defined" not in str(error):
                raise


def _check_port_is_free(coordinator: str) -> None:
    """Raise RuntimeError if the coordinator's port is in use; JAX would crash the process."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    with socket.socket(family) as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            port.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            raise RuntimeError(f"its port is not available ({error.strerror})") from error


def _may_be_in_a_cluster() -> bool:
    # JAX's detection fails in a Kubernetes pod that is not part of an indexed job.
    names = ("JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    return "KUBERNETES_SERVICE_HOST" not in os.environ or any(name in os.environ for name in names)


class Peers:
    """The processes of this run, including this one, and the key-value store that they share."""

    def __init__(self, client: Any, index: int, count: int) -> None:
        self.index, self.count = index, count
        self._client = client

    def put(self, key: str, value: str) -> None:
        """Store a value of this process under `key`; a second one for the same key is rejected."""
        self._client.key_value_set(f"{_PREFIX}/{key}/{self.index}", value)

    def get(self, key: str) -> str | None:
        """Return a value that any process has stored under `key`, or None; it never waits.

        None also while this process joins or leaves the cluster: the thread that polls simply
        tries again later.
        """
        if not _client_lock.acquire(blocking=False):
            return None
        try:
            return next(iter(self._get_all(key).values()), None)
        finally:
            _client_lock.release()

    def all_gather(self, key: str, value: str, timeout_seconds: float) -> list[str]:
        """Return the values of all processes, by process index; all have to call it, once per key.

        Raises:
          RuntimeError: not all processes called it within `timeout_seconds`.
        """
        self.put(key, value)
        self.barrier(key, timeout_seconds)
        values = self._get_all(key)
        return [values[index] for index in range(self.count)]

    def barrier(self, name: str, timeout_seconds: float = _BARRIER_TIMEOUT_SECONDS) -> None:
        """Wait until all processes have called this with `name`, as often as this process.

        Raises:
          RuntimeError: not all called it within `timeout_seconds`, or one of them has died.
        """
        _barrier_uses[name] += 1
        barrier_id = f"{_PREFIX}/{name}/{_barrier_uses[name]}"
        self._client.wait_at_barrier(barrier_id, timeout_in_ms=int(timeout_seconds * 1000))

    def _get_all(self, key: str) -> dict[int, str]:
        entries = self._client.key_value_dir_get(f"{_PREFIX}/{key}/")
        return {int(path.rpartition("/")[2]): value for path, value in entries}


def get_peers() -> Peers | None:
    """Return the processes that this one has joined, or None if it runs alone."""
    state = jax_distributed.global_state
    if state.client is None or state.num_processes == 1 or _is_client_changing.is_set():
        return None
    return Peers(client=state.client, index=state.process_id, count=state.num_processes)


def wait_for_all(name: str) -> None:
    """Wait until all processes have called this with `name`; a process without peers returns."""
    peers = get_peers()
    if peers is not None:
        peers.barrier(name)


def compile_together(function: Any, *arguments: Any) -> None:
    """Compile `function`, made by `jax.jit`, and wait until all processes have done so.

    On CPUs a collective fails if the processes reach their first one over 30 seconds apart.
    """
    function.lower(*arguments).compile()
    wait_for_all("compiled")


def shutdown(timeout_seconds: float = SHUTDOWN_TIMEOUT_SECONDS) -> None:
    """Wait for the other processes, at most `timeout_seconds`, and disconnect from them.

    Without the barrier a process could exit, and in process 0 end the coordination service, while
    others still work; they would fail.
    """
    peers = get_peers()
    if peers is None:
        return
    try:
        peers.barrier("shutdown", timeout_seconds)
    except RuntimeError:
        return
    with _client_change():
        jax.distributed.shutdown()


def shutdown_when_all_done() -> None:
    """Disconnect from the other processes when all of them are done, however long that takes."""
    shutdown(_BARRIER_TIMEOUT_SECONDS)
