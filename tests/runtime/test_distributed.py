"""Processes that join by flags or by the environment, and leave."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vswin_jax.errors import InputError
from vswin_jax.runtime import distributed
from vswin_jax.runtime.cluster_member import ClusterMember

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]

# Joins by the environment; then process 1 is late, and process 0 has to wait for its value.
PROGRAM = """
import time
from vswin_jax.runtime import distributed
distributed.join(None)
peers = distributed.get_peers()
if peers.index == 1:
    time.sleep(1)
values = peers.all_gather("number", str(10 + peers.index), 60)
distributed.wait_for_all("again")
distributed.wait_for_all("again")
import jax
print(peers.index, peers.count, values, jax.device_count(), jax.local_device_count())
distributed.shutdown_when_all_done()
print(distributed.get_peers())
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_processes_join_by_the_environment_of_slurm() -> None:
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
        "JAX_PLATFORMS": "cpu",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, **slurm, "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    printed = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert printed == [[f"{index} 2 ['10', '11'] 2 1", "None"] for index in range(2)]


DYING = """
import os, signal, sys
from vswin_jax.runtime import distributed
from vswin_jax.runtime.cluster_member import ClusterMember
distributed.join(ClusterMember(sys.argv[1], 2, int(sys.argv[2])), heartbeat_seconds=10)
if sys.argv[2] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
distributed.wait_for_all("never")
"""


def test_the_death_of_a_process_ends_the_one_that_waits_for_it() -> None:
    address = f"localhost:{free_port()}"
    waiting, dead = (
        subprocess.Popen(
            [sys.executable, "-c", DYING, address, str(index)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    )
    logged = waiting.communicate(timeout=300)[1]
    assert (dead.wait(), waiting.returncode) == (-signal.SIGKILL, -signal.SIGABRT)
    assert "stopped sending heartbeats" in logged


def test_a_process_alone_starts_no_service_and_waits_for_nobody() -> None:
    distributed.join(None)
    distributed.join(ClusterMember.from_flags("", 1, None))
    assert not jax.distributed.is_initialized()
    assert distributed.get_peers() is None
    distributed.wait_for_all("nobody")
    distributed.shutdown()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("host:1", 2, None), ("--process_id", "did not come")),
        (("", 2, 1), ("--coordinator HOST:PORT", "did not come")),
        (("", None, 0), ("--coordinator", "and --num_processes", "did not come")),
        (("host", 2, 1), ("HOST:PORT", "'host'")),
        (("host:1", 2, 2), ("from 0 to one below", "2 and 2")),
        (("host:1", 0, 0), ("at least 1", "0 and 0")),
    ],
)
def test_wrong_flags_are_refused(
    flags: tuple[str, int | None, int | None], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as refusal:
        ClusterMember.from_flags(*flags)
    assert [word for word in words if word not in str(refusal.value)] == []


def test_members_by_flags() -> None:
    assert ClusterMember.from_flags("", None, None) is None
    assert ClusterMember.from_flags("host:8476", 4, 3) == ClusterMember("host:8476", 4, 3)
    assert ClusterMember.from_flags("[::1]:8476", 1, 0).num_processes == 1


def test_a_port_in_use_is_reported() -> None:
    program = (
        "from vswin_jax.runtime import cluster_member, distributed\n"
        "import sys\n"
        "try:\n"
        "    distributed.join(cluster_member.ClusterMember(sys.argv[1], 2, 0))\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", program, address],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert f"Expected to meet the other processes at {address} but" in done.stdout, done.stderr
