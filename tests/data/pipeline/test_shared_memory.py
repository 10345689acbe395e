"""Memory that processes share, and the files that replace it."""

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.data.pipeline.shared_memory import SharedMemory, array_at, map_block

ROOT = Path(__file__).parents[3]
# Two mappings of a block of 2 MB, on a system whose kernel has no memfd.
PROGRAM = """
import logging, os, sys
import numpy as np
from vswin_jax.data.pipeline.shared_memory import SharedMemory, array_at, map_block
from vswin_jax.errors import InputError

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
for function in sys.argv[1:]:
    delattr(os, function)
memory = SharedMemory()
try:
    for _ in range(2):
        block = memory.empty(2_000_000)
        block[:] = 7
        slot = memory.locate(block[10:])
        other = array_at(slot, map_block(os.dup(memory.descriptor(slot.block))))
        block[10] = 9
        print(other.shape, other[0], other.sum())
except InputError as error:
    print(error)
"""


def test_two_mappings_of_a_block_have_the_same_content() -> None:
    memory = SharedMemory()
    block = memory.empty(1000)
    slot = memory.locate(block[100:300].reshape(10, 20)[:, 2:])
    other = array_at(slot, map_block(os.dup(memory.descriptor(slot.block))))
    block[:] = np.arange(1000) % 251
    assert np.array_equal(other, block[100:300].reshape(10, 20)[:, 2:])
    assert memory.block_ids() == {slot.block}
    del block, other
    assert memory.block_ids() == set()


def test_a_block_at_the_address_of_a_freed_one_is_told_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finalizer may run after its memory was mapped anew; here it never runs."""
    memory = SharedMemory()
    monkeypatch.setattr(memory, "_free", lambda block_id: None)
    addresses = set()
    for expected in range(100):
        block = memory.empty(1000)
        assert memory.locate(block).block == expected
        addresses.add(block.ctypes.data)
        del block
    assert len(addresses) < 100, "no address was used twice"


def test_blocks_are_freed_by_the_garbage_collector_at_any_moment() -> None:
    memory = SharedMemory()

    def allocate() -> None:
        for _ in range(100):
            cycle: list[object] = [memory.empty(1000)]
            cycle.append(cycle)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    thread = threading.Thread(target=allocate, daemon=True)
    try:
        thread.start()
        thread.join(timeout=60)
    finally:
        gc.set_threshold(*thresholds)
    assert not thread.is_alive(), "a finalizer waits for the lock that its own thread holds"
    gc.collect()
    assert memory.block_ids() == set()


def run(tmp_path: Path, before: str = "", lacks: Sequence[str] = ("memfd_create",)) -> list[str]:
    """Run the program in a shell, after the commands `before`, and return its lines.

    Its `os` lacks some functions.
    """
    command = f'{before}exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", command, "sh"] if before else []
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM, *lacks],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def has_mounts() -> bool:
    return bool(shutil.which("unshare")) and not os.system(
        "unshare --mount sh -c 'mount -t tmpfs tmpfs /dev/shm' 2>/dev/null"
    )


SHARED = "(1999990,) 9 13999932"


# The second system is like macOS.
LACKS = (("memfd_create",), ("memfd_create", "posix_fallocate"))


@pytest.mark.skipif(sys.platform != "linux", reason="a program for Linux")
@pytest.mark.parametrize("lacks", LACKS)
def test_files_replace_memory(tmp_path: Path, lacks: Sequence[str]) -> None:
    line = "processes share clips in files in /dev/shm, for want of anonymous memory"
    assert run(tmp_path, lacks=lacks) == [line, SHARED, SHARED]


@pytest.mark.skipif(not has_mounts(), reason="this user may not mount file systems")
@pytest.mark.parametrize("lacks", LACKS)
@pytest.mark.parametrize("directory", ["disk", "neither"])
def test_a_full_directory_is_found_before_it_is_used(
    tmp_path: Path, directory: str, lacks: Sequence[str]
) -> None:
    """A write to a mapped file on a full disk would end the process by a signal (SIGBUS)."""
    mounts = "mount -t tmpfs -o size=1m tmpfs /dev/shm; "
    if directory == "neither":
        mounts += f"mount -t tmpfs -o size=1m tmpfs {tmp_path}; "
    lines = run(tmp_path, mounts, lacks)
    if directory == "disk":
        line = f"processes share clips in files in {tmp_path}, for want of anonymous memory"
        assert lines == [line, SHARED, SHARED]
    else:
        (line,) = lines
        assert line.startswith("Expected room for 2,000,000 bytes")
        assert f"neither /dev/shm nor {tmp_path} has it" in line
        assert "config.data.processes=0" in line
