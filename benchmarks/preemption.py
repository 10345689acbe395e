"""What SIGTERM costs: a run that gets it at many random moments, beside one that is not disturbed.

    python benchmarks/preemption.py [--signals 20] [--processes 1 2] [--seed 0] [--json FILE]

For each number of processes a small run is started, told to end at a moment, started again, and so
on until it is finished. The moments are spread over the run by the seed: while the first step is
compiled, in an evaluation, at a save, and in any step. Of several processes a random one gets the
signal. "lost" counts the steps whose losses were reported and which the next start does again.
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

from vswin_jax.reporting.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[1]
STEPS, EVAL_EVERY, SAVE_EVERY = 210, 20, 15
ARGUMENTS = (
    f"--config={ROOT / 'experiments' / 'quickstart.py'}:runlocal",
    f"--config.train.duration={STEPS} steps",
    f"--config.train.eval_every={EVAL_EVERY} steps",
    f"--config.train.checkpoint_every={SAVE_EVERY} steps",
    "--config.data.shapes.test_scenes=5",
)
# Of these moments there are as many as said among twenty; the rest are steps.
KINDS = {"compile": 3, "evaluation": 4, "save": 4}
# From the moment on, at random up to so many seconds.
WITHIN = {"compile": 4.0, "evaluation": 0.4, "save": 0.1, "step": 0.1}
PATIENCE = 1800.0
start = runpy.run_path(str(ROOT / "scripts" / "launch" / "local.py"))["start"]


class Run:
    """The processes of one start, in a workdir, with their log."""

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
        """Whether none has ended."""
        return all(process.poll() is None for process in self.processes)

    def log(self) -> str:
        """What all of them have said."""
        return self._log.read_text()

    def wait_for_start(self) -> None:
        """Returns when the state is there, which is just before the first step is compiled."""
        while self.is_running() and not (
            "parameters in" in self.log() or "going on after" in self.log()
        ):
            time.sleep(0.01)

    def wait_for_step(self, step: int) -> None:
        """Returns when that step is reported."""
        while self.is_running() and last_step(self.workdir) < step:
            time.sleep(0.005)

    def end(self, timeout: float = PATIENCE) -> list[int]:
        """Waits for all; their exit statuses."""
        return [process.wait(timeout) for process in self.processes]


def last_step(workdir: Path) -> int:
    """The last step whose loss is reported."""
    entries = read_metrics(workdir / "metrics.jsonl", "train")
    return entries[-1]["step"] if entries else 0


def last_saved(workdir: Path) -> int:
    """The last step that is saved."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")), default=0)


def moments(count: int, rng: random.Random) -> Iterator[tuple[str, int]]:
    """(kind, the step that it is due from), spread over the run."""
    kinds = [kind for kind, share in KINDS.items() for _ in range(round(share * count / 20))]
    kinds += ["step"] * (count - len(kinds))
    rng.shuffle(kinds)
    # The first compile is that of a run with nothing saved.
    kinds.remove("compile")
    kinds.insert(0, "compile")
    span = STEPS / (count + 1)
    for number, kind in enumerate(kinds, 1):
        yield kind, round((number - rng.random()) * span)


def disturb(
    workdir: Path, count: int, kind: str, step: int, rng: random.Random, cache: Path
) -> dict[str, Any] | None:
    """One start and one signal; None if the run was finished before."""
    every = {"evaluation": EVAL_EVERY, "save": SAVE_EVERY}.get(kind, 1)
    # What the run before has done does not come again.
    step = max(step, last_saved(workdir) + 1)
    step = min(-(-step // every) * every, STEPS)
    run = Run(workdir, count, cache, compiles=kind == "compile")
    if kind == "compile":
        run.wait_for_start()
    else:
        run.wait_for_step(step)
    delay = rng.uniform(0, WITHIN[kind])
    time.sleep(delay)
    if not run.is_running():
        run.end()
        return None
    whom = rng.randrange(count)
    run.processes[whom].terminate()
    since = time.monotonic()
    statuses = run.end()
    seconds = time.monotonic() - since
    reported, saved = last_step(workdir), last_saved(workdir)
    return {
        "moment": kind,
        "step": reported,
        "delay": delay,
        "process": whom,
        "seconds": seconds,
        "statuses": statuses,
        "lost": reported - saved,
    }


def curves(workdir: Path) -> dict[str, list[Any]]:
    """What is reported of the learning; the rest is of the time that it took."""
    names = ("step", "loss", "top1", "top5", "grad_norm", "learning_rate", "skipped_total")
    return {
        kind: [
            [entry.get(name) for name in names]
            for entry in read_metrics(workdir / "metrics.jsonl", kind)
        ]
        for kind in ("train", "eval")
    }


def measure(place: Path, count: int, signals: int, seed: int, cache: Path) -> dict[str, Any]:
    """The undisturbed run and the disturbed one, on `count` processes."""
    whole, broken = place / f"whole{count}", place / f"broken{count}"
    if any(Run(whole, count, cache).end()):
        raise SystemExit(f"the undisturbed run failed: see {whole}.log")
    rng = random.Random(seed)
    rows = []
    for kind, step in moments(signals, rng):
        row = disturb(broken, count, kind, step, rng, cache)
        if row is None:
            break
        rows.append(row)
        print(describe(len(rows), row), flush=True)
    if any(Run(broken, count, cache).end()):
        raise SystemExit(f"the run did not finish: see {broken}.log")
    return {"processes": count, "rows": rows, "bit_equal": curves(broken) == curves(whole)}


def describe(number: int, row: dict[str, Any]) -> str:
    """A line of the table."""
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
    """Prints the tables, and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as place:
        for count in asked.processes:
            print(f"\n{count} process{'es' if count > 1 else ''}, {STEPS} steps\n{HEADER}")
            cache = Path(place) / "programs"
            result = measure(Path(place), count, asked.signals, asked.seed, cache)
            results.append(result)
            print(summary(result))
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


def summary(result: dict[str, Any]) -> str:
    """The table in a sentence."""
    rows = result["rows"]
    worst = max(row["seconds"] for row in rows)
    statuses = set(itertools.chain.from_iterable(row["statuses"] for row in rows))
    return (
        f"{len(rows)} signals: {sum(row['lost'] for row in rows)} steps lost, {worst:.1f} s to the "
        f"end at most, statuses {sorted(statuses)}; the losses and scores are "
        f"{'bit-equal to' if result['bit_equal'] else 'NOT those of'} the undisturbed run's."
    )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
