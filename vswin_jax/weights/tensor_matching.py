"""Matches the tensors of a checkpoint with a model's parameters, and refuses other models."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.load_report import LoadReport, LoadReportEntry

# The shapes of a model's parameters: canonical names, PyTorch's axis order.
Shapes = Mapping[str, tuple[int, ...]]

HEAD = ("head.weight", "head.bias")
# An unexpected tensor with one of these prefixes shows that the checkpoint is of another model.
_SWIN_PREFIXES = ("patch_embed.", "layers.", "norm.", "absolute_pos_embed")


def match_tensors(
    state: Mapping[str, np.ndarray],
    shapes: Shapes,
    *,
    source_names: Mapping[str, tuple[str, ...]],
    changes: Mapping[str, str],
    allow_fresh: Sequence[str],
    dropped: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[LoadReportEntry]:
    """Yield an entry for each parameter of the model, then one for each unexpected tensor.

    Args:
      state: the checkpoint's tensors after inflation or resizing, by canonical name.
      shapes: the shapes of the model's parameters.
      source_names: the names in the file of each canonical name.
      changes: a description of the change for each changed tensor.
      allow_fresh: name prefixes of parameters that may stay random if no tensor fits.
      dropped: the reason for each tensor of the file that was left out on purpose.
    """
    fresh = _fresh_names(state, shapes, allow_fresh)
    for name, shape in shapes.items():
        value, names = state.get(name), source_names.get(name, ())
        if name in fresh:
            reason = dropped.get(name) or _fresh_reason(name, value, shape)
            yield LoadReportEntry(name, "fresh", names, reason)
        elif value is None or value.shape != shape:
            found = "not in the file" if value is None else f"of shape {value.shape}"
            yield LoadReportEntry(name, "missing", names, f"{found}, expected {shape}")
        else:
            how = _describe_change(value, len(names), changes.get(name))
            yield LoadReportEntry(name, "transformed" if how else "matched", names, how)
    for name in (name for name in state if name not in shapes):
        yield LoadReportEntry(name, "unexpected", source_names.get(name, ()))


def _fresh_reason(name: str, value: np.ndarray | None, shape: tuple[int, ...]) -> str:
    if name not in HEAD:
        return "random, " + ("not in the file" if value is None else f"of shape {value.shape}")
    found = "none" if value is None or not value.ndim else f"one of {len(value)}"
    return f"fresh, the file has no head of {shape[0]} classes but {found}"


def _describe_change(value: np.ndarray, num_sources: int, change: str | None) -> str:
    steps = [f"{num_sources} tensors joined"] if num_sources > 1 else []
    steps += [change] if change is not None else []
    steps += [f"{value.dtype} to float32"] if value.dtype != np.float32 else []
    return ", then ".join(steps)


def check_same_model(
    report: LoadReport, state: Mapping[str, np.ndarray], shapes: Shapes, description: str
) -> None:
    """Refuse a checkpoint of another model; `description` names the checkpoint's model.

    Raises:
      InputError: names the most telling difference.
    """
    missing = report.named("missing")
    if missing and set(missing) <= set(HEAD):
        raise InputError(
            f"Expected trained weights but {report.source} has no head of "
            f"{shapes[HEAD[0]][0]} classes (it is {description}): train it first, or correct the "
            f"class count."
        )
    # Tensors beside the model are in the report by their own names, but not in `state`.
    extra = [name for name in state if name not in shapes and name.startswith(_SWIN_PREFIXES)]
    # A different shape is more informative than a missing or an unexpected tensor.
    names = sorted([*missing, *extra], key=lambda name: (name in extra, name not in state))
    if names:
        difference = _describe_difference(names[0], state, shapes)
        more = f", and {len(names) - 1} more differ" if len(names) > 1 else ""
        raise InputError(
            f"{report.source} is of another model ({description}): {difference}{more}; give the "
            f"model the settings that it was made with, or another checkpoint."
        )


def _describe_difference(name: str, state: Mapping[str, np.ndarray], shapes: Shapes) -> str:
    if name not in state:
        return f"it has no {name!r}, which this model has with shape {shapes[name]}"
    if name not in shapes:
        return f"it has {name!r} of shape {state[name].shape}, which this model does not have"
    return f"{name!r} has shape {state[name].shape} in it and {shapes[name]} in this model"


def check_dtypes(state: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse parameters whose dtype is not floating-point.

    Raises:
      InputError: names the first such parameter.
    """
    prefixes = (*_SWIN_PREFIXES, "head.")
    for name, value in state.items():
        if name.startswith(prefixes) and not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(
                f"Expected floating-point weights but {name!r} of {source} is {value.dtype}: give "
                f"the checkpoint as it was before it was converted."
            )


def _fresh_names(
    state: Mapping[str, np.ndarray], shapes: Shapes, allow_fresh: Sequence[str]
) -> set[str]:
    """Return the parameters that stay random: no tensor fits, and `allow_fresh` names them."""
    unfit = {n for n in shapes if np.shape(state.get(n)) != shapes[n] or n not in state}
    # Loaded weights with a random bias, or the reverse, would be a useless head.
    if unfit & set(HEAD):
        unfit |= shapes.keys() & set(HEAD)
    return {name for name in unfit if _has_prefix(name, allow_fresh)}


def _has_prefix(name: str, prefixes: Sequence[str]) -> bool:
    """Return True if whole components of the dotted `name` begin with one of the prefixes."""
    return any(f"{name}.".startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes)
