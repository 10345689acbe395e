"""The house: rooms import from floors below only, and a floor keeps out what it can do without."""

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vswin_jax"

# From the ground up. Rooms of one floor do not import each other.
FLOORS = (
    ("errors",),
    ("runtime", "sharding"),
    ("checkpoint", "data", "kernels", "reporting"),
    ("attention", "config", "prepare"),
    ("models",),
    ("training", "weights"),
    ("factory", "preview"),
    ("analysis", "evaluation"),
    ("inference",),
    ("combine", "explain", "export", "features", "main", "predict", "serve", "timeline"),
)
TOP_FILES = (
    "__init__.py",
    "combine.py",
    "errors.py",
    "explain.py",
    "export.py",
    "factory.py",
    "features.py",
    "main.py",
    "predict.py",
    "serve.py",
    "timeline.py",
)

# What the packages that make up the model and its training may not import.
NEITHER = ("models", "attention", "kernels", "weights", "training")

# The libraries that only some may import, and where they may.
CONFINED = {
    "torch": ("inference/exports/onnx_file.py",),
    "torchvision": ("inference/exports/onnx_file.py",),
    "onnxruntime": ("inference/exports/onnx_file.py",),
    "tensorflow_datasets": (
        "data/sources/record_source.py",
        "data/sources/tfds_features.py",
        "data/sources/tfds_source.py",
        "prepare/records.py",
    ),
    "array_record": ("data/sources/record_files.py", "prepare/records.py"),
    "apache_beam": ("prepare/beam.py",),
    "tensorflow": ("data/pipeline/tensorflow_filler.py", "inference/exports/saved_model.py"),
    "clu": ("reporting/metric_writer.py",),
    "matplotlib": ("reporting/plots.py", "reporting/timeline_plot.py"),
    "starlette": (
        *(
            f"inference/serving/{name}.py"
            for name in ("error_responses", "receive_upload", "request_guard", "request_options")
        ),
        *(
            f"inference/serving/{name}.py"
            for name in ("request_runner", "server_thread", "web_app", "web_libraries")
        ),
    ),
    "uvicorn": ("inference/serving/server_thread.py", "inference/serving/web_libraries.py"),
    "python_multipart": (
        "inference/serving/multipart_video.py",
        "inference/serving/web_libraries.py",
    ),
    "pyarrow": (
        "inference/answers/answer_formats.py",
        "inference/feature_files/parquet_shards.py",
        "inference/parquet_library.py",
    ),
}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path, package: str) -> Iterator[str]:
    """Yield the dotted modules of `package` that a file imports, inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from vswin_jax import data` names a room too.
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == package)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imported_modules(path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports."""
    names = list(imports_of(path, "vswin_jax"))
    # `from package import module` needs the package's own file for the rest of its names alone.
    longer = {name.rpartition(".")[0] for name in names if name in files}
    yield from (name for name in names if name in files and name not in longer)


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


def test_the_top_holds_the_commands_and_packages_alone() -> None:
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == sorted(TOP_FILES)


def test_modules_import_without_a_cycle() -> None:
    """Within a package too; what a function imports when it is called counts as well."""
    files = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: set(imported_modules(path, files)) - {name} for name, path in files.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", NEITHER)
def test_the_model_and_its_training_import_neither_tensorflow_nor_torch(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for library in ("tensorflow", "tensorflow_datasets", "torch", "torchvision"):
            assert not list(imports_of(path, library)), f"{path} imports {library}"


def test_no_file_name_stands_twice() -> None:
    names = Counter(path.name for path in modules() if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_class_name_stands_twice() -> None:
    names = Counter(
        node.name
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_docstring_opens_with_a_question_word() -> None:
    words = {"What", "Which", "Whether", "How", "Where", "Who", "When", "Why"}
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    opened = [
        f"{path}: {docstring.splitlines()[0]}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node))
        if docstring.split()[0] in words
    ]
    assert opened == []


def test_functions_and_modules_are_short() -> None:
    """Count from the signature to the last line, docstrings included."""
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 7
    assert lengths[len(lengths) * 9 // 10] <= 20
    assert lengths[-1] <= 60
    assert max(path.read_text().count("\n") for path in PACKAGE.rglob("*.py")) <= 300


def test_the_trainer_imports_without_what_only_data_and_logging_need() -> None:
    program = """
import sys
for name in ("tensorflow", "tensorboard", "clu", "ml_collections", "torch", "av", "cv2"):
    sys.modules[name] = None
import vswin_jax
from vswin_jax import checkpoint, models, weights
from vswin_jax.evaluation import evaluate
from vswin_jax.sharding import mesh
from vswin_jax.training import optimizer, state, steps, train
vswin_jax.create_model("swin_tiny")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
