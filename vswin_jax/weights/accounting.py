"""Which tensor of a checkpoint goes where in a model, and which checkpoints are refused."""

from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.weights.load_report import Entry, Report

# Of a model's parameters: canonical names, PyTorch's axes.
Shapes = Mapping[str, tuple[int, ...]]

HEAD = ("head.weight", "head.bias")
# A tensor of these that the model has no place for says that the file is of another model.
_OURS = ("patch_embed.", "layers.", "norm.", "absolute_pos_embed")


def account(
    origins: Mapping[str, tuple[str, ...]],
    state: Mapping[str, np.ndarray],
    wanted: Shapes,
    allow_fresh: Sequence[str],
    how: Mapping[str, str],
) -> Iterator[Entry]:
    """An entry for each tensor of the model, then one for each that it has no place for.

    Args:
      origins: the names in the file of each canonical name.
      state: the file's tensors, canonical, as they would go into the model.
      wanted: the model's.
      allow_fresh: beginnings of names that may stay random where `state` has nothing that fits.
      how: what was done to those of `state` that are not as in the file.
    """
    fresh = _fresh(state, wanted, allow_fresh)
    for name, shape in wanted.items():
        own, value = origins.get(name, ()), state.get(name)
        if name in fresh:
            yield Entry(name, "fresh", own, _why_fresh(name, value, shape))
        elif value is None or value.shape != shape:
            came = "not in the file" if value is None else f"of shape {value.shape}"
            yield Entry(name, "missing", own, f"{came}, expected {shape}")
        else:
            said = _how(name, value, len(own), how)
            yield Entry(name, "transformed" if said else "matched", own, said)
    for name in (name for name in state if name not in wanted):
        yield Entry(name, "unexpected", origins.get(name, ()))


def _why_fresh(name: str, value: np.ndarray | None, shape: tuple[int, ...]) -> str:
    if name not in HEAD:
        return "random, " + ("not in the file" if value is None else f"of shape {value.shape}")
    has = "none" if value is None or not value.ndim else f"one of {len(value)}"
    return f"fresh, the file has no head of {shape[0]} classes but {has}"


def _how(name: str, value: np.ndarray, parts: int, how: Mapping[str, str]) -> str:
    said = [f"{parts} tensors joined"] if parts > 1 else []
    said += [how[name]] if name in how else []
    said += [f"{value.dtype} to float32"] if value.dtype != np.float32 else []
    return ", then ".join(said)


def check(
    report: Report,
    state: Mapping[str, np.ndarray],
    wanted: Shapes,
    what: str,
) -> None:
    """Refuses a source that is not of this model.

    Raises:
      InputError: names the first difference.
    """
    missing = report.named("missing")
    if missing and set(missing) <= set(HEAD):
        raise InputError(
            f"Expected trained weights but {report.source} has no head of "
            f"{wanted[HEAD[0]][0]} classes (it is {what}): train it first, or correct the class "
            f"count."
        )
    extra = [name for name in report.named("unexpected") if name.startswith(_OURS)]
    # Another shape says more than a tensor that is missing or left over.
    differences = sorted([*missing, *extra], key=lambda name: (name in extra, name not in state))
    if differences:
        raise InputError(_of_another_model(report.source, differences, state, wanted, what))


def check_dtypes(state: Mapping[str, np.ndarray], source: str) -> None:
    """Refuses parameters that are no floating-point numbers.

    Raises:
      InputError: names the first.
    """
    for name, value in state.items():
        if name.startswith((*_OURS, "head.")) and not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(
                f"Expected floating-point weights but {name!r} of {source} is {value.dtype}: give "
                f"the checkpoint as it was before it was converted."
            )


def _of_another_model(
    source: str,
    names: Sequence[str],
    state: Mapping[str, np.ndarray],
    wanted: Shapes,
    what: str,
) -> str:
    first = names[0]
    if first not in state:
        difference = f"it has no {first!r}, which this model has with shape {wanted[first]}"
    elif first not in wanted:
        difference = f"it has {first!r} of shape {state[first].shape}, which this model has not"
    else:
        shapes = f"{state[first].shape} in it and {wanted[first]} in this model"
        difference = f"{first!r} has shape {shapes}"
    more = len(names) - 1
    return (
        f"{source} is of another model ({what}): {difference}"
        + (f", and {more} more differ" if more else "")
        + "; give the model the settings that it was made with, or another checkpoint."
    )


def _fresh(
    state: Mapping[str, np.ndarray],
    wanted: Shapes,
    allowed: Sequence[str],
) -> set[str]:
    """The tensors that stay random: allowed to, and without a value that fits."""
    unfit = {n for n in wanted if np.shape(state.get(n)) != wanted[n] or n not in state}
    # Half a head of the file's and half a random one would be neither.
    if unfit & set(HEAD):
        unfit |= wanted.keys() & set(HEAD)
    return {name for name in unfit if _begins(name, allowed)}


def _begins(name: str, beginnings: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{beginning.rstrip('.')}.") for beginning in beginnings)
