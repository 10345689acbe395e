"""Cost of preemption: a run that gets SIGTERM at many random times, beside an undisturbed run.

    python benchmarks/preemption.py [--signals 20] [--processes 1 2] [--seed 0] [--json FILE]

For each number of processes the script starts a small run, sends SIGTERM, starts the run again, and
so on until the run has finished. The seed spreads the times over the run: while the first step is
compiled, during an evaluation, during a save, and in any step. With several processes a random one
gets the signal. "lost" counts the steps with a reported loss that the next start repeats.
"""

import argparse
import itertools
import json
import os
import random
import runpy
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.runtime.script_parser import writable_file

ROOT = Path(__file__).resolve().parents[1]
STEPS, EVAL_EVERY, SAVE_EVERY = 210, 20, 15
ARGUMENTS = (
    f"--config={ROOT / 'experiments' / 'quickstart.py'}:runlocal",
    f"--config.train.duration={STEPS} steps",
    f"--config.train.eval_every={EVAL_EVERY} steps",
    f"--config.train.checkpoint_every={SAVE_EVERY} steps",
    "--config.data.shapes.test_scenes=5",
)
# The number of signals of each kind among twenty; all others are in any step.
SIGNALS_PER_TWENTY = {"compile": 3, "evaluation": 4, "save": 4}
# The signal is delayed by a random time of up to so many seconds.
MAX_DELAY = {"compile": 4.0, "evaluation": 0.4, "save": 0.1, "step": 0.1}
EXIT_TIMEOUT = 1800.0  # seconds
start = runpy.run_path(str(ROOT / "scripts" / "launch" / "local.py"))["start"]


class RunProcesses:
    """The processes of one start of a run, and their log."""

    def __init__(self, workdir: Path, count: int, cache: Path, *, compiles: bool = False) -> None:
        self.workdir = workdir
        self._log = workdir.with_suffix(".log")
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "JAX_ENABLE_COMPILATION_CACHE": str(not compiles).lower(),
        }
        with self._log.open("w") as log:
            output = {"stdout": log, "stderr": log, "cwd": ROOT}
            arguments = (*ARGUMENTS, f"--workdir={workdir}", "--heartbeat=900")
            self.processes: list[subprocess.Popen[str]] = start(
                count, arguments, env=environment, **output
            )

    def is_running(self) -> bool:
        """Return True if no process has exited."""
        return all(process.poll() is None for process in self.processes)

    def log(self) -> str:
        """Return the output of all processes."""
        return self._log.read_text()

    def wait_for_start(self) -> None:
        """Wait until the state has been created, which is just before the first compilation."""
        while self.is_running() and not (
            "parameters in" in self.log() or "resuming after" in self.log()
        ):
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        """Wait until the metrics of `step` have been written."""
        while self.is_running() and last_step(self.workdir) < step:
            time.sleep(0.005)

    def wait(self, timeout: float = EXIT_TIMEOUT) -> list[int]:
        """Wait until all processes have exited and return their exit statuses."""
        return [process.wait(timeout) for process in self.processes]


def last_step(workdir: Path) -> int:
    """Return the last step whose loss has been written."""
    entries = read_metrics(workdir / "metrics.jsonl", "train")
    return entries[-1]["step"] if entries else 0


def last_saved(workdir: Path) -> int:
    """Return the last step that has been saved."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")), default=0)


def schedule_signals(count: int, rng: random.Random) -> Iterator[tuple[str, int]]:
    """Yield (kind, earliest step) of `count` signals, spread over the run."""
    shares = {kind: round(share * count / 20) for kind, share in SIGNALS_PER_TWENTY.items()}
    # The first signal always comes while a run without a checkpoint compiles.
    shares["compile"] = max(0, shares["compile"] - 1)
    others = [kind for kind, share in shares.items() for _ in range(share)][: count - 1]
    others += ["step"] * (count - 1 - len(others))
    rng.shuffle(others)
    kinds = ["compile", *others]
    span = STEPS / (count + 1)
    for number, kind in enumerate(kinds, 1):
        yield kind, round((number - rng.random()) * span)


def start_and_interrupt(
    workdir: Path, count: int, kind: str, step: int, rng: random.Random, cache: Path
) -> dict[str, Any] | None:
    """Start the run, send one signal and return its row; None if the run finished first."""
    every = {"evaluation": EVAL_EVERY, "save": SAVE_EVERY}.get(kind, 1)
    # Steps that are in the checkpoint are not repeated, so the signal is for a later one.
    step = max(step, last_saved(workdir) + 1)
    step = min(-(-step // every) * every, STEPS)
    run = RunProcesses(workdir, count, cache, compiles=kind == "compile")
    if kind == "compile":
        run.wait_for_start()
    else:
        run.wait_for_step(step)
    delay = rng.uniform(0, MAX_DELAY[kind])
    time.sleep(delay)
    if not run.is_running():
        run.wait()
        return None
    target = rng.randrange(count)
    run.processes[target].terminate()
    signalled = time.monotonic()
    statuses = run.wait()
    seconds = time.monotonic() - signalled
    reported, saved = last_step(workdir), last_saved(workdir)
    return {
        "moment": kind,
        "step": reported,
        "delay": delay,
        "process": target,
        "seconds": seconds,
        "statuses": statuses,
        "lost": reported - saved,
    }


def learning_curves(workdir: Path) -> dict[str, list[Any]]:
    """Return the metrics of the learning, without those of the run's speed."""
    names = ("step", "loss", "top1", "top5", "grad_norm", "learning_rate", "skipped_total")
    return {
        kind: [
            [entry.get(name) for name in names]
            for entry in read_metrics(workdir / "metrics.jsonl", kind)
        ]
        for kind in ("train", "eval")
    }


def measure(directory: Path, count: int, signals: int, seed: int, cache: Path) -> dict[str, Any]:
    """Run without a signal and with `signals` of them, on `count` processes; return both."""
    undisturbed, interrupted = directory / f"whole{count}", directory / f"broken{count}"
    if any(RunProcesses(undisturbed, count, cache).wait()):
        raise SystemExit(f"the undisturbed run failed: see {undisturbed}.log")
    rng = random.Random(seed)
    rows = []
    for kind, step in schedule_signals(signals, rng):
        row = start_and_interrupt(interrupted, count, kind, step, rng, cache)
        if row is None:
            break
        rows.append(row)
        print(format_row(len(rows), row), flush=True)
    if any(RunProcesses(interrupted, count, cache).wait()):
        raise SystemExit(f"the interrupted run did not finish: see {interrupted}.log")
    bit_equal = learning_curves(interrupted) == learning_curves(undisturbed)
    return {"processes": count, "rows": rows, "bit_equal": bit_equal}


def format_row(number: int, row: dict[str, Any]) -> str:
    """Return a line of the table."""
    moment = f"{row['moment']}, +{row['delay']:.2f} s"
    statuses = " ".join(map(str, row["statuses"]))
    cells = (
        f"{number:>2}",
        f"{moment:<22}",
        f"{row['step']:>4}",
        f"{row['process']:>7}",
        f"{row['seconds']:>7.2f}",
        f"{statuses:>8}",
        f"{row['lost']:>4}",
    )
    return "  ".join(cells)


HEADER = " #  moment                  step  process  s to end  statuses  lost"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the file of --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=writable_file)
    options = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for count in options.processes:
            print(f"\n{count} process{'es' if count > 1 else ''}, {STEPS} steps\n{HEADER}")
            result = measure(
                directory=Path(directory),
                count=count,
                signals=options.signals,
                seed=options.seed,
                cache=Path(directory) / "programs",
            )
            results.append(result)
            print(summary(result))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def summary(result: dict[str, Any]) -> str:
    """Summarise the table in a sentence."""
    rows = result["rows"]
    worst = max(row["seconds"] for row in rows)
    statuses = set(itertools.chain.from_iterable(row["statuses"] for row in rows))
    return (
        f"{len(rows)} signals: {sum(row['lost'] for row in rows)} steps lost, at most "
        f"{worst:.1f} s to the end, statuses {sorted(statuses)}; the losses and scores are "
        f"{'bit-equal to' if result['bit_equal'] else 'NOT those of'} the undisturbed run's."
    )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
