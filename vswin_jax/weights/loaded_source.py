"""The tensors and metadata of a source of weights, before they are matched with a model."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vswin_jax.attention import Size
from vswin_jax.attention.bias import table_rows
from vswin_jax.checkpoint import load_for_inference
from vswin_jax.errors import InputError
from vswin_jax.weights.files.read import locate, read_weight_file
from vswin_jax.weights.inflation.inflate import TABLE
from vswin_jax.weights.layouts import layouts
from vswin_jax.weights.layouts.describe import count_window_tokens, describe, infer_window
from vswin_jax.weights.layouts.names import to_path, to_state_dict


@dataclass(frozen=True)
class LoadedSource:
    """The tensors of a source by canonical name, and its metadata.

    `source_names` has the names in the source for each canonical name. `left_out` has the names of
    tensors beside the model, and `notes` describe how it was found. `window_tokens` comes from
    index buffers. `window` and `label_names` come from a vswin_jax checkpoint.
    """

    source: str
    state: dict[str, np.ndarray]
    source_names: Mapping[str, tuple[str, ...]]
    layout: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    window_tokens: int | None = None
    window: Size | None = None
    label_names: Sequence[str] | None = None

    @property
    def description(self) -> str:
        """The model of the source, as far as the shapes of its tensors determine it."""
        try:
            found = describe(self.state, window_tokens=self.window_tokens, window_size=self.window)
        except InputError:
            return f"in layout {self.layout}"
        variant = found.variant or f"a Swin of {found.embed_dim} channels, depths {found.depths}"
        classes = f"{found.num_classes} classes{' of images' if found.is_2d else ''}"
        return f"{variant} with windows {found.window}, {classes}"


def read_source(source: str | os.PathLike[str], prefix: str | None = None) -> LoadedSource:
    """Read any source of `load_weights`; `prefix` chooses among several Swins in it.

    Raises:
      InputError: the source cannot be read.
    """
    path = locate(source)
    if path.is_dir():
        params, metadata = load_for_inference(path)
        state = to_state_dict(params)
        window = metadata.get("config", {}).get("model", {}).get("window_size")
        return LoadedSource(
            source=os.fspath(source),
            state=state,
            source_names={name: (to_path(name, value.ndim),) for name, value in state.items()},
            layout="vswin_jax",
            window=tuple(window) if window else None,
            label_names=metadata.get("label_names"),
        )
    found = read_weight_file(path, prefix)
    layout = layouts.detect_layout(found.tensors)
    names = layouts.source_names(found.tensors, layout)
    return LoadedSource(
        source=os.fspath(source),
        state=layouts.to_canonical(found.tensors, layout),
        source_names={
            name: tuple(found.file_names[own] for own in owns) for name, owns in names.items()
        },
        layout=layout,
        left_out=found.left_out,
        notes=found.notes,
        window_tokens=count_window_tokens(found.tensors),
    )


def find_window(loaded: LoadedSource, expected: Size) -> Size:
    """Return the window of a 3D source: the expected one if the tables fit it.

    Raises:
      InputError: none or several windows fit the tables.
    """
    if loaded.window is not None:
        return loaded.window
    tables = (value for name, value in loaded.state.items() if name.endswith(TABLE))
    rows = {value.shape[0] if value.ndim else 0 for value in tables}
    if rows == {table_rows(expected)} and loaded.window_tokens in (None, math.prod(expected)):
        return expected
    try:
        return infer_window(max(rows, default=0), loaded.window_tokens)
    except InputError as error:
        raise InputError(f"{error} The argument of load_weights is from_window.") from None
