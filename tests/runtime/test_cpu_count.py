"""The CPU quota of control groups, in copies of the files that containers have, and for real."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from vswin_jax.runtime.cpu_count import available_cores, cpu_quota, usable_cpus

ROOT = Path(__file__).parents[2]
# /proc/self/mountinfo: the mounted group is field 4, the mount point field 5.
V2_MOUNT = "30 23 0:26 {0} {1} rw,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate\n"
V1_MOUNT = "31 25 0:27 {0} {1} rw,nosuid - cgroup cgroup rw,{2}\n"
OTHER_MOUNTS = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\nnot a mount\n"
V1, V2 = "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"


def system(root: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    """Write the files that a process sees in a container."""
    contents = {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHER_MOUNTS + mounts, **files}
    for name, content in contents.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def v1(directory: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"{directory}/cpu.cfs_quota_us": f"{quota}\n",
        f"{directory}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        ("0::/\n", V2_MOUNT.format("/", V2), {f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", V2_MOUNT.format("/", V2), {f"{V2}/cpu.max": "max 100000\n"}, None),
        # The root group of a machine has no such file.
        ("0::/\n", V2_MOUNT.format("/", V2), {}, None),
        # A pod's group limits all of its containers.
        (
            "0::/kubepods/pod1/main\n",
            V2_MOUNT.format("/", V2),
            {
                f"{V2}/kubepods/cpu.max": "6400000 100000",
                f"{V2}/kubepods/pod1/cpu.max": "50000 100000",
                f"{V2}/kubepods/pod1/main/cpu.max": "max 100000",
            },
            0.5,
        ),
        # A container without a namespace of its own for groups sees the path that the host sees.
        (
            "4:cpu,cpuacct:/docker/0a1b\n1:name=systemd:/docker/0a1b\n0::/docker/0a1b\n",
            V1_MOUNT.format("/docker/0a1b", V1, "cpu,cpuacct"),
            v1(V1, 350_000),
            3.5,
        ),
        (
            "4:cpu,cpuacct:/slurm/job_7/step_0\n",
            V1_MOUNT.format("/", V1, "cpuacct,cpu"),
            v1(f"{V1}/slurm/job_7", 400_000) | v1(f"{V1}/slurm/job_7/step_0", -1),
            4.0,
        ),
        # Of a hierarchy without the controller for CPU time nothing is read.
        (
            "5:cpuset:/a\n4:cpu:/a\n0::/\n",
            V1_MOUNT.format("/", "/sys/fs/cgroup/cpuset", "cpuset")
            + V1_MOUNT.format("/", "/sys/fs/cgroup/cpu", "cpu")
            + V2_MOUNT.format("/", "/sys/fs/cgroup/unified"),
            v1("/sys/fs/cgroup/cpuset/a", 100_000) | v1("/sys/fs/cgroup/cpu/a", 50_000, 25_000),
            2.0,
        ),
        # A group outside of the namespace, and a mount point with a space.
        (
            "0::/../other\n",
            V2_MOUNT.format("/", "/my\\040groups"),
            {"/my groups/cpu.max": "200000 100000", "/other/cpu.max": "1 100000"},
            2.0,
        ),
        ("0::/\n", V2_MOUNT.format("/", V2), {f"{V2}/cpu.max": "what is this\n"}, None),
        ("", "", {}, None),
    ],
    ids=[
        *("v2", "v2 without a quota", "v2 of a machine", "v2 of a pod", "v1 of docker"),
        *("v1 of slurm", "v1 and v2", "v2 of another namespace", "unknown format", "no groups"),
    ],
)
def test_quota_of_a_container(
    groups: str, mounts: str, files: Mapping[str, str], quota: float | None, tmp_path: Path
) -> None:
    root = system(tmp_path, groups, mounts, files)
    assert cpu_quota(root) == quota
    cores = available_cores()
    assert usable_cpus(root) == (cores if quota is None else min(cores, -int(-quota // 1)))


def test_a_system_without_proc_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cpus(tmp_path) == available_cores()


def test_cores_are_those_that_this_process_may_run_on() -> None:
    program = "from vswin_jax.runtime.cpu_count import *; print(available_cores(), usable_cpus())"
    pinned = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); {program}"
    done = subprocess.run([sys.executable, "-c", pinned], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1 1\n", done.stderr


@contextlib.contextmanager
def control_group(cpus: float) -> Iterator[Path]:
    """Create a control group with a quota; the test is skipped where that is not permitted."""
    period = 100_000
    quota = int(cpus * period)
    v1_root, v2_root = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    root = v1_root if (v1_root / "cgroup.procs").exists() else v2_root
    group = root / f"vswin_jax_test_{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be created here: {error}")
    try:
        if root == v1_root:
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {period}")
        yield group
    except OSError as error:
        pytest.skip(f"control groups cannot be limited here: {error}")
    finally:
        group.rmdir()


# The first argument is the list of processes of the group that the program joins.
JOIN = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
CHOICES = """
from vswin_jax.data.pipeline.tensorflow_filler import AUTOTUNE, _thread_options
from vswin_jax.data.pipeline.clip_processes import choose_processes
from vswin_jax.runtime.cpu_count import cpu_quota

pools = [_thread_options(n).threading.private_threadpool_size for n in (AUTOTUNE, 5)]
print(cpu_quota(), choose_processes(-1), choose_processes(3), pools)
"""
XLA_THREADS = """
from vswin_jax.runtime.standard_streams import run_script

def run(arguments):
    import jax

    jax.numpy.zeros(1).block_until_ready()
    tasks = os.listdir("/proc/self/task")
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
    print(names.count("tf_XLAEigen"))
    return 0

run_script(run)
"""


def run_limited(program: str, cpus: float) -> str:
    """Run a program in a group with a quota and return what it prints."""
    if usable_cpus() < 2:
        pytest.skip("this process has one CPU already")
    with control_group(cpus) as group:
        command = [sys.executable, "-c", JOIN + program, str(group / "cgroup.procs")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.long
def test_a_process_in_a_limited_group_chooses_fewer_processes_and_threads() -> None:
    assert run_limited(CHOICES, 0.75) == "0.75 1 3 [1, 5]\n"


def test_the_threads_of_xla_are_limited_too() -> None:
    assert run_limited(XLA_THREADS, 0.75) == "1\n"
