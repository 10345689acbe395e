"""The lock on an output directory: one run at a time, also after a run was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.prepare.job import _exclusive_lock

HOLDER = """
import sys, time
from pathlib import Path
from vswin_jax.prepare.job import _exclusive_lock

with _exclusive_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with (
        _exclusive_lock(tmp_path),
        pytest.raises(InputError, match=r"Another run is writing to .*: wait until it has ended"),
        _exclusive_lock(tmp_path),
    ):
        pass
    with _exclusive_lock(tmp_path):
        pass


def test_a_killed_run_holds_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="Another run is writing"), _exclusive_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with _exclusive_lock(tmp_path):
        pass
