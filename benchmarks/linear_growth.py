"""Growth of time and memory with the length of a clip: 16 to 256 frames at a fixed window.

    python benchmarks/linear_growth.py --json growth.json [--size 224] [--plot growth.png]
    python benchmarks/linear_growth.py --json growth.json --platform v5e:1x1

There are two programs of one clip: "forward", and "gradient", that of the loss with every block
rematerialised; an optimizer is left out, since its work does not depend on the clip. On the CPU, in
float32, measurements of all lengths are interleaved; each has two calls, of which the second is
measured, and seconds are the median. For a TPU, or a GPU such as h200:1, the real compiler (pip
install -e ".[tpu]", or "jax[cuda13]") compiles in bfloat16, in minutes per program, and nothing
runs: seconds are then the lower bound by the chip's peaks. Memory is what the compiled program
allocates besides the parameters and their gradients. Rows that the file of --json has from earlier
calls stay in it, in the table and in the figure.

Frames whose size is not a multiple of 224 are padded in some stages, equally at every length.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compiler_versions import compiler_versions
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from json_files import read_json, write_json
from scaling_report import Row, merge_rows, save_figure, scaling_curves, table

from vswin_jax.analysis.compiled_program import CompiledProgram, read_program
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.errors import InputError
from vswin_jax.models import VARIANTS, SwinTransformer3D, create_model, init_params
from vswin_jax.runtime.hardware import chip_of
from vswin_jax.runtime.progress import Progress
from vswin_jax.runtime.script_parser import writable_file
from vswin_jax.training.step_inputs import preprocess

FRAMES = (16, 32, 64, 128, 256)
CLASSES = 400
Program = Callable[[Any, jax.Array], Any]


def forward(model: SwinTransformer3D) -> Program:
    """Return a function of (parameters, uint8 `[B, T, H, W, 3]`) that gives evaluation logits."""

    def run(params: Any, video: jax.Array) -> jax.Array:
        clips = preprocess(video, jnp.zeros(len(video), bool))
        return model.apply({"params": params}, clips)

    return run


def gradient(model: SwinTransformer3D) -> Program:
    """Return a function of (parameters, uint8 `[B, T, H, W, 3]`) that gives training gradients."""

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
        """The model, in float32 on a CPU and in bfloat16 elsewhere."""
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
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of the batch, `[B, T, H, W, 3]`."""
        return (self.clips, self.frames, self.size, self.size, 3)

    def compile(self, device: jax.Device) -> jax.stages.Compiled:
        """Compile the program for a device, which may be that of a topology."""
        model, mesh = self.model, Mesh([device], ("data",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, PartitionSpec())

        def with_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        params = jax.tree.map(with_sharding, abstract_params(model))
        video = with_sharding(jax.ShapeDtypeStruct(self.clip_shape, jnp.uint8))
        # Implementations and kernels are chosen for the platform of the mesh that is set.
        target_mesh = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
        with contextlib.nullcontext() if device.platform == "cpu" else target_mesh:
            return jax.jit(PROGRAMS[self.program](model)).lower(params, video).compile()

    def row(self, program: CompiledProgram, **measured: Any) -> Row:
        """Return the row of the case in the result file."""
        state = jax.tree.leaves(abstract_params(self.model))
        parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
        memory = program.memory.temporaries + program.memory.arguments - parameters
        settings = vars(self) | {"depths": list(self.depths)}
        return {
            **settings,
            "memory": memory,
            **measured,
            "versions": compiler_versions(self.platform),
        }


def abstract_params(model: SwinTransformer3D) -> Any:
    """Return the shapes and dtypes of the parameters."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def compile_case(case: Case) -> Row:
    """Compile a case for one chip of a topology and return its row."""
    # The dry run imports libraries that a measurement on a CPU does not need.
    from vswin_jax.analysis.dry_run.roofline import Roofline

    start = time.perf_counter()
    device = topology_devices(case.platform)[0]
    program = read_program(case.compile(device))
    bound = Roofline.from_program(program, chip_of(device.device_kind))
    return case.row(
        program,
        seconds=bound.seconds,
        limit=bound.limit,
        traffic=program.memory_traffic,
        flops=program.flops,
        compile_seconds=time.perf_counter() - start,
    )


def measure_on_cpu(cases: Sequence[Case], rounds: int, log: Callable[[str], None]) -> Iterable[Row]:
    """Compile all cases, measure them interleaved, and yield their rows."""
    params = init_params(cases[0].model, jax.random.key(0))
    compiled = []
    progress = Progress(len(cases), log, unit="programs")
    for case in cases:
        compiled.append(case.compile(jax.devices("cpu")[0]))
        progress.add()
    videos = [
        np.random.default_rng(0).integers(0, 256, case.clip_shape, np.uint8) for case in cases
    ]
    seconds: list[list[float]] = [[] for _ in cases]
    progress = Progress(rounds * len(cases), log, unit="measurements")
    for _, index in itertools.product(range(rounds), range(len(cases))):
        # A call after one of another size allocates the memory that the other one released.
        time_call(compiled[index], params, videos[index])
        seconds[index].append(time_call(compiled[index], params, videos[index]))
        progress.add()
    for case, program, times in zip(cases, compiled, seconds, strict=True):
        yield case.row(
            read_program(program),
            seconds=statistics.median(times),
            fastest=min(times),
            slowest=max(times),
        )


def time_call(compiled: jax.stages.Compiled, params: Any, video: np.ndarray) -> float:
    """Return the seconds of one call, without the transfer of the video."""
    on_device = jax.block_until_ready(jax.device_put(video))
    start = time.perf_counter()
    jax.block_until_ready(compiled(params, on_device))
    return time.perf_counter() - start


def cases_from_options(options: argparse.Namespace) -> list[Case]:
    """Return the cases that the command line selects, the shortest clips first.

    Raises:
      InputError: a length that is not whole windows, or more stages than the model has.
    """
    variant = VARIANTS[f"swin_{options.variant}"]
    depths = tuple(options.depths or variant.depths)
    if len(depths) > len(variant.depths):
        raise InputError(f"Expected --depths of at most four stages, but got {len(depths)}.")
    unit = SwinTransformer3D.window_size[0] * SwinTransformer3D.patch_size[0]
    invalid = [frames for frames in options.frames if frames < unit or frames % unit]
    if invalid:
        raise InputError(
            f"Expected --frames in multiples of {unit}, which are whole windows, "
            f"but got {invalid[0]}."
        )
    return [
        Case(
            platform=options.platform,
            variant=options.variant,
            depths=depths,
            size=options.size or (112 if options.platform == "cpu" else 224),
            clips=options.clips,
            program=program,
            frames=frames,
        )
        for frames in sorted(set(options.frames))
        for program in options.program
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", default="cpu", help="cpu, or a topology such as v5e:1x1")
    parser.add_argument("--variant", default="tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--depths", type=int, nargs="+", help="blocks per stage (the variant's)")
    parser.add_argument("--size", type=int, help="height and width (cpu: 112, others: 224)")
    parser.add_argument("--clips", type=int, default=1, help="batch size (%(default)s)")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=FRAMES, help="lengths of the clips"
    )
    parser.add_argument("--program", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each on a CPU")
    parser.add_argument(
        "--json", type=writable_file, metavar="PATH", help="file of results, also of earlier calls"
    )
    parser.add_argument("--plot", type=writable_file, metavar="PNG", help="file of the figure")
    parser.add_argument("--only-plot", action="store_true", help="measure nothing")
    return parser


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, saved: Sequence[Row]) -> list[Row]:
    """Measure the selected cases and return their rows merged with the saved ones.

    The file of --json is written after each program that is compiled for minutes.
    """
    cases = cases_from_options(options)
    if options.platform == "cpu":
        return merge_rows(saved, list(measure_on_cpu(cases, options.rounds, _log)))
    rows, progress = list(saved), Progress(len(cases), _log, unit="programs", interval=0)
    for case in cases:
        rows = merge_rows(rows, [compile_case(case)])
        write_json(options.json, rows)
        progress.add(note=f"{case.program} of {case.frames} frames compiled")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the file of --json, print the table and draw the figure of --plot."""
    options = _parser().parse_args(arguments)
    rows = read_json(options.json, default=[])
    try:
        rows = rows if options.only_plot else measure(options, rows)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(options.json, rows)
    curves = scaling_curves(rows)
    print(table(curves))
    if options.plot:
        save_figure(options.plot, curves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
