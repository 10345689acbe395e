"""Compiled programs: a persistent cache for later starts, and a record of what was compiled.

The cache is JAX's own (`jax_compilation_cache_dir`). By default it is in the workdir: a preempted
run resumes from there, perhaps on another machine whose home directory is empty or read-only, and
several hosts share it (JAX lets the first process write).
"""

import contextlib
import hashlib
import logging
import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from vswin_jax.runtime.target_platform import targets_gpu

log = logging.getLogger("vswin_jax")

WORKDIR, OFF = "workdir", "off"
DIRECTORY = "compiled"

_MIN_LOGGED_SECONDS = 1.0
# Names of events of `jax.monitoring`.
_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
_COMPILE_PHASES = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    _BACKEND_COMPILE,
)
_CACHE_HIT = "/jax/compilation_cache/cache_hits"

# By default JAX stores only programs that take a second or more to compile; a run has dozens of
# smaller ones.
_STORE_ALL_PROGRAMS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

# By default XLA for GPUs times candidate kernels of each matrix product and fusion, also Triton's
# for products. That takes longer than all other compilation, and the next start of the same run may
# choose other kernels and so round differently.
_NO_AUTOTUNING = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def compiler_options(mesh: Mesh | None, autotune: bool) -> dict[str, Any] | None:
    """Return the `compiler_options` of `jax.jit` for the devices of `mesh`, or of this machine.

    Without `autotune`, programs for GPUs use the kernels that cuBLAS and XLA estimate to be the
    fastest, as PyTorch does, and nothing is timed.
    """
    return _NO_AUTOTUNING if targets_gpu(mesh) and not autotune else None


@contextlib.contextmanager
def persistent_cache(
    location: str, workdir: str | os.PathLike, *, max_bytes: int = -1
) -> Iterator[None]:
    """Store compiled programs on disk, and load them from there, during the block.

    `location` is "workdir" for its subdirectory "compiled", "off", or a directory. The user's own
    setting of JAX (`JAX_COMPILATION_CACHE_DIR`) takes precedence. Beyond `max_bytes`, unless it is
    -1, the programs that were not used for the longest time are deleted.
    """
    if location == OFF or jax.config.jax_compilation_cache_dir:
        yield
        return
    directory = Path(workdir) / DIRECTORY if location == WORKDIR else Path(location)
    cache_dir = os.fspath(directory / _platform_key())
    options = {
        "jax_compilation_cache_dir": cache_dir,
        "jax_compilation_cache_max_size": max_bytes,
        **_STORE_ALL_PROGRAMS,
    }
    before = {name: getattr(jax.config, name) for name in options}
    _update_config(options)
    try:
        yield
    finally:
        _update_config(before)


def _update_config(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    # JAX reads these options once, when it compiles the first program.
    compilation_cache.reset_cache()


def _platform_key() -> str:
    """Return a directory name for this kind of machine.

    JAX's cache keys leave out the instruction set of a CPU, so a program from another machine
    could crash with an illegal instruction.
    """
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    return f"cpu-{hashlib.sha256(_cpu_features().encode()).hexdigest()[:8]}"


def _cpu_features() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


class Compilations:
    """Records the programs that any thread of this process compiles in a `with` block.

    Attributes:
      fresh: names of the programs that were compiled.
      cached: names of the programs that were loaded from the persistent cache.
      seconds: total time, including tracing and lowering.
    """

    def __init__(
        self, *, log_slow: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """With `log_slow`, programs that take a second or more are logged."""
        self.fresh: list[str] = []
        self.cached: list[str] = []
        self.seconds = 0.0
        self._log_slow, self._clock = log_slow, clock
        # JAX reports the events of a program in the thread that compiles it; both tables are by
        # thread id, because threads compile at the same time.
        self._was_hit: dict[int, bool] = defaultdict(bool)
        self._intervals: dict[int, list[tuple[float, float]]] = defaultdict(list)

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_listener(self._on_event)
        jax.monitoring.unregister_event_duration_listener(self._on_duration)

    def _on_event(self, event: str, **_: Any) -> None:
        if event == _CACHE_HIT:
            self._was_hit[threading.get_ident()] = True

    def _on_duration(self, event: str, seconds: float, **details: Any) -> None:
        if event in _COMPILE_PHASES:
            self._add_interval(seconds)
        if event == _BACKEND_COMPILE:
            self._add_program(str(details.get("fun_name", "a program")), seconds)

    def _add_interval(self, seconds: float) -> None:
        """Add an interval that ends now to the total time.

        Tracing a program may trace or compile others, whose intervals end first; an interval
        replaces those inside it, so that no second counts twice.
        """
        intervals, start = self._intervals[threading.get_ident()], self._clock() - seconds
        while intervals and intervals[-1][0] >= start:
            self.seconds -= intervals.pop()[1]
        intervals.append((start, seconds))
        self.seconds += seconds

    def _add_program(self, name: str, seconds: float) -> None:
        was_hit = self._was_hit.pop(threading.get_ident(), False)
        (self.cached if was_hit else self.fresh).append(name)
        if self._log_slow and seconds >= _MIN_LOGGED_SECONDS and jax.process_index() == 0:
            how = "taken from the compilation cache" if was_hit else "compiled"
            log.info("%s was %s in %.1f s", name, how, seconds)
