"""Seconds from a command to its first training step and to its first prediction, cold and warm.

    python benchmarks/startup.py [--rounds 3] [--against OTHER_CHECKOUT] [--json FILE]

Everything is measured from outside, in new processes, and the checkouts take turns:

- `main`: the quickstart, from the start of the process until the metrics of its first step are in
  `metrics.jsonl`; the videos are written before.
- `predict`: `python -m vswin_jax.predict` of one video, until its first line; a Swin-T for clips of
  16x224x224 in float32, one view, with random weights.
- `calls`: in one process, the first call of `vswin_jax.predict()` and later ones. "overhead" is
  what a later call takes beside decoding the video and the forward pass, each measured alone.

"cold" starts without compiled programs, "warm" with those that the cold start has left. With
--against the ratios are those of this checkout to the other one; below 1 this one is quicker.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from json_files import write_json

from vswin_jax.errors import InputError
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.script_parser import positive_int, print_error, writable_file

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("startup_worker.py")
TIMEOUT = 1200.0  # seconds
# Few videos, which are written soon, and the metrics of every step.
SETTINGS = (
    "--config.data.shapes.train_scenes=20",
    "--config.data.shapes.test_scenes=2",
    "--config.train.log_every=1 steps",
)


@dataclass
class Checkout:
    """A version of the project, and the seconds of each of its measurements by name."""

    name: str
    root: Path
    directory: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def start(self, *arguments: str, cache: Path, **options: Any) -> "subprocess.Popen[str]":
        """Start Python with this version; `cache` has the compiled programs of predictions."""
        environment = {**os.environ, "PYTHONPATH": str(self.root), "VSWIN_CACHE": str(cache)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment,
            stderr=subprocess.DEVNULL,
            text=True,
            **options,
        )

    def run(self, *arguments: str, cache: Path) -> str:
        """Run Python with this version to its end and return its output."""
        process = self.start(*arguments, cache=cache, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=TIMEOUT)
        if process.returncode:
            raise InputError(f"{self.name}: {' '.join(arguments)} ended with an error: run it.")
        return output

    def add(self, measurement: str, seconds: float) -> None:
        """Record and print the seconds of a measurement."""
        self.seconds.setdefault(measurement, []).append(seconds)
        print(f"{self.name:8} {measurement:40} {seconds:8.2f} s", flush=True)

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each measurement."""
        return {name: statistics.median(values) for name, values in self.seconds.items()}


def first_step(checkout: Checkout, data: Path, cache: Path) -> float:
    """Start the quickstart in a new workdir and return the seconds until its first step is done."""
    with tempfile.TemporaryDirectory(dir=checkout.directory) as folder:
        workdir = Path(folder) / "run"
        start = time.perf_counter()
        process = checkout.start(
            *("-m", "vswin_jax.main", "--config", "experiments/quickstart.py"),
            *(f"--workdir={workdir}", f"--config.data.root={data}"),
            *(f"--config.train.compilation_cache={cache}", *SETTINGS),
            cache=cache,
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for_step(process, workdir, deadline=start + TIMEOUT)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def _wait_for_step(process: "subprocess.Popen[str]", workdir: Path, deadline: float) -> None:
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and read_metrics(metrics, "train")):
        if process.poll() is not None or time.perf_counter() > deadline:
            raise InputError("The quickstart ended without a step: run its command to see why.")
        time.sleep(0.02)


def first_prediction(checkout: Checkout, checkpoint: Path, video: Path, cache: Path) -> float:
    """Run the command `predict` and return the seconds until its first line."""
    start = time.perf_counter()
    process = checkout.start(
        *("-m", "vswin_jax.predict", str(video), f"--checkpoint={checkpoint}"),
        cache=cache,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    process.communicate()
    if not line:
        raise InputError(f"{checkout.name}: predict printed nothing: run its command to see why.")
    return seconds


def calls(checkout: Checkout, checkpoint: Path, video: Path, cache: Path) -> dict[str, float]:
    """Return the seconds of calls of `predict` in one process, by name."""
    output = checkout.run(str(WORKER), "calls", str(checkpoint), str(video), cache=cache)
    return json.loads(output.splitlines()[-1])


def measure_round(checkouts: Sequence[Checkout], data: Path, checkpoint: Path) -> None:
    """Measure everything once, in turns: a cold start, then a warm one."""
    video = next(iter(sorted((data / "test").glob("*/*.mp4"))))
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        for state in ("cold", "warm"):
            for checkout in checkouts:
                cache = Path(folder) / checkout.name
                training, predicting = cache / "main", cache / "predict"
                checkout.add(f"main, {state}", first_step(checkout, data, training))
                seconds = first_prediction(checkout, checkpoint, video, predicting)
                checkout.add(f"predict, {state}", seconds)
                if state == "warm":
                    times = calls(checkout, checkpoint, video, predicting)
                    for name, seconds in times.items():
                        checkout.add(f"calls, {name}", seconds)


def prepare(checkouts: Sequence[Checkout], directory: Path) -> tuple[Path, Path]:
    """Write the videos and the checkpoint, which the oldest version can read; return both."""
    data, checkpoint, oldest = directory / "data", directory / "swin_tiny", checkouts[-1]
    # Also reads the files of each version once: none of them starts from a slow disk.
    for checkout in checkouts:
        first_step(checkout, data, directory / "unused")
    oldest.run(str(WORKER), "checkpoint", str(checkpoint), cache=directory / "unused")
    return data, checkpoint


def result_rows(checkouts: Sequence[Checkout]) -> Iterator[dict[str, Any]]:
    """Yield a row for each measurement, with the ratio to the other checkout."""
    this, *others = (checkout.medians() for checkout in checkouts)
    for name, seconds in this.items():
        row = {"name": name, "seconds": checkouts[0].seconds[name], "median_s": seconds}
        for other, checkout in zip(others, checkouts[1:], strict=True):
            row |= {"against_seconds": checkout.seconds[name], "against_median_s": other[name]}
            row |= {"ratio": seconds / other[name]}
        yield row


def format_row(row: Mapping[str, Any]) -> str:
    """Return a line of the table."""
    other = ""
    if "ratio" in row:
        other = f"  against {row['against_median_s']:8.2f} s  ratio {row['ratio']:.2f}"
    return f"{row['name']:40} {row['median_s']:8.2f} s{other}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the medians and write the file of --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="%(default)s")
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout")
    parser.add_argument("--json", type=writable_file, metavar="FILE")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        roots = {"this": ROOT, "against": options.against}
        checkouts = [
            Checkout(name, root.resolve(), Path(folder)) for name, root in roots.items() if root
        ]
        try:
            data, checkpoint = prepare(checkouts, Path(folder))
            for _ in range(options.rounds):
                measure_round(checkouts, data, checkpoint)
        except InputError as error:
            return print_error(error)
    rows = list(result_rows(checkouts))
    print("\n".join(map(format_row, rows)))
    write_json(
        options.json, {"python": sys.version.split()[0], "cpus": usable_cpus(), "rows": rows}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
