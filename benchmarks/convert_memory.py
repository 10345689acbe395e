"""Time and memory of converting the weights of a Swin-B.

    python benchmarks/convert_memory.py [--variant swin_base] [--to orbax] [--json out.json]

The script writes a zip file in the format of `torch.save`, with random weights in the original
layout; torch is not needed. Memory is the peak of the converting process (`ru_maxrss`, which
includes mapped pages of the file) minus the peak after the imports, divided by the file's size.
"""

import argparse
import json
import math
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vswin_jax.runtime.script_parser import writable_file

ROOT = Path(__file__).parents[1]


def shapes_of(variant: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a Video Swin of 400 classes in the original layout."""
    import jax
    import numpy as np

    from vswin_jax.models import create_model, init_params
    from vswin_jax.weights import from_canonical, to_state_dict

    model = create_model(variant, 400)
    tree = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    tree = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)
    state = from_canonical(to_state_dict(tree), "original")
    return {name: value.shape for name, value in state.items()}


def write_torch_zip(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write random float32 tensors as `torch.save({"state_dict": ...})` does."""
    import numpy as np

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_entry("archive/data.pkl", archive), _pickle(shapes))
        archive.writestr(_entry("archive/byteorder", archive), b"little")
        for key, shape in enumerate(shapes.values()):
            values = rng.standard_normal(math.prod(shape), np.float32) * np.float32(0.02)
            archive.writestr(_entry(f"archive/data/{key}", archive), values.tobytes())
        archive.writestr(_entry("archive/version", archive), b"3\n")


def _entry(name: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Return the header of a file whose content starts at a multiple of 64 bytes, as PyTorch's."""
    info = zipfile.ZipInfo(name)
    padding = -(archive.start_dir + 30 + len(name) + 4) % 64
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return info


def _pickle(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    items = b"".join(
        _text(name) + _tensor(str(key), shape) for key, (name, shape) in enumerate(shapes.items())
    )
    # Protocol 2: an empty dict, and the items between a mark and SETITEMS.
    return b"\x80\x02}" + _text("state_dict") + b"}(" + items + b"us."


def _tensor(key: str, shape: tuple[int, ...]) -> bytes:
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    storage = b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + _ints([math.prod(shape)])
    arguments = [
        b"(" + _text("storage") + storage + b"tQ",
        _ints([0]),
        b"(" + _ints(shape) + b"t",
        b"(" + _ints(strides) + b"t",
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    ]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(arguments) + b"tR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _ints(numbers: Sequence[int]) -> bytes:
    return b"".join(b"J" + struct.pack("<i", number) for number in numbers)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(source: Path, destination: Path, kind: str) -> dict[str, float]:
    """Convert in this process, whose peak memory must not include any other work."""
    from vswin_jax.weights.convert import convert

    before, start = _peak_bytes(), time.perf_counter()
    convert(source, destination, to=kind)
    seconds, size = time.perf_counter() - start, source.stat().st_size
    return {
        "seconds": round(seconds, 2),
        "file_mb": round(size / 1e6, 1),
        "idle_mb": round(before / 1e6, 1),
        "peak_mb": round(_peak_bytes() / 1e6, 1),
        "memory_over_file": round((_peak_bytes() - before) / size, 3),
    }


def _run(*arguments: object) -> str:
    """Run this script in a new process and return its output.

    The memory of this process must stay small: `ru_maxrss` of a child starts at its parent's.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": path}
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return result.stdout


def main(arguments: Sequence[str]) -> None:
    """Write the file, convert it, and print seconds and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", default="swin_base")
    parser.add_argument("--to", default="orbax")
    parser.add_argument("--json", type=writable_file)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--convert", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write:
        write_torch_zip(options.write, shapes_of(options.variant))
    elif options.convert:
        print(json.dumps(measure(*options.convert, options.to)))
    else:
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory) / "weights.pth"
            name = "out" if options.to == "orbax" else "out.safetensors"
            _run("--write", source, "--variant", options.variant)
            text = _run("--convert", source, Path(directory) / name, "--to", options.to)
        numbers = json.loads(text.splitlines()[-1])
        print("{seconds} s, {memory_over_file} times the file of {file_mb} MB".format(**numbers))
        if options.json:
            options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
