"""The dry run: its numbers, its table, its suggestions and its errors."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from cheap_programs import device_environment

from vswin_jax import main
from vswin_jax.analysis.compiled_program import CompiledProgram, MemoryStats
from vswin_jax.analysis.dry_run import (
    CompileResult,
    CompileTarget,
    compile_eval_step,
    compile_train_step,
)
from vswin_jax.analysis.dry_run.advice import advice
from vswin_jax.analysis.dry_run.programs import _parse_out_of_memory
from vswin_jax.analysis.dry_run.roofline import Roofline
from vswin_jax.analysis.dry_run.sizes import (
    block_inputs_bytes,
    bytes_per_device,
    format_bytes,
    format_seconds,
    format_si,
    layouts,
    logits_bytes,
)
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.config import flags
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import GIB, tpu

ROOT = Path(__file__).parents[3]
K400 = f"{ROOT / 'experiments' / 'k400.py'}"


def target_of(argument: str, *overrides: str) -> CompileTarget:
    loaded = flags.load(f"{K400}:{argument}")
    config = flags.override(loaded, [f"--config.{setting}" for setting in overrides])
    return CompileTarget.from_config(config, jax.devices()[:1])


SMALL = (
    "model.embed_dim=4",
    "model.depths=(1,)",
    "model.num_heads=(1,)",
    "data.num_frames=4",
    "data.resize=16",
    "data.size=16",
    "eval.resize=16",
)

# One block of a published recipe with its real clips, which is quick to trace.
LIGHT = ("model.depths=(1,)", "model.num_heads=(4,)")


@pytest.fixture(scope="module")
def small() -> CompileTarget:
    return target_of("runlocal", *SMALL, "train.grad_accum_steps=1")


@pytest.fixture(scope="module")
def training(small: CompileTarget) -> CompileResult:
    return compile_train_step(small)


@pytest.mark.long
def test_the_arguments_of_a_step_are_its_state_and_batch(
    small: CompileTarget, training: CompileResult
) -> None:
    assert training.program is not None
    # uint8 clips of 4x16x16, and a label, a mask and a flip of each.
    batch = 4 * (4 * 16 * 16 * 3 + 4 + 4 + 1)
    # The step writes the learning rate and the gradient norm, without reading the previous ones.
    read = bytes_per_device(small.state) - 2 * 4
    assert training.program.memory.arguments == read + batch
    # The state is donated: it is written where it was read.
    assert training.program.memory.aliased == read
    assert training.needed == training.program.memory.peak
    assert (training.available, training.fits) == (None, None)
    assert training.program.collectives == ()


@pytest.mark.long
def test_micro_batches_do_not_change_the_arithmetic() -> None:
    # Wide enough for matrix products to be most of the FLOPs.
    wide = (*SMALL, "model.embed_dim=64")
    whole, accumulated = (
        compile_train_step(target_of("runlocal", *wide, f"train.grad_accum_steps={parts}")).program
        for parts in (1, 4)
    )
    assert whole is not None
    assert accumulated is not None
    assert accumulated.flops == pytest.approx(whole.flops, rel=0.15)


def test_the_arguments_of_evaluation_are_parameters_and_all_views(small: CompileTarget) -> None:
    compile_result = compile_eval_step(small)
    views = small.config.eval.num_clips * small.config.eval.num_crops
    batch = small.config.eval.batch_size * (views * 4 * 16 * 16 * 3 + 4 + 1)
    assert compile_result.program is not None
    assert compile_result.program.memory.arguments == bytes_per_device(small.state.params) + batch
    # Probabilities float32 [B, 8] and losses [B]; moving_shapes has 8 classes.
    assert compile_result.program.memory.outputs == pytest.approx(4 * (4 * 8 + 4), abs=64)


def test_assumptions_are_listed(small: CompileTarget) -> None:
    open_ended = target_of("runlocal", *SMALL, "data.kind=files")
    assert open_ended.model.num_classes == 400
    assert "400 classes (config.model.num_classes is unset)" in open_ended.assumed[0]
    assert small.model.num_classes == 8
    assert [sentence for sentence in small.assumed if "classes" in sentence] == []


def test_sizes_computed_by_hand() -> None:
    base = target_of("variant=base", "model.depths=(2,1,1)", "model.num_heads=(4,8,16)")
    # 16 x 56 x 56 tokens of 128 channels in bfloat16; each stage has a quarter of the tokens and
    # twice the channels: half the bytes.
    first = 16 * 56 * 56 * 128 * 2
    assert block_inputs_bytes(base, 1) == first * (2 + 1 / 2 + 1 / 4)
    # 128 windows of 392 tokens and 4 heads, float32.
    assert logits_bytes(base, 2) == 2 * 128 * 4 * 392 * 392 * 4
    (whole,) = layouts(base.state.params)
    assert whole.total == whole.per_device == bytes_per_device(base.state.params)
    assert str(whole) == "replicated"
    assert whole.example == "layers_2/blocks_0/mlp/fc1/kernel [512x2048]"


def test_number_formatting() -> None:
    assert format_bytes(15.75 * GIB) == "15.8 GiB"
    assert format_bytes(352 * 2**20) == "0.344 GiB"
    assert format_bytes(2**20) == "1 MiB"
    assert format_bytes(3000) == "2.93 KiB"
    assert format_si(740e9, "B") == "740 GB"
    assert format_si(17.4e12, "FLOP") == "17.4 TFLOP"
    assert [format_seconds(s) for s in (0.9, 2e-3, 5e-6, 4e-9)] == [
        "900 ms",
        "2 ms",
        "5 us",
        "4 ns",
    ]


def program(flops: float, memory_traffic: float) -> CompiledProgram:
    return CompiledProgram(1, (), MemoryStats(0, 0, 0, 0, 0), flops, 0.0, memory_traffic, {})


def test_the_roofline_of_a_memory_bound_step() -> None:
    # The Swin-B training step with 8 clips per v5e: 740 GB, 17.4 TFLOP.
    bound = Roofline.from_program(program(17.4e12, 740e9), tpu("v5e"))
    assert bound.seconds == pytest.approx(0.90, abs=0.01)
    assert bound.compute == pytest.approx(0.09, abs=0.005)
    assert bound.limit == "limited by memory traffic"


def compile_result(needed: float, available: float | None = 15.75) -> CompileResult:
    """Return a training step that needs so many GiB of those available."""
    limit = None if available is None else int(available * GIB)
    return CompileResult("training step", 1.0, None, int(needed * GIB), limit)


FITS = compile_result(1.0)


def suggestions(
    target: CompileTarget, training: CompileResult, evaluation: CompileResult = FITS
) -> str:
    return "\n".join(advice(target, training, evaluation))


def test_suggestions_for_a_step_that_does_not_fit() -> None:
    text = suggestions(
        target_of("variant=base", *LIGHT, "train.grad_accum_steps=1"), compile_result(300.0)
    )
    assert "needs 300 GiB per device, but a device has 15.8 GiB" in text
    assert "--config.model.remat=block" in text
    # 64 clips in 32 passes of 2 take 1/32 of 300 GiB; 16 passes would take too much.
    assert "--config.train.grad_accum_steps=32 makes micro-batches of 2 clips" in text
    assert text.index("remat") < text.index("grad_accum_steps")


def test_suggestions_for_a_single_clip_that_does_not_fit() -> None:
    settings = ("train.batch_size=1", "train.grad_accum_steps=1", "model.remat=block")
    text = suggestions(target_of("variant=base", *LIGHT, *settings), compile_result(20.0))
    assert "single clip at a time already: --config.mesh.window=2 splits" in text
    assert "grad_accum_steps" not in text
    assert "remat" not in text


def test_suggestion_for_stored_logits() -> None:
    settings = ("train.grad_accum_steps=1", "model.attention=xla", "train.batch_size=8")
    text = suggestions(target_of("variant=base", *LIGHT, *settings), compile_result(20.0))
    # 8 clips of 128 windows, 4 heads and 392 x 392 float32 logits.
    assert "logits of one block of the first stage are 2.34 GiB" in text


def test_suggestions_for_a_large_state() -> None:
    target = target_of("variant=large,pretrain=22k", *LIGHT, "train.ema_decay=0.999")
    sizes = {"data": 8, "fsdp": 1, "model": 1, "window": 1}
    wide = replace(target, mesh=jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes)))
    text = suggestions(wide, compile_result(0.02, available=0.01))
    assert "--config.mesh.fsdp=8 --config.mesh.data=1 shards" in text
    assert "--config.train.ema_decay=0 saves" in text


def test_suggestion_to_use_free_memory() -> None:
    target = target_of("variant=tiny", "model.depths=(1,)", "model.num_heads=(3,)")
    # Of four passes: two would take twice the memory, and one would take 20 GiB.
    assert "There is room: --config.train.grad_accum_steps=2" in suggestions(
        target, compile_result(5.0)
    )
    assert suggestions(target, compile_result(12.0)) == ""
    assert suggestions(target, compile_result(5.0, available=None)) == ""


def test_suggestions_for_an_evaluation_that_does_not_fit() -> None:
    target = target_of("variant=base", *LIGHT, "train.grad_accum_steps=1")
    assert "--config.eval.views_per_pass=1" in suggestions(target, FITS, compile_result(20.0))
    settings = ("train.grad_accum_steps=1", "eval.views_per_pass=1")
    one_view = target_of("variant=base", *LIGHT, *settings)
    assert "--config.eval.batch_size=1" in suggestions(one_view, FITS, compile_result(20.0))


def test_out_of_memory_messages_of_the_tpu_compiler_are_parsed() -> None:
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (18.22G) exceeds available HBM (15.75G). HLO module: jit."
    )
    needed, limit = _parse_out_of_memory(jax.errors.JaxRuntimeError(message))
    assert (needed, limit) == (int(18.22 * GIB), int(15.75 * GIB))
    older = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 25.30G of 15.75G hbm. "
        "Exceeded hbm capacity by 9.55G."
    )
    assert _parse_out_of_memory(jax.errors.JaxRuntimeError(older))[0] == int(25.3 * GIB)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        _parse_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: memory 1G 2G"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "Unknown TPU 'v9'"),
        ("v5e", "such as v5e:4x4.*v5e:16x16"),
        ("v5e:2x2x2", "2 axes and at most 256 chips.*known slices are v5e:1x1"),
        ("v4:2x2", "3 axes.*v4:2x2x4"),
        # The compiler would abort the whole process.
        ("v5e:16x32", "at most 256 chips"),
        ("h200", "from h200:1 to h200:8"),
        ("h100:9", "from h100:1 to h100:8"),
        ("t4:8", "no bfloat16.*nearest that has it is l4:1 to l4:8"),
        ("cpu", "TPUs are v2, v3, v4, v5e, v5p, v6e, tpu7x, and the GPUs.*a100.*h200, b200"),
        ("h20", "h100:1 to h100:8, h200:1 to h200:8"),
    ],
)
def test_unknown_topologies_list_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        topology_devices(name)


def test_the_error_without_a_compiler_explains_the_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "jax\[tpu\]"'):
        topology_devices("v5e:2x2")
    with pytest.raises(InputError, match=r'pip install "jax\[cuda13\]"'):
        topology_devices("h200:8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology=v5e:2x2", "--workdir=w"), "--mode=dry_run"),
        (("--mode=dry_run", "--config.mesh.fsdp=3"), "make the product equal"),
        (("--mode=dry_run", "--topology=v5e:2"), "known slices"),
    ],
)
def test_command_line_errors(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([f"--config={K400}:runlocal", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_eight_devices_on_the_command_line(tiny_arguments: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**device_environment(8), "PYTHONPATH": str(ROOT)}
    settings = (
        "--config.mesh.data=2",
        "--config.mesh.fsdp=4",
        "--config.train.batch_size=16",
        # Of the two clips of a device: the dry run chooses 2.
        "--config.train.grad_accum_steps=3",
        "--config.data.kind=files",
        "--config.model.attention=chunked",
    )
    result = subprocess.run(
        [sys.executable, "-m", "vswin_jax.main", *tiny_arguments, "--mode=dry_run", *settings],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "devices 8 x cpu" in lines
    assert "mesh data 2 x fsdp 4 x model 1 x window 1" in lines
    assert "batch 16 clips of 4x16x16, micro-batches of 1 per device, 2 per step" in lines
    choice = "--config.train.grad_accum_steps=2, since 3 does not divide the 2 clips of a device"
    assert f"chosen {choice}" in lines
    assert any(line.startswith("estimate of the whole run none, since the peaks") for line in lines)
    assert "assumed there are 400 classes (config.model.num_classes is unset)" in lines
    # The head and two kernels of the only block are sharded; the largest has [4, 400] floats.
    assert any("over fsdp" in line and "head/kernel [4x400]" in line for line in lines)
    assert any(line.startswith("all-gather") for line in lines)
    assert "memory" in {line.split(" ")[0] for line in lines if line}
    assert "compiling the training step for 8 devices" in result.stderr
    assert list(tmp_path.iterdir()) == []


CHUNKED = """
import json, jax, jax.numpy as jnp, numpy as np
from vswin_jax.attention import WindowGeometry, window_attention
from vswin_jax.analysis.compiled_program import read_program
from vswin_jax.sharding.constraints import use_activation_mesh
from vswin_jax.sharding.mesh import batch_sharding, make_mesh

mesh = make_mesh()
geometry = WindowGeometry.create((4, 8, 8), (2, 4, 4), (1, 2, 2))
ids = geometry.segment_ids
key = jax.random.key(0)
qkv = jax.random.normal(key, (8, *ids.shape, 3, 2, 4))
bias = jax.random.normal(key, (2, 32, 32))
weights = jax.random.normal(key, (8, *ids.shape, 2, 4))

def loss_and_gradients(name):
    def loss(qkv, bias):
        with use_activation_mesh(mesh):
            return (window_attention(qkv, bias, ids, implementation=name) * weights).sum()
    return jax.jit(jax.value_and_grad(loss, (0, 1)))

placed = jax.device_put(qkv, batch_sharding(mesh)), bias
program = read_program(loss_and_gradients("chunked").lower(*placed).compile())
one, other = (jax.tree.leaves(loss_and_gradients(name)(*placed)) for name in ("chunked", "xla"))
print(json.dumps({
    "kinds": sorted(program.by_kind()),
    "largest": max(max(a.size for a in found.operands) for found in program.collectives),
    "error": max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(one, other)),
}))
"""


@pytest.mark.long
def test_chunked_attention_moves_no_clips_between_devices() -> None:
    environment = device_environment(8)
    done = subprocess.run(
        [sys.executable, "-c", CHUNKED], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    # Only the loss and the gradient of the bias are summed over the devices.
    assert found["kinds"] == ["all-reduce"]
    assert found["largest"] <= 2 * 32 * 32
    assert found["error"] < 1e-5
