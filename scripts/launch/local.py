#!/usr/bin/env python3
"""Starts several processes on this machine that train as one run, on CPUs by default.

    python scripts/launch/local.py --processes 2 -- --config FILE --workdir DIR ...

The arguments after `--` are for `vswin_jax.main`. To resume, give the same command: any number of
processes continues from the workdir, and the same number bit for bit. Ctrl-C or SIGTERM, sent to
this script or to any of the processes, saves a checkpoint and stops all processes. With GPUs, give
each process its own:

    JAX_PLATFORMS=cuda python scripts/launch/local.py --processes 2 --gpus 1 -- ...
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]


def start(
    count: int, arguments: Sequence[str], *, gpus: int = 0, **options: object
) -> list["subprocess.Popen[str]"]:
    """Start `count` processes, each with `gpus` GPUs; `options` are those of `subprocess.Popen`.

    Each process has its own session, so the terminal sends Ctrl-C only to this script, which
    forwards it once.
    """
    with socket.socket() as probe:
        # Port 0 lets the system choose a free port for the coordinator.
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "vswin_jax.main", *arguments]
    command += [f"--coordinator={address}", f"--num_processes={count}"]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, **dict(options.pop("env", {}))}
    search_path = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    return [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            env={**environment, "PYTHONPATH": search_path, **_visible_gpus(index, gpus)},
            start_new_session=True,
            **options,
        )
        for index in range(count)
    ]


def _visible_gpus(index: int, gpus: int) -> dict[str, str]:
    """Return the environment in which a process sees its own GPUs alone."""
    if not gpus:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(index * gpus, (index + 1) * gpus)))}


def main() -> int:
    """Run the processes and return the status of the first one that failed, or 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each process (default: all)")
    parser.add_argument("arguments", nargs="+", help="after --, those of vswin_jax.main")
    args = parser.parse_args()
    processes: list[subprocess.Popen[str]] = []

    def forward(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    # Installed before the processes start, so that no signal ends this script without them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    processes += start(args.processes, args.arguments, gpus=args.gpus)
    statuses = [process.wait() for process in processes]
    # Popen reports a process that ended by signal N as -N; a shell reports it as 128 + N.
    return next((128 - status if status < 0 else status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
