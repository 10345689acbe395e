"""Names of TPU slices and GPU machines: those of the compilers, of Cloud TPU, of GKE, of consoles.

The names that everything else here uses are `v5e:4x4`, a TPU and its slice in chips, and `h100:8`,
a GPU and its number in one machine.
"""

import difflib
import math
import re
from dataclasses import dataclass
from typing import NoReturn

from vswin_jax.analysis.cloud_machines import accelerator_of_machine
from vswin_jax.analysis.gpu_targets import GPU_TARGETS
from vswin_jax.errors import InputError
from vswin_jax.runtime.hardware import TPUS, ChipSpec, tpu

MAX_GPUS = 8
CHIPS_PER_HOST = 4

# The slices of Cloud TPU (docs.cloud.google.com/tpu/docs: v4, v5e, v5p, v6e, tpu7x), the smallest
# first; other slices that the compiler supports can be used as well.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_LARGE = ("8x16x16", "16x16x16")
KNOWN = {
    name: _FLAT if chip.torus_axes == 2 else _SOLID + _LARGE for name, chip in TPUS.items()
} | {
    "v2": ("2x2", "4x4", "8x8", "8x16", "16x16"),
    "v3": ("2x2", "4x4", "8x8", "16x16", "16x32", "32x32"),
}

_TPU_NAMES = {
    **{name: name for name in TPUS},
    **dict.fromkeys(("v5litepod", "v5lite", "v5-lite", "v5e-litepod", "5e"), "v5e"),
    **dict.fromkeys(("v6lite", "v6-lite", "trillium", "6e"), "v6e"),
    **dict.fromkeys(("v5", "5p"), "v5p"),
    **dict.fromkeys(("v7x", "v7", "7x", "ironwood"), "tpu7x"),
}
# The longest first, so that `v5` does not match in `v5e`.
_ANY_TPU = "|".join(sorted(map(re.escape, _TPU_NAMES), key=len, reverse=True))
_TPU = re.compile(
    rf"(?:cloud-)?(?:tpu-?)?(?:vm-?)?({_ANY_TPU})"
    r"(?:-?(?:podslice|slice|device|pod))?(?:[:=/,-](\d{1,6}(?:x\d{1,6})*))?(?:-tpu)?"
)
# GPUs by their short names, also as 8xh100 and h100x8; `v100` and others lack bfloat16.
_GPU = re.compile(
    r"(?<![a-wyz0-9])(?P<model>g?b[23]00|h[12]00|a100|l40s|l4|a10g|a10|"
    r"(?:rtx-?)?a6000|rtx-?pro-?6000|(?:rtx-?)?[45]090|v100|p100|p4|k80|t4)(?=x\d|[^a-z0-9]|$)"
)
# To the nearest that have it.
_WITHOUT_BFLOAT16 = {"v100": "a100", "p100": "a100", "k80": "a100", "t4": "l4", "p4": "l4"}
_QUALIFIERS = re.compile(
    r"nvidia|tesla|geforce|gres|gpus?|mega|blackwell|(?:server|workstation)-edition|"
    r"(?<![a-z0-9])(?:\d+gb|sxm\d?|hbm\d?e?|pcie|rtx)(?![a-z0-9])"
)
_PREFIX = re.compile(r"cloud\.google\.com/gke-(?:tpu-)?(?:topology|accelerator)[=:-]*")


@dataclass(frozen=True)
class TpuSlice:
    """A slice of `sizes` chips along each axis of its torus."""

    chip: ChipSpec
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.sizes))}"


@dataclass(frozen=True)
class GpuMachine:
    """`count` GPUs of one machine; `gpu` is a key of `GPU_TARGETS`."""

    gpu: str
    count: int

    def __str__(self) -> str:
        return f"{self.gpu}:{self.count}"


def parse_topology(name: str) -> TpuSlice | GpuMachine:
    """Return the slice or the machine of any of its names: v5e-16, a100:4, a3-highgpu-8g, ...

    Raises:
      InputError: The name has no size, or is unknown; the message names the nearest.
    """
    text = re.sub(r"([:=])\s+", r"\1", name.strip().lower())
    text = _PREFIX.sub("", re.sub(r"[\s_]+", "-", text))
    machine = accelerator_of_machine(text)
    found = _TPU.fullmatch(machine or text)
    if found:
        chip = TPUS[_TPU_NAMES[found[1]]]
        return _slice(chip, found[2], name, in_chips=machine is not None)
    return _gpu_machine(machine or text, name) or _refuse(machine or text, name)


def _slice(chip: ChipSpec, size: str | None, name: str, *, in_chips: bool) -> TpuSlice:
    if size is None:
        raise InputError(
            f"Expected the size of the {chip.name} slice too, such as "
            f"{chip.name}:{KNOWN[chip.name][3]}, but got {name!r}. {_known(chip)}"
        )
    if "x" not in size:
        return _slice_of_number(chip, int(size), name, in_chips=in_chips)
    sizes = tuple(map(int, size.split("x")))
    chips = math.prod(sizes)
    if len(sizes) != chip.torus_axes or not 1 <= chips <= chip.max_slice_chips:
        raise InputError(
            f"Expected a {chip.name} slice of {chip.torus_axes} axes and at most "
            f"{chip.max_slice_chips} chips, but got {name!r}. {_known(chip)}"
        )
    if chips >= CHIPS_PER_HOST and (sizes[0] % 2 or sizes[1] % 2):
        raise InputError(
            f"Expected a {chip.name} slice of whole hosts, 2 x 2 chips each, but got {name!r}. "
            f"{_known(chip)}"
        )
    return TpuSlice(chip, sizes)


def _slice_of_number(chip: ChipSpec, number: int, name: str, *, in_chips: bool) -> TpuSlice:
    """Return the slice of `number` TensorCores or chips, as Cloud TPU counts those of `chip`."""
    cores = 2 if chip.counts_cores and not in_chips else 1
    chips = {math.prod(sizes): sizes for sizes in map(_sizes, KNOWN[chip.name])}
    if number % cores or number // cores not in chips:
        unit = "TensorCores, two a chip" if cores == 2 else "chips"
        near = sorted(chips, key=lambda count: abs(math.log(max(number, 1) / cores / count)))[:2]
        nearest = " and ".join(
            f"{chip.name}-{count * cores} ({TpuSlice(chip, chips[count])})"
            for count in sorted(near)
        )
        raise InputError(
            f"There is no {chip.name} slice of {number} {unit}, as {name!r} has it: the nearest "
            f"are {nearest}. {_known(chip)}"
        )
    return TpuSlice(chip, chips[number // cores])


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def _gpu_machine(text: str, name: str) -> GpuMachine | None:
    found = _GPU.search(text)
    if found is None or found["model"] in _WITHOUT_BFLOAT16:
        return None
    gpu = _gpu_name(found["model"], text)
    rest = _QUALIFIERS.sub("", text[: found.start()] + "-" + text[found.end() :])
    # A hyphen after a colon is a minus.
    count = re.fullmatch(r"[-:=x*]*(?<![:=]-)(\d{0,6})[-:=x*]*", rest)
    if count is None:
        return None
    if not count[1] or not 1 <= int(count[1]) <= MAX_GPUS:
        raise InputError(f"Expected {gpu}:GPUS, {_range(gpu)}, but got {name!r}.")
    return GpuMachine(gpu, int(count[1]))


def _gpu_name(model: str, text: str) -> str:
    """Return the key of `GPU_TARGETS` of a model; its memory and its form may be elsewhere."""
    compact = {name.replace("-", "").removeprefix("rtx"): name for name in GPU_TARGETS}
    gpu = compact[model.replace("-", "").removeprefix("rtx")]
    if gpu == "a100" and "80gb" in text:
        return "a100-80gb"
    return "h100-pcie" if gpu == "h100" and "pcie" in text else gpu


def _refuse(text: str, name: str) -> NoReturn:
    """Raise the error for a name that is neither a slice nor a machine."""
    if re.fullmatch(r"\d+(?:x\d+)+", text):
        slices = [f"{chip}:{text}" for chip in reversed(KNOWN) if text in KNOWN[chip]]
        raise InputError(
            f"Expected a TPU before the sizes of its slice, such as "
            f"{' or '.join(slices) or 'v5e:4x4'}, but got {name!r}."
        )
    unknown_tpu = re.fullmatch(r"(?:tpu-?)?(v\d\w{0,2})(?:[:-][\dx]+)?", text)
    if unknown_tpu and not _GPU.search(text):
        tpu(unknown_tpu[1])
    raise InputError(
        f"Expected --topology CHIP:SIZES, such as v5e:4x4, or GPU:COUNT, such as h100:8, but got "
        f"{name!r}{_nearest(text)}."
    )


def _nearest(text: str) -> str:
    found = _GPU.search(text)
    if found and found["model"] in _WITHOUT_BFLOAT16:
        other = _WITHOUT_BFLOAT16[found["model"]]
        return f" (no bfloat16): the nearest that has it is {_from_to(other)}"
    near = difflib.get_close_matches(text.partition(":")[0], GPU_TARGETS, n=3, cutoff=0.5)
    if near:
        return f": the nearest are {', '.join(map(_from_to, sorted(near)))}"
    return (
        f": the TPUs are {', '.join(TPUS)}, and the GPUs, up to {MAX_GPUS} of them, "
        f"{', '.join(GPU_TARGETS)}"
    )


def _from_to(gpu: str) -> str:
    return f"{gpu}:1 to {gpu}:{MAX_GPUS}"


def _range(gpu: str) -> str:
    return f"from {_from_to(gpu)}"


def _known(chip: ChipSpec) -> str:
    return f"The known slices are {', '.join(f'{chip.name}:{size}' for size in KNOWN[chip.name])}."
