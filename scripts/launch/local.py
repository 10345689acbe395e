#!/usr/bin/env python3
"""Starts several processes on this machine that train as one, on CPUs by default.

    python scripts/launch/local.py --processes 2 -- --config FILE --workdir DIR ...

What follows `--` is for `vswin_jax.main`. To resume, give the same command: any number of processes
goes on from the workdir, bit for bit with the same number. Ctrl-C or SIGTERM, here or at any of the
processes, saves and stops all of them. With GPUs, give each process its own:

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
    """Starts `count` processes, each with `gpus` GPUs; `options` are those of `subprocess.Popen`.

    Each is in a session of its own, so that a Ctrl-C reaches it once.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "vswin_jax.main", *arguments]
    command += [f"--coordinator={address}", f"--num_processes={count}"]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, **dict(options.pop("env", {}))}
    search = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    return [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            env={**environment, "PYTHONPATH": search, **_own_gpus(index, gpus)},
            start_new_session=True,
            **options,
        )
        for index in range(count)
    ]


def _own_gpus(index: int, gpus: int) -> dict[str, str]:
    if not gpus:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(index * gpus, (index + 1) * gpus)))}


def main() -> int:
    """The status of the first process that ended badly, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each (default: not said)")
    parser.add_argument("arguments", nargs="+", help="after --, those of vswin_jax.main")
    asked = parser.parse_args()
    processes: list[subprocess.Popen[str]] = []

    def forward(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    processes += start(asked.processes, asked.arguments, gpus=asked.gpus)
    statuses = [process.wait() for process in processes]
    return next((128 - status if status < 0 else status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
