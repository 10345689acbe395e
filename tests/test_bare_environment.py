"""The commands with less than a login gives: no name, no home, no shared memory, closed streams."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unknown_user import as_unknown_user, run_as_unknown_user

from vswin_jax.checkpoint import load_for_inference
from vswin_jax.reporting.metrics_file import read_metrics

if TYPE_CHECKING:
    from conftest import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def environment(compiled_programs: Path) -> dict[str, str]:
    """Share the programs that this process compiles with a command."""
    return {"JAX_COMPILATION_CACHE_DIR": str(compiled_programs), "JAX_PLATFORMS": "cpu"}


@pytest.mark.long
def test_a_user_without_a_name_trains_predicts_and_converts(
    tiny_run: "Run", environment: dict[str, str], tmp_path: Path
) -> None:
    as_unknown_user()
    run, converted = tmp_path / "run", tmp_path / "converted"
    video = next((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))
    arguments = [a for a in tiny_run.arguments if not a.startswith(("--workdir", "--config.train"))]
    printed = []
    for command in (
        ["-m", "vswin_jax.main", *arguments, f"--workdir={run}", "--config.data.processes=2"],
        ["-m", "vswin_jax.predict", video, "--checkpoint", run, "--plot", tmp_path / "out.png"],
        [ROOT / "scripts" / "convert_weights.py", run, converted],
        ["-m", "vswin_jax.predict", video, "--checkpoint", converted],
    ):
        done = run_as_unknown_user(command, tmp_path, environment)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        printed.append(done.stdout)
    assert "quickstart, final: top-1" in printed[0]
    assert printed[1] == printed[3]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    _, metadata = load_for_inference(run)
    assert metadata["step"] == 4


@pytest.mark.long
def test_training_with_closed_streams(
    tiny_run: "Run", environment: dict[str, str], tmp_path: Path
) -> None:
    """Files get the numbers of closed streams, unless something else has them."""
    arguments = [a for a in tiny_run.arguments if not a.startswith("--workdir")]
    command = [sys.executable, "-m", "vswin_jax.main", *arguments, f"--workdir={tmp_path}/run"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0
    found, expected = (
        read_metrics(w / "metrics.jsonl") for w in (tmp_path / "run", tiny_run.workdir)
    )
    assert [entry.get("loss") for entry in found] == [entry.get("loss") for entry in expected]
