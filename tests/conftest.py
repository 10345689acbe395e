"""A run of the real command line, small enough to be made once for all who look at it."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vswin_jax import main
from vswin_jax.runtime import file_lock, worker_pool

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
    *("test_several_processes", "test_window_parallel", "test_program_layouts", "test_swin3d"),
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long modules first; the rest stays in order."""
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
    compiled_programs: Path,
) -> Run:
    workdir = tmp_path_factory.mktemp("tiny") / "run"
    arguments = (*tiny_arguments, f"--workdir={workdir}")
    printed, logged = StringIO(), StringIO()
    with keep_compiled(compiled_programs), redirect_stdout(printed), redirect_stderr(logged):
        status = main.run(arguments)
    return Run(workdir, arguments, status, printed.getvalue(), logged.getvalue())


@pytest.fixture
def quick_compiler() -> Iterator[None]:
    """For modules that compile many tiny programs: optimising them is most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `keep_compiled` keeps them; a subprocess may use them too."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compile_once(compiled_programs: Path) -> Iterator[None]:
    """For modules whose runs repeat the same programs: compiling is nearly all they would do."""
    with keep_compiled(compiled_programs):
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], Any]], Any]:
    """`once(name, make)`: what `make()` gives, as JSON; one process makes it for all of them."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[], Any]) -> Any:
        path = shared / f"{name}.json"
        with path.with_suffix(".lock").open("wb") as lock:
            file_lock.lock(lock)
            if not path.exists():
                path.write_text(json.dumps(make()))
        return json.loads(path.read_text())

    return made


@contextmanager
def keep_compiled(directory: Path) -> Iterator[None]:
    options = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    """`torchvision.models`, where a CPU-only torch has it; what imports torchvision comes after."""
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    register_fake = torch.library.register_fake

    def skip_missing(name: str, *args: object, **kwargs: object) -> Callable:
        # torchvision's compiled operators do not load on a CPU-only torch; no Swin has any.
        if name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = skip_missing
    try:
        return pytest.importorskip("torchvision.models", reason="the oracle needs torchvision")
    finally:
        torch.library.register_fake = register_fake


class AtOnce:
    """A pool that does the work in this process, so that the tests need not start others."""

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
    """Work for several processes is done in this one; what does it, to derive from."""
    monkeypatch.setattr(worker_pool, "ProcessPoolExecutor", AtOnce)
    return AtOnce
