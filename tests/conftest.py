"""Fixtures: a small run of the real command line, compiled programs, worker pools, oracles."""

import json
import os
import runpy
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cheap_programs import QUICK_XLA_FLAGS
from filelock import FileLock

# JAX and the package are imported by the fixtures: the controller of pytest-xdist, which runs no
# test, starts in half of the time without them.
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TINY = (
    "--config.model.embed_dim=4",
    "--config.model.depths=(1,)",
    "--config.model.num_heads=(1,)",
    "--config.data.num_frames=4",
    "--config.data.resize=16",
    "--config.data.size=16",
    "--config.eval.resize=16",
    "--config.data.shapes.size=32",
    "--config.data.shapes.train_scenes=1",
    "--config.train.duration=40 steps",
    "--config.train.eval_every=20 steps",
    "--config.train.checkpoint_every=7 steps",
)

# Modules that take a minute or more, the longest first: they start first, or one process would be
# busy with the last of them while the others have nothing left to do.
LONG = (
    *("test_torchvision_oracle", "test_tpu_compiler", "test_several_processes"),
    *("test_window_parallel", "test_program_layouts", "test_swin3d"),
    *(
        "test_loop",
        "test_steps",
        "test_main",
        "test_decode",
        "test_golden",
        "test_stage",
        "test_attention_tpu",
    ),
    *("test_checkpoint_faults", "test_checkpoints", "test_multi_label", "test_remat"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which CI compiles programs as users do."""
    parser.addoption("--optimized", action="store_true", help="compile with all optimisations")


def pytest_configure(config: pytest.Config) -> None:
    """Set the flags of XLA, which reads them once, before any test imports JAX."""
    if not config.getoption("--optimized"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_XLA_FLAGS}".strip()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first; the rest stays in order."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, the arguments that made it, and what it printed."""

    workdir: Path
    arguments: tuple[str, ...]
    status: int
    printed: str
    logged: str


@pytest.fixture(scope="session")
def tiny_arguments() -> tuple[str, ...]:
    return (f"--config={EXPERIMENTS / 'quickstart.py'}:runlocal", *TINY)


@pytest.fixture(scope="session")
def tiny_run(
    tiny_arguments: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    from vswin_jax import main

    workdir = tmp_path_factory.mktemp("tiny") / "run"
    arguments = (*tiny_arguments, f"--workdir={workdir}")
    printed, logged = StringIO(), StringIO()
    with redirect_stdout(printed), redirect_stderr(logged):
        status = main.run(arguments)
    return Run(workdir, arguments, status, printed.getvalue(), logged.getvalue())


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(pytestconfig: pytest.Config) -> Iterator[Path]:
    """Compile every program once, for all tests and processes of this session and the next ones.

    Compiling is most of the time of these tests, and most of compiling is optimisation, which
    `--optimized` leaves on. A subprocess shares the programs if JAX_COMPILATION_CACHE_DIR in its
    environment is this directory.
    """
    import jax

    from vswin_jax.runtime.compilation import persistent_cache

    optimized = pytestconfig.getoption("--optimized")
    directory = pytestconfig.cache.mkdir("optimized" if optimized else "compiled")
    jax.config.update("jax_disable_most_optimizations", not optimized)
    # Subprocesses must compile as this process does, or their losses differ in the last bits.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0" if optimized else "1"
    with persistent_cache(str(directory), workdir=directory):
        yield Path(jax.config.jax_compilation_cache_dir)


@pytest.fixture
def no_compilation_cache() -> Iterator[None]:
    """Compile every program anew."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], Any]], Any]:
    """Return `once(name, make)`: the JSON result of `make()`, which one process calls for all."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[], Any]) -> Any:
        path = shared / f"{name}.json"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                path.write_text(json.dumps(make()))
        return json.loads(path.read_text())

    return made


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    """Import `torchvision.models`, beside a CPU-only torch too; other imports must follow it."""
    pytest.importorskip("torch", reason="the oracle needs torch")
    helper = runpy.run_path(str(BENCHMARKS / "torchvision_import.py"))
    with helper["without_torchvision_operators"]():
        return pytest.importorskip("torchvision.models", reason="the oracle needs torchvision")


class AtOnce:
    """A pool that works in this process, so that the tests need not start others."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: object) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> type[AtOnce]:
    """Run work for worker processes in this process; return the pool class, to derive from."""
    from vswin_jax.runtime import worker_pool

    monkeypatch.setattr(worker_pool, "ProcessPoolExecutor", AtOnce)
    return AtOnce
