"""Runs Python as a user who has no entry in the passwd file, no home, little shared memory."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A user of another number sees the files of this one as its own.
_USER = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
_MOUNT = "mount -t tmpfs -o size=1m tmpfs /dev/shm && mount --bind {root} {root} && "
_READ_ONLY = "mount -o remount,bind,ro {root} && "


@functools.cache
def as_unknown_user() -> tuple[str, ...]:
    """Return the start of a command; skip the test where the system forbids it.

    As root /dev/shm has 1 MB, and the source tree is read-only.
    """
    for prefix in _prefixes():
        check = [*prefix, sys.executable, "-c", "import os, pwd; pwd.getpwuid(os.getuid())"]
        if shutil.which(prefix[0]):
            done = subprocess.run(check, capture_output=True, text=True)
            if "KeyError: 'getpwuid(): uid not found: 12345'" in done.stderr:
                return prefix
    pytest.skip("this system lets no process take the number of another user")


def _prefixes() -> list[tuple[str, ...]]:
    mounts = (_MOUNT + _READ_ONLY).format(root=ROOT)
    program = f'{mounts}exec {" ".join(_USER)} "$@"'
    return [("unshare", "--mount", "sh", "-c", program, "sh"), _USER]


def run_as_unknown_user(
    arguments: Sequence[object], cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments`, without HOME, USER and LOGNAME."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    return subprocess.run(
        [*as_unknown_user(), sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **(environment or {})},
        capture_output=True,
        text=True,
    )
