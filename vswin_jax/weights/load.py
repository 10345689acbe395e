"""Weights from a file or a checkpoint directory into a model, with an account of every tensor."""

import logging
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vswin_jax.attention import Size
from vswin_jax.attention.bias import table_rows
from vswin_jax.checkpoint import load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.models import SwinTransformer3D, init_params
from vswin_jax.weights.accounting import HEAD, Shapes, account, check, check_dtypes
from vswin_jax.weights.files.read import locate, read_state
from vswin_jax.weights.inflation.inflate import TABLE, Changed, inflate, is_2d
from vswin_jax.weights.inflation.resize import resize
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.classifier import known_names, select_classes
from vswin_jax.weights.layouts.describe import describe, index_tokens, window_of_rows
from vswin_jax.weights.layouts.names import Params, from_state_dict, to_name, to_path, to_state_dict
from vswin_jax.weights.load_report import Report

_log = logging.getLogger(__name__)

Source = str | os.PathLike[str]


def load_weights(source: Source, model: SwinTransformer3D, **options: object) -> dict[str, Params]:
    """Variables of `model` with the weights of `source`; see `load_with_report`.

    The report's summary goes to the log.
    """
    return load_with_report(source, model, **options)[0]


def load_with_report(
    source: Source,
    model: SwinTransformer3D,
    *,
    seed: int = 0,
    patches: str = "inflate",
    tables: str = "duplicate",
    allow_fresh: Sequence[str] = ("head",),
    from_window: Size | None = None,
    label_names: Sequence[str] | None = None,
    source_labels: Sequence[str] | None = None,
) -> tuple[dict[str, Params], Report]:
    """Variables of `model` with the weights of `source`, and where each tensor came from.

    Args:
      source: a file of torch, safetensors or npz with a 3D or 2D Swin in any layout of `layouts`; a
        checkpoint directory or workdir of ours; a released checkpoint's name; or a URL.
      model: the model to fill. What was made for other windows or patches is changed for the
        model's: a 2D Swin by `inflate`, a 3D one by `resize`.
      seed: of what stays random.
      patches: how a 2D patch kernel becomes 3D, "inflate" or "center".
      tables: how a 2D bias table becomes 3D, "duplicate" or "center".
      allow_fresh: what may stay random where the file has nothing that fits, as beginnings of
        canonical names: the head by default, which starts fresh when class counts differ.
      from_window: the source's own window, in tokens, where its tables can be of several.
      label_names: of the model's classes. The head takes those of the source's classes, by name.
      source_labels: of the source's classes; a checkpoint of ours knows its own, and a head of 400
        classes is taken for Kinetics-400's.

    Returns:
      `{"params": ...}`, float32 arrays of their own, and the report.

    Raises:
      InputError: nothing readable; or a tensor is missing, has another shape, or belongs to a Swin
        that this model is not.
    """
    given = _read(source)
    check_dtypes(given.state, os.fspath(source))
    state, how = _fitted(given, model, patches, tables, from_window)
    if label_names is not None:
        names = source_labels or given.label_names
        state, how = _with_classes(state, how, names, label_names, model)
    wanted = _shapes(model)
    entries = account(given.origins, state, wanted, allow_fresh, how)
    report = Report(os.fspath(source), given.layout, tuple(entries))
    check(report, state, wanted, given.what)
    fresh = set(report.named("fresh"))
    state = {name: state[name] for name in wanted if name not in fresh}
    # The last references to what the file holds that no parameter needs.
    given.state.clear()
    params = _own(state) | _random(model, seed, fresh)
    level = logging.WARNING if fresh or report.count("unexpected") else logging.INFO
    _log.log(level, report.summary())
    return {"params": unflatten_dict(params, sep="/")}, report


@dataclass(frozen=True)
class _Given:
    """What a source holds, under canonical names; `origins` are the names it has for them."""

    state: dict[str, np.ndarray]
    origins: Mapping[str, tuple[str, ...]]
    layout: str
    index_tokens: int | None = None
    window: Size | None = None
    label_names: Sequence[str] | None = None

    @property
    def what(self) -> str:
        """What model it is of, as far as its shapes say."""
        try:
            found = describe(self.state, index_tokens=self.index_tokens, window_size=self.window)
        except InputError:
            return f"in layout {self.layout}"
        variant = found.variant or f"a Swin of {found.embed_dim} channels, depths {found.depths}"
        return f"{variant} with windows {found.window}, {found.num_classes} classes"


def _read(source: Source) -> _Given:
    path = locate(source)
    if path.is_dir():
        params, metadata = load_for_inference(path)
        state = to_state_dict(params)
        origins = {name: (to_path(name, value.ndim),) for name, value in state.items()}
        window = metadata.get("config", {}).get("model", {}).get("window_size")
        return _Given(
            state,
            origins,
            "vswin_jax",
            window=tuple(window) if window else None,
            label_names=metadata.get("label_names"),
        )
    raw = read_state(path)
    layout = layouts.detect(raw)
    state, origins = layouts.to_canonical(raw, layout), layouts.sources(raw, layout)
    return _Given(state, origins, layout, index_tokens(raw))


def _fitted(
    given: _Given, model: SwinTransformer3D, patches: str, tables: str, from_window: Size | None
) -> Changed:
    """The state for the model's patches and windows."""
    sizes = (model.patch_size, model.window_size)
    if is_2d(given.state):
        return inflate(given.state, *sizes, patches=patches, tables=tables)
    window = from_window or _window_of(given, model.window_size)
    return resize(given.state, *sizes, from_window=window)


def _window_of(given: _Given, expected: Size) -> Size:
    """The window of a 3D state: the expected one where its tables are those of it."""
    if given.window is not None:
        return given.window
    rows = {value.shape[:1] for name, value in given.state.items() if name.endswith(TABLE)}
    if rows == {(table_rows(expected),)} and given.index_tokens in (None, math.prod(expected)):
        return expected
    try:
        return window_of_rows(*max(rows, default=(0,)), given.index_tokens)
    except InputError as error:
        raise InputError(f"{error} Of a checkpoint it is from_window.") from None


def _with_classes(
    state: Mapping[str, np.ndarray],
    how: Mapping[str, str],
    old: Sequence[str] | None,
    new: Sequence[str],
    model: SwinTransformer3D,
) -> Changed:
    """The state with the head's rows for the classes called `new`."""
    if len(new) != model.num_classes:
        raise InputError(
            f"Expected a name for each of the model's {model.num_classes} classes but {len(new)} "
            f"came: give the label file of this model, or set num_classes to {len(new)}."
        )
    if any(name not in state for name in HEAD):
        return dict(state), dict(how)
    head = [state[name] for name in HEAD]
    old = old or known_names(head[1].size)
    if old is None:
        raise InputError(
            f"Expected the names of the checkpoint's {head[1].size} classes, to find the chosen "
            f"ones by name, but it does not say them: give them as source_labels."
        )
    if list(old) == list(new):
        return dict(state), dict(how)
    chosen = dict(zip(HEAD, select_classes(*head, old, new), strict=True))
    said = f"{len(new)} of {len(old)} classes, chosen by name"
    return {**state, **chosen}, {**how, **dict.fromkeys(HEAD, said)}


def _shapes(model: SwinTransformer3D) -> Shapes:
    """The model's parameters as a checkpoint has them: canonical names, PyTorch's axes."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    state = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), shapes))
    return {name: value.shape for name, value in state.items()}


def _own(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our paths and axes in float32; `state` is emptied on the way, so nothing is held twice."""
    params = {}
    for name in list(state):
        for path, view in flatten_dict(from_state_dict({name: state.pop(name)}), sep="/").items():
            params[path] = np.array(view, np.float32, order="C")
            _forget_pages(view)
    return params


def _forget_pages(view: np.ndarray) -> None:
    """Gives back the memory of a mapped file; what is looked at again is read again."""
    base: object = view
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def _random(model: SwinTransformer3D, seed: int, names: set[str]) -> dict[str, np.ndarray]:
    """The initial values of the parameters with these canonical names, by path."""
    if not names:
        return {}

    # Compiled as one, so that what is not asked for is not computed.
    @jax.jit
    def chosen(key: jax.Array) -> dict[str, jax.Array]:
        params = flatten_dict(init_params(model, key), sep="/")
        return {path: value for path, value in params.items() if to_name(path) in names}

    return jax.tree.map(np.asarray, chosen(jax.random.key(seed)))
