"""Counts the CPUs that this process may use, for the sizes of its pools of processes and threads.

A container's limit (`docker --cpus`, `resources.limits.cpu` of Kubernetes) is a quota of CPU time
in the kernel's control groups (cgroups): the container sees all cores of the machine, and is
suspended when it has used its share. `os.cpu_count` does not know of it.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process may use, at least 1.

    It is the smaller of the cores that the process may run on and of its CPU quota, rounded up.
    `root` is the directory that has `proc` and `sys`.
    """
    cores, quota = available_cores(), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def apply_cpu_quota() -> None:
    """Limit the compute threads of XLA to the CPU quota; it would start one for each core.

    It has to be called before JAX uses a device. Nothing changes without a quota.
    """
    cpus = usable_cpus()
    if cpus < available_cores():
        # XLA takes the number of CPUs from this variable.
        os.environ.setdefault("NPROC", str(cpus))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process, in CPUs; None without one.

    Each of its cgroups and of their ancestors may have a quota; the smallest one counts.
    """
    return min(_quotas(root), default=None)


def available_cores() -> int:
    """Return the number of cores that this process may run on, without regard to its CPU quota."""
    # Since Python 3.13; it obeys PYTHON_CPU_COUNT.
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of this process's cgroups and of all their ancestors."""
    for directory, mount_point in _cpu_groups(root):
        while True:
            for quota, period in _limits(directory):
                if quota.isdecimal() and period.isdecimal():
                    yield int(quota) / max(int(period), 1)
            if directory == mount_point or mount_point not in directory.parents:
                break
            directory = directory.parent


def _limits(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield (quota, period) of a cgroup in microseconds; a quota that is no number is none."""
    # Version 2: "max 100000", or microseconds of CPU time and the period in which they may be used.
    quota, period, *_ = [*_read(directory / "cpu.max").split(), "", ""]
    yield quota, period
    # Version 1: -1 means that there is no quota.
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = (_read(directory / name).strip() for name in names)
    yield quota, period


def _cpu_groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield this process's directory and the mount point of each hierarchy that may limit CPUs."""
    paths = dict(_own_groups(root))
    for line in _read(root / "proc/self/mountinfo").split("\n"):
        mounted, _, described = line.partition(" - ")
        fields, file_system = mounted.split(" "), described.split(" ")
        if len(fields) < 5 or len(file_system) < 3:
            continue
        is_v1 = file_system[0] == "cgroup" and "cpu" in file_system[2].split(",")
        name = "cpu" if is_v1 else "" if file_system[0] == "cgroup2" else None
        if name in paths:
            mount_point = root / _unescaped(fields[4]).lstrip("/")
            yield mount_point / _below(paths[name], _unescaped(fields[3])), mount_point


def _own_groups(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (controller, path) of this process's cgroups; of version 2 the controller is ""."""
    for line in filter(None, _read(root / "proc/self/cgroup").split("\n")):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, path


def _below(path: str, mounted: str) -> str:
    """Return `path` relative to the group that is mounted; "" if it is not below that group.

    In a container the mounted group may be its own one, and the path that of the host.
    """
    try:
        relative = PurePosixPath(path).relative_to(mounted)
    except ValueError:
        return ""
    return "" if ".." in relative.parts else str(relative)


def _unescaped(text: str) -> str:
    # The kernel writes a space as \040.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
