"""The house: rooms import from floors below only, and a floor keeps out what it can do without."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vswin_jax"

# From the ground up. Rooms of one floor do not import each other.
FLOORS = (
    ("errors", "file_lock", "hlo_text", "progress", "script_parser", "whole_file"),
    ("chips", "distributed", "full_disk", "layout", "worker_pool"),
    ("gpu_boxes", "kernel_memory", "spreading"),
    (
        *("attention", "compilation", "config", "config_rules", "data", "goodput"),
        *("hlo_cost", "offload", "profiling", "tokenwise", "watch", "watchdog"),
    ),
    (
        *("clip_sheet", "command_line", "compiled_program", "losses", "mesh", "metrics"),
        *("models", "plots", "prepare", "schedules", "signals", "topologies"),
    ),
    ("flops", "optim", "plan", "state", "task", "telemetry", "checkpoint", "evaluation"),
    ("steps", "weights"),
    ("training_setup", "evaluate"),
    ("train",),
    ("parts", "report", "shown_augmentations", "shown_clips"),
    ("dry_run",),
    ("main", "predict"),
)

# The libraries that only some may import, and where they may.
CONFINED = {
    "torch": (),
    "tensorflow_datasets": (
        "data/record_source.py",
        "data/tfds_features.py",
        "data/tfds_source.py",
        "prepare/records.py",
    ),
    "array_record": ("data/record_files.py", "prepare/records.py"),
    "apache_beam": ("prepare/beam.py",),
    "tensorflow": ("data/batches.py",),
    "clu": ("telemetry.py",),
    "matplotlib": ("plots.py",),
}


def imports_of(path: Path, package: str) -> Iterator[str]:
    """The dotted modules of `package` that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from vswin_jax import data` names a room too.
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == package)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    room = room_of(path)
    assert room in floor, f"{room} has no floor: give it one"
    for name in imports_of(path, "vswin_jax"):
        parts = name.split(".")
        if len(parts) > 1 and parts[1] != room and parts[1] in floor:
            assert floor[parts[1]] < floor[room], f"{room} imports {parts[1]}, not below it"


@pytest.mark.parametrize("library", CONFINED)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if any(True for _ in imports_of(path, library))
    }
    assert users == set(CONFINED[library])


def test_every_floor_of_the_test_has_its_room() -> None:
    assert {room for rooms in FLOORS for room in rooms} == {room_of(path) for path in modules()}


def test_the_trainer_imports_without_what_only_data_and_logging_need() -> None:
    program = """
import sys
for name in ("tensorflow", "tensorboard", "clu", "ml_collections", "torch", "av", "cv2"):
    sys.modules[name] = None
import vswin_jax
from vswin_jax import checkpoint, evaluate, mesh, models, optim, state, steps, train, weights
vswin_jax.create_model("swin_tiny")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
