"""The shapes in public signatures hold: a runtime checker is on while a small model trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("beartype")

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(ROOT))),
}

# The checker is an import hook, so it needs a process of its own. Everything below is called with
# several clips, views and odd sizes, so that a wrong name for an axis is noticed.
PROGRAM = """
from jaxtyping import install_import_hook

ROOMS = ("attention", "data.clips", "inference", "kernels", "models", "training")
hook = install_import_hook([f"vswin_jax.{room}" for room in ROOMS], "runtime_checker.check")
import sys
from vswin_jax import main
sys.exit(main.main())
"""
ARGUMENTS = (
    "--config=experiments/ssv2.py:runlocal",
    "--config.model.embed_dim=4",
    "--config.model.num_heads=(1,2)",
    "--config.data.num_frames=6",
    "--config.data.size=20",
    "--config.data.resize=24",
    "--config.eval.resize=20",
    "--config.data.aug_repeats=2",
    "--config.train.duration=2 steps",
    "--config.loss.mixup_alpha=0.8",
    "--config.loss.cutmix_alpha=1.0",
    "--config.train.ema_decay=0.9",
)


@pytest.mark.long
@pytest.mark.parametrize("attention", ["xla", "chunked"])
def test_a_run_passes_the_runtime_checker(tmp_path: Path, attention: str) -> None:
    arguments = (*ARGUMENTS, f"--config.model.attention={attention}", f"--workdir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "top-1" in done.stdout


@pytest.mark.long
def test_the_checker_notices_a_wrong_shape() -> None:
    program = """
from jaxtyping import install_import_hook
with install_import_hook("vswin_jax.attention", "runtime_checker.check"):
    from vswin_jax.attention import window_attention
import jax.numpy as jnp
try:
    window_attention(jnp.zeros((2, 3, 4, 3, 8)), jnp.zeros((2, 4, 4)), None)
except Exception as error:
    print(type(error).__name__)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "TypeCheckError", done.stderr
