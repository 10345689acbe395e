"""Compiled programs: kept on disk for the next start, and what compiling costs this one.

Kernels for GPUs are not timed while they are compiled, unless asked for.

The cache is JAX's own (`jax_compilation_cache_dir`). It lies in the workdir unless something else
is said: that is where a preempted run goes on from, maybe on another machine, where a home may be
empty or read-only, and what several hosts share, of which JAX lets the first one write.
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

_SAID_SECONDS = 1.0
_BACKEND = "/jax/core/compile/backend_compile_duration"
_PHASES = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    _BACKEND,
)
_HIT = "/jax/compilation_cache/cache_hits"

# XLA for GPUs would time kernels of each product and fusion, and try Triton's for products: that
# takes longer than the rest of compiling, and another start, of the same run, may choose others.
_UNTIMED = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def compiler_options(mesh: Mesh | None, autotune: bool) -> dict[str, Any] | None:
    """What `jax.jit` tells the compiler for the devices of `mesh`, or of this machine.

    Without `autotune` a program for GPUs takes the kernels that cuBLAS and XLA expect to be the
    fastest, as PyTorch does, and no time is measured.
    """
    return _UNTIMED if targets_gpu(mesh) and not autotune else None


@contextlib.contextmanager
def kept(where: str, workdir: str | os.PathLike) -> Iterator[None]:
    """Keeps compiled programs until the end of the block.

    `where` is "workdir", for its directory "compiled", "off", or a directory. What the user has
    set in JAX itself (`JAX_COMPILATION_CACHE_DIR`) comes first.
    """
    if where == OFF or jax.config.jax_compilation_cache_dir:
        yield
        return
    directory = Path(workdir) / DIRECTORY if where == WORKDIR else Path(where)
    options = {
        "jax_compilation_cache_dir": os.fspath(directory / _machine()),
        # JAX keeps what takes a second or more; a run has dozens of small programs beside it.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    _set(options)
    try:
        yield
    finally:
        _set(before)


def _set(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    # JAX reads them once, at the first program.
    compilation_cache.reset_cache()


def _machine() -> str:
    """A name for what JAX's keys leave out: which instructions a CPU has, where that matters."""
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
    """What this process compiles in a `with` block, in any thread.

    Attributes:
      fresh, cached: names of the programs that were compiled, and that came from the cache.
      seconds: of all of it, the tracing and the lowering too.
    """

    def __init__(self, *, say: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """With `say` the log has the programs that take a second or more."""
        self.fresh: list[str] = []
        self.cached: list[str] = []
        self.seconds = 0.0
        self._say, self._clock = say, clock
        self._was_hit: dict[int, bool] = defaultdict(bool)
        self._counted: dict[int, list[tuple[float, float]]] = defaultdict(list)

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_listener(self._hear)
        jax.monitoring.register_event_duration_secs_listener(self._hear_duration)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_listener(self._hear)
        jax.monitoring.unregister_event_duration_listener(self._hear_duration)

    def _hear(self, event: str, **_: Any) -> None:
        if event == _HIT:
            self._was_hit[threading.get_ident()] = True

    def _hear_duration(self, event: str, seconds: float, **more: Any) -> None:
        if event in _PHASES:
            self._count(seconds)
        if event == _BACKEND:
            self._note(str(more.get("fun_name", "a program")), seconds)

    def _count(self, seconds: float) -> None:
        """Adds an interval that ends now; those within it, of inner programs, count once."""
        counted, start = self._counted[threading.get_ident()], self._clock() - seconds
        while counted and counted[-1][0] >= start:
            self.seconds -= counted.pop()[1]
        counted.append((start, seconds))
        self.seconds += seconds

    def _note(self, name: str, seconds: float) -> None:
        was_hit = self._was_hit.pop(threading.get_ident(), False)
        (self.cached if was_hit else self.fresh).append(name)
        if self._say and seconds >= _SAID_SECONDS and jax.process_index() == 0:
            how = "taken from the compilation cache" if was_hit else "compiled"
            log.info("%s was %s in %.1f s", name, how, seconds)
