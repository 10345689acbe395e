"""Import of Matplotlib under values of MPLBACKEND, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from vswin_jax.reporting import plots
plots.save_curves("curves.png", {"training": ([1, 2], [2, 1])}, {})
import matplotlib
print(os.environ.get("MPLBACKEND"), matplotlib.rcParams._get_backend_or_none())
print(*(name for name in ("matplotlib.pyplot",) if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        # matplotlib_inline is hidden: a notebook's kernel runs in another environment.
        ("module://matplotlib_inline.backend_inline", None),
        ("no_backend", None),
        ("svg", "svg"),
    ],
)
def test_any_backend(tmp_path: Path, name: str, backend: str | None) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": name}
    hide = "import sys; sys.modules['matplotlib_inline'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{name} {backend}", ""]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
