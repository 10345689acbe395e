import subprocess
import sys
from pathlib import Path

import pytest

from vswin_jax import __version__
from vswin_jax.runtime.first_line import first_line


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("--config q.py --workdir runs/q", "training by q.py in runs/q"),
        (
            "--workdir=runs/q --config=q.py:root=a --process_id=0",
            "training by q.py:root=a in runs/q",
        ),
        ("--mode=evaluate --workdir runs/q", "evaluating in runs/q"),
        ("--mode dry_run --config q.py --topology v5e:2x2", "compiling by q.py"),
    ],
)
def test_the_line_says_what_is_begun(command: str, line: str) -> None:
    assert first_line(command.split(), {}) == f"vswin_jax {__version__}: {line}; importing JAX"


@pytest.mark.parametrize("command", ["", "--help", "--config q.py -h", "--mode=no --config q.py"])
def test_no_line_without_work(command: str) -> None:
    assert first_line(command.split(), {}) is None


@pytest.mark.parametrize(
    ("flags", "environment"),
    [("--process_id 3", {}), ("", {"SLURM_PROCID": "1"}), ("", {"TPU_WORKER_ID": "2"})],
)
def test_only_the_first_process_logs_it(flags: str, environment: dict[str, str]) -> None:
    command = f"--config q.py --workdir runs/q {flags}".split()
    assert first_line(command, environment) is None
    assert first_line(command[:4], dict.fromkeys(environment, "0")) is not None


def test_the_line_needs_no_slow_import() -> None:
    code = "import sys, vswin_jax.runtime.first_line; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "set()\n"
