"""Compiler options, the persistent cache and the record of what is compiled."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from forked_process import forked_commands

from vswin_jax.runtime import compilation
from vswin_jax.runtime.compilation import Compilations

pytestmark = pytest.mark.long


def test_gpu_kernels_are_timed_only_on_request() -> None:
    """This machine has no GPU: the mesh has nothing but a platform."""
    meshes = {
        name: SimpleNamespace(
            abstract_mesh=SimpleNamespace(abstract_device=SimpleNamespace(platform=name))
        )
        for name in ("cpu", "tpu", "gpu", "cuda")
    }
    options = {name: compilation.compiler_options(mesh, False) for name, mesh in meshes.items()}
    assert options["cpu"] is options["tpu"] is None
    assert options["gpu"] == options["cuda"]
    assert options["gpu"]["xla_gpu_autotune_level"] == 0
    assert compilation.compiler_options(None, False) is None
    assert compilation.compiler_options(meshes["gpu"], True) is None


def test_inner_programs_count_once() -> None:
    """Trace from 1 to 3 s, within it another from 1.5 to 2 s; then compile from 3 to 7 s."""
    now = [0.0]
    compilations = Compilations(clock=lambda: now[0])
    for event, end, seconds in (
        ("/jax/core/compile/jaxpr_trace_duration", 2.0, 0.5),
        ("/jax/core/compile/jaxpr_trace_duration", 3.0, 2.0),
        ("/jax/core/compile/backend_compile_duration", 7.0, 4.0),
        ("/jax/checkpoint/write/durations_sec", 9.0, 2.0),
    ):
        now[0] = end
        compilations._on_duration(event, seconds)
    assert compilations.seconds == 6.0


@pytest.mark.usefixtures("no_compilation_cache")
def test_a_program_counts_when_it_is_compiled_and_not_when_it_runs_again() -> None:
    @jax.jit
    def a_program_of_this_test(x: jax.Array) -> jax.Array:
        return jnp.sin(x) @ x

    x = jnp.ones((3, 3))
    with Compilations() as compilations:
        a_program_of_this_test(x)
        seconds = compilations.seconds
        a_program_of_this_test(x)
    assert compilations.fresh == ["jit(a_program_of_this_test)"]
    assert compilations.cached == []
    assert 0.0 < seconds == compilations.seconds
    a_program_of_this_test(jnp.ones((4, 4)))
    assert len(compilations.fresh) == 1


RUN = """
import logging, sys
from pathlib import Path
import test_loop
from vswin_jax.runtime import compilation
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
compilation._MIN_LOGGED_SECONDS = 0.0
model = test_loop.create_model("swin_tiny", 3, "float32", **test_loop.MODEL)
workdir = Path(sys.argv[1])
cache = compilation.persistent_cache("workdir", workdir)
with cache, compilation.Compilations(log_slow=True) as compilations:
    test_loop.run(test_loop.settings(), workdir / sys.argv[2], model)
print("fresh", len(compilations.fresh), "cached", len(compilations.cached))
"""


def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    """Run two processes one after the other, like a run that was preempted."""
    paths = [str(Path(__file__).parents[1] / "training"), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    options = {"capture_output": True, "text": True, "check": True, "env": environment}
    with forked_commands():
        logs = [subprocess.run([*command, name], **options).stdout for name in ("first", "second")]
    assert "jit(train_step) was compiled in" in logs[0]
    assert "jit(train_step) was taken from the compilation cache in" in logs[1]
    count = int(logs[0].splitlines()[-1].split()[1])
    assert count > 1
    assert logs[0].splitlines()[-1] == f"fresh {count} cached 0"
    assert logs[1].splitlines()[-1] == f"fresh 0 cached {count}"
    (machine,) = (tmp_path / "compiled").iterdir()
    assert machine.name.startswith("cpu-")
    assert any("train_step" in file.name for file in machine.iterdir())


@pytest.mark.usefixtures("no_compilation_cache")
def test_a_directory_set_in_jax_takes_precedence(tmp_path: Path) -> None:
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    with compilation.persistent_cache("off", tmp_path):
        assert not jax.config.jax_compilation_cache_dir
    with compilation.persistent_cache(str(tmp_path / "shared"), tmp_path / "run"):
        assert Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / "shared"
        own = jax.config.jax_compilation_cache_dir
        with compilation.persistent_cache("workdir", tmp_path / "run"):
            assert jax.config.jax_compilation_cache_dir == own
    assert not jax.config.jax_compilation_cache_dir
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


def test_quick_programs_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vswin_jax")
    compilations = Compilations(log_slow=True)
    event = "/jax/core/compile/backend_compile_duration"
    compilations._on_duration(event, 0.9, fun_name="jit(quick)")
    compilations._on_duration(event, 41.25, fun_name="jit(train_step)")
    compilations._on_event("/jax/compilation_cache/cache_hits")
    compilations._on_duration(event, 1.5, fun_name="jit(eval_step)")
    assert caplog.messages == [
        "jit(train_step) was compiled in 41.2 s",
        "jit(eval_step) was taken from the compilation cache in 1.5 s",
    ]
