"""Whether time and memory grow in line with a clip's length: 16 to 256 frames at a fixed window.

    python benchmarks/linear_growth.py --json growth.json [--size 224] [--plot growth.png]
    python benchmarks/linear_growth.py --json growth.json --platform v5e:1x1

Two programs of one clip: "forward", and "gradient", that of the loss with every block
rematerialised, without an optimizer, whose work has nothing to do with the clip. On the CPU, in
float32, the lengths take turns of two calls, of which the second counts, and seconds are the
median. For a TPU, or a GPU as h200:1, the real compiler (pip install -e ".[tpu]", or "jax[cuda13]")
compiles in bfloat16, minutes a program, and nothing runs: seconds are then the least that the
chip's peaks allow. Memory is what the compiled program allocates besides the parameters and their
gradients. Rows that the JSON file has from earlier calls stay in it, in the table and in the plot.

Frames of a size that is no multiple of 224 are padded somewhere, in clips of all lengths alike.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compilers import versions
from growth_report import Row, growths, kept, save_growth, table
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vswin_jax.analysis.compiled_program import CompiledProgram, read_program
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.errors import InputError
from vswin_jax.models import VARIANTS, SwinTransformer3D, create_model, init_params
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.runtime.hardware import chip_of
from vswin_jax.runtime.progress import Progress
from vswin_jax.training.steps import preprocess

FRAMES = (16, 32, 64, 128, 256)
CLASSES = 400
Program = Callable[[Any, jax.Array], Any]


def forward(model: SwinTransformer3D) -> Program:
    """(parameters, uint8 `[B, T, H, W, 3]`) to the logits, without dropout."""

    def run(params: Any, video: jax.Array) -> jax.Array:
        clips = preprocess(video, jnp.zeros(len(video), bool))
        return model.apply({"params": params}, clips)

    return run


def gradient(model: SwinTransformer3D) -> Program:
    """(parameters, uint8 `[B, T, H, W, 3]`) to the gradients of the loss in training."""

    def loss(params: Any, video: jax.Array) -> jax.Array:
        clips = preprocess(video, jnp.zeros(len(video), bool))
        rngs = {"dropout": jax.random.key(0)}
        logits = model.apply({"params": params}, clips, train=True, rngs=rngs)
        labels = jnp.zeros(len(video), jnp.int32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.grad(loss)


PROGRAMS = {"forward": forward, "gradient": gradient}


@dataclass(frozen=True)
class Case:
    """One program for clips of one length."""

    platform: str
    variant: str
    depths: tuple[int, ...]
    size: int
    clips: int
    program: str
    frames: int

    @property
    def model(self) -> SwinTransformer3D:
        """In the dtype of the platform."""
        return create_model(
            f"swin_{self.variant}",
            CLASSES,
            "float32" if self.platform == "cpu" else "bfloat16",
            depths=self.depths,
            num_heads=VARIANTS[f"swin_{self.variant}"].num_heads[: len(self.depths)],
            drop_path_rate=0.1,
            remat="block",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the clips."""
        return (self.clips, self.frames, self.size, self.size, 3)

    def compile(self, device: jax.Device) -> jax.stages.Compiled:
        """The program for a device, which may be that of a topology."""
        model, mesh = self.model, Mesh([device], ("data",), axis_types=(AxisType.Auto,))
        place = NamedSharding(mesh, PartitionSpec())

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

        params = jax.tree.map(placed, abstract_params(model))
        video = placed(jax.ShapeDtypeStruct(self.shape, jnp.uint8))
        # What is chosen by platform is chosen for the mesh that is set.
        chosen = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
        with contextlib.nullcontext() if device.platform == "cpu" else chosen:
            return jax.jit(PROGRAMS[self.program](model)).lower(params, video).compile()

    def row(self, program: CompiledProgram, **measured: Any) -> Row:
        """What is kept of the case."""
        state = jax.tree.leaves(abstract_params(self.model))
        parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
        memory = program.memory.temporaries + program.memory.arguments - parameters
        settings = vars(self) | {"depths": list(self.depths)}
        return {**settings, "memory": memory, **measured, "versions": versions(self.platform)}


def abstract_params(model: SwinTransformer3D) -> Any:
    """The shapes of the parameters."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def by_compiler(case: Case) -> Row:
    """Compiles a case for one chip of a topology."""
    # The package of the dry run needs more libraries than a measurement on a CPU does.
    from vswin_jax.analysis.dry_run.roofline import Roofline

    begin = time.perf_counter()
    device = topology_devices(case.platform)[0]
    program = read_program(case.compile(device))
    bound = Roofline.of(program, chip_of(device.device_kind))
    return case.row(
        program,
        seconds=bound.seconds,
        limit=bound.limit,
        traffic=program.memory_traffic,
        flops=program.flops,
        compile_seconds=time.perf_counter() - begin,
    )


def on_cpu(cases: Sequence[Case], rounds: int, say: Callable[[str], None]) -> Iterable[Row]:
    """Compiles all cases and calls them in turns."""
    params = init_params(cases[0].model, jax.random.key(0))
    compiled = []
    progress = Progress(len(cases), say, things="programs")
    for case in cases:
        compiled.append(case.compile(jax.devices("cpu")[0]))
        progress.add()
    videos = [np.random.default_rng(0).integers(0, 256, case.shape, np.uint8) for case in cases]
    seconds: list[list[float]] = [[] for _ in cases]
    progress = Progress(rounds * len(cases), say, things="turns")
    for _, place in itertools.product(range(rounds), range(len(cases))):
        # The first one after a call of another size pays for memory that the other one gave back.
        first_and_second = [seconds_of(compiled[place], params, videos[place]) for _ in range(2)]
        seconds[place].append(first_and_second[1])
        progress.add()
    for case, program, taken in zip(cases, compiled, seconds, strict=True):
        spread = {"seconds": statistics.median(taken), "fastest": min(taken), "slowest": max(taken)}
        yield case.row(read_program(program), **spread)


def seconds_of(compiled: jax.stages.Compiled, params: Any, video: np.ndarray) -> float:
    """One call, until the result is there."""
    on_device = jax.block_until_ready(jax.device_put(video))
    begin = time.perf_counter()
    jax.block_until_ready(compiled(params, on_device))
    return time.perf_counter() - begin


def cases_of(asked: argparse.Namespace) -> list[Case]:
    """What is asked for, the shortest clips first.

    Raises:
        InputError: a length that is not whole windows, or an unknown number of stages.
    """
    variant = VARIANTS[f"swin_{asked.variant}"]
    depths = tuple(asked.depths or variant.depths)
    if len(depths) > len(variant.depths):
        raise InputError(f"Expected --depths of at most four stages, but {len(depths)} came.")
    step = SwinTransformer3D.window_size[0] * SwinTransformer3D.patch_size[0]
    odd = [frames for frames in asked.frames if frames < step or frames % step]
    if odd:
        raise InputError(
            f"Expected --frames in multiples of {step}, which are whole windows, but {odd[0]} came."
        )
    size = asked.size or (112 if asked.platform == "cpu" else 224)
    return [
        Case(asked.platform, asked.variant, depths, size, asked.clips, program, frames)
        for frames in sorted(set(asked.frames))
        for program in asked.program
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", default="cpu", help="cpu, or a topology such as v5e:1x1")
    parser.add_argument("--variant", default="tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--depths", type=int, nargs="+", help="blocks a stage (the variant's)")
    parser.add_argument("--size", type=int, help="of a frame (cpu: 112, others: 224)")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--program", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each on a CPU")
    parser.add_argument("--json", type=Path, metavar="PATH", help="results, kept between calls")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="the picture of all rows")
    parser.add_argument("--only-plot", action="store_true", help="measure nothing")
    return parser


def _save(path: Path | None, rows: Sequence[Row]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(rows, indent=1) + "\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measured(asked: argparse.Namespace, saved: Sequence[Row]) -> list[Row]:
    """Measures what is asked for; saves after each program that takes a compiler minutes."""
    cases = cases_of(asked)
    if asked.platform == "cpu":
        return kept(saved, list(on_cpu(cases, asked.rounds, _say)))
    rows, progress = list(saved), Progress(len(cases), _say, things="programs", every=0)
    for case in cases:
        rows = kept(rows, [by_compiler(case)])
        _save(asked.json, rows)
        progress.add(note=f"{case.program} of {case.frames} frames compiled")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    asked = _parser().parse_args(arguments)
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    try:
        rows = rows if asked.only_plot else measured(asked, rows)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _save(asked.json, rows)
    found = growths(rows)
    print(table(found))
    if asked.plot:
        save_growth(asked.plot, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
