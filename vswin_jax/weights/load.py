"""Loads weights from a file or a checkpoint directory into a model, and reports on each tensor."""

import logging
import mmap
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vswin_jax.attention import Size
from vswin_jax.errors import InputError, unknown_name
from vswin_jax.models import SwinTransformer3D, init_params
from vswin_jax.weights.inflation.inflate import ConvertedState, inflate, is_2d
from vswin_jax.weights.inflation.resize import resize
from vswin_jax.weights.layouts.classifier import known_class_names, select_classes
from vswin_jax.weights.layouts.names import Params, from_state_dict, to_name, to_state_dict
from vswin_jax.weights.load_report import LoadReport, LoadReportEntry
from vswin_jax.weights.loaded_source import LoadedSource, find_window, read_source
from vswin_jax.weights.own_attention import own_parameters, replaced_parameters
from vswin_jax.weights.tensor_matching import (
    HEAD,
    Shapes,
    check_dtypes,
    check_same_model,
    match_tensors,
)

_log = logging.getLogger(__name__)

IMAGE_HEADS = ("fresh", "keep")

Source = str | os.PathLike[str]


def load_weights(source: Source, model: SwinTransformer3D, **options: object) -> dict[str, Params]:
    """Return the variables of `model` with the weights of `source`.

    The options are those of `load_with_report`. The report's summary is logged.
    """
    return load_with_report(source, model, **options)[0]


def load_with_report(
    source: Source,
    model: SwinTransformer3D,
    *,
    seed: int = 0,
    patches: str = "inflate",
    tables: str = "duplicate",
    image_head: str = "fresh",
    allow_fresh: Sequence[str] = ("head",),
    from_window: Size | None = None,
    prefix: str | None = None,
    label_names: Sequence[str] | None = None,
    source_labels: Sequence[str] | None = None,
) -> tuple[dict[str, Params], LoadReport]:
    """Return `{"params": ...}` of `model` with the weights of `source`, and the load report.

    A source with other windows or patches is converted: a 2D Swin by `inflate`, a 3D one by
    `resize`. The parameters are float32 arrays in their own memory.

    Args:
      source: a PyTorch, safetensors or npz file with a 3D or 2D Swin in any of the `layouts`, a
        Hugging Face directory or the index of its shards, a checkpoint directory or workdir of
        vswin_jax, a released checkpoint's name, or a URL.
      model: the model to load the weights into.
      seed: the seed of parameters that stay random.
      patches: the method to inflate a 2D patch kernel, "inflate" or "center".
      tables: the method to inflate a 2D bias table, "duplicate" or "center".
      image_head: "fresh" leaves out the classifier of a 2D source, whose classes are those of
        images, as the reference does; "keep" loads it.
      allow_fresh: canonical name prefixes of parameters that may stay random if no tensor fits; by
        default the head, which then starts fresh if the class counts differ. Where some may,
        parameters that only a registered attention layer has may too.
      from_window: the source's window, in tokens, in case several fit its tables.
      prefix: components before the names of the Swin to take, if the source has several.
      label_names: the model's classes. The head gets the rows of these classes of the source.
      source_labels: the source's classes. By default they are those in the checkpoint's metadata,
        or those of Kinetics-400 for a head of 400 classes.

    Raises:
      InputError: the source cannot be read or is of another model.
    """
    loaded = read_source(source, prefix)
    check_dtypes(loaded.state, loaded.source)
    state, changes = _convert_sizes(loaded, model, patches, tables, from_window)
    dropped = _drop_head(state) if _is_image_head_fresh(loaded, image_head) else {}
    if label_names is not None:
        old_names = source_labels or loaded.label_names
        state, changes = _convert_head(state, changes, old_names, label_names, model)
    shapes = _parameter_shapes(model)
    replaced = replaced_parameters(model, state, shapes) if allow_fresh else ()
    allow_fresh = (*allow_fresh, *own_parameters(model, shapes)) if allow_fresh else ()
    report = _match(loaded, state, changes, shapes, allow_fresh, dropped, replaced)
    fresh = set(report.named("fresh"))
    used = {name: state[name] for name in shapes if name not in fresh}
    # `_copy_to_params` frees each array once it is copied, so no other reference may remain.
    loaded.state.clear()
    state.clear()
    params = _copy_to_params(used) | _initial_values(model, seed, fresh)
    _log.log(_log_level(report), report.summary())
    return {"params": unflatten_dict(params, sep="/")}, report


def _convert_sizes(
    loaded: LoadedSource,
    model: SwinTransformer3D,
    patches: str,
    tables: str,
    from_window: Size | None,
) -> ConvertedState:
    """Convert the source's tensors to the model's patches and windows."""
    sizes = (model.patch_size, model.window_size)
    if is_2d(loaded.state):
        return inflate(loaded.state, *sizes, patches=patches, tables=tables)
    window = from_window or find_window(loaded, model.window_size)
    return resize(loaded.state, *sizes, from_window=window)


def _is_image_head_fresh(loaded: LoadedSource, image_head: str) -> bool:
    if image_head not in IMAGE_HEADS:
        raise unknown_name("treatment of an image model's head", image_head, IMAGE_HEADS)
    return image_head == "fresh" and is_2d(loaded.state)


def _drop_head(state: dict[str, np.ndarray]) -> dict[str, str]:
    """Remove the classifier of an image model, and return the reason for each removed tensor."""
    shapes = {name: np.shape(state.pop(name)) for name in HEAD if name in state}
    reason = "fresh, the file has the classifier of an image model"
    return {name: f"{reason}, of {shape[0]} classes" for name, shape in shapes.items() if shape}


def _convert_head(
    state: Mapping[str, np.ndarray],
    changes: Mapping[str, str],
    old_names: Sequence[str] | None,
    new_names: Sequence[str],
    model: SwinTransformer3D,
) -> ConvertedState:
    """Select the head's rows of the classes `new_names`."""
    if len(new_names) != model.num_classes:
        raise InputError(
            f"Expected a name for each of the model's {model.num_classes} classes but "
            f"{len(new_names)} came: give the label file of this model, or set num_classes to "
            f"{len(new_names)}."
        )
    if any(name not in state for name in HEAD):
        return dict(state), dict(changes)
    head = [state[name] for name in HEAD]
    old_names = old_names or _default_class_names(head[1].size)
    if list(old_names) == list(new_names):
        return dict(state), dict(changes)
    selected = dict(zip(HEAD, select_classes(*head, old_names, new_names), strict=True))
    change = f"{len(new_names)} of {len(old_names)} classes, chosen by name"
    return {**state, **selected}, {**changes, **dict.fromkeys(HEAD, change)}


def _default_class_names(num_classes: int) -> Sequence[str]:
    names = known_class_names(num_classes)
    if names is None:
        raise InputError(
            f"Expected the names of the checkpoint's {num_classes} classes, to select classes by "
            f"name, but it has no names: give them as source_labels."
        )
    return names


def _match(
    loaded: LoadedSource,
    state: Mapping[str, np.ndarray],
    changes: Mapping[str, str],
    shapes: Shapes,
    allow_fresh: Sequence[str],
    dropped: Mapping[str, str],
    replaced: Sequence[str],
) -> LoadReport:
    """Return the load report, or raise InputError for a source of another model.

    Tensors that are `replaced` are listed as unexpected, and are no sign of another model.
    """
    entries = match_tensors(
        state,
        shapes,
        source_names=loaded.source_names,
        changes=changes,
        allow_fresh=allow_fresh,
        dropped=dropped,
    )
    left_out = (LoadReportEntry(name, "unexpected", (name,)) for name in loaded.left_out)
    report = LoadReport(loaded.source, loaded.layout, (*entries, *left_out), loaded.notes)
    of_model = {name: value for name, value in state.items() if name not in replaced}
    check_same_model(report, of_model, shapes, loaded.description)
    return report


def _log_level(report: LoadReport) -> int:
    is_partial = report.count("fresh") or report.count("unexpected")
    return logging.WARNING if is_partial else logging.INFO


def _parameter_shapes(model: SwinTransformer3D) -> Shapes:
    """Return the shapes of the model's parameters: canonical names, PyTorch's axis order."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    state = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), shapes))
    return {name: value.shape for name, value in state.items()}


def _copy_to_params(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copy tensors to float32 arrays with Flax paths and axes.

    `state` is emptied while this runs, so no tensor is in memory twice.
    """
    params = {}
    for name in list(state):
        for path, view in flatten_dict(from_state_dict({name: state.pop(name)}), sep="/").items():
            params[path] = np.array(view, np.float32, order="C")
            _release_pages(view)
    return params


def _release_pages(view: np.ndarray) -> None:
    """Release the memory of the mapped file behind a view; a later access reads the file again."""
    base: object = view
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def _initial_values(model: SwinTransformer3D, seed: int, names: set[str]) -> dict[str, np.ndarray]:
    """Return the random initial values of the parameters with these canonical names, by path."""
    if not names:
        return {}

    # In one jit, XLA omits the parameters that are not returned.
    @jax.jit
    def initialize(key: jax.Array) -> dict[str, jax.Array]:
        params = flatten_dict(init_params(model, key), sep="/")
        return {path: value for path, value in params.items() if to_name(path) in names}

    return jax.tree.map(np.asarray, initialize(jax.random.key(seed)))
